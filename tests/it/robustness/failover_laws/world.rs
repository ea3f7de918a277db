//! Two replicas and a primary between them, without processes.

use std::{
    collections::{HashMap, HashSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use jobtrack::{
    clock::Clock,
    domain::{ANYONE, Change, Job, JobError, NewJob, Progress, Report, Retention, Timestamp},
    store::{
        FallbackPolicy, FallbackStore, JobStore, LocalCache, PartitionState, Partitioning, Presence, ReconcileOutcome,
        StorageMode,
    },
    tracker::{CreateOutcome, Tracker},
    watch::Hub,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::primary::{Link, Reads, Record};
use crate::support::jobs::{failure, id, plain, success};

/// A clock that advances with each read.
pub struct StepClock(AtomicI64);

impl Default for StepClock {
    fn default() -> Self {
        Self(1_700_000_000_000_000.into())
    }
}

impl Clock for StepClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.0.fetch_add(1, Relaxed))
    }
}

impl StepClock {
    pub fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_micros().try_into().expect("not so long"), Relaxed);
    }
}

/// The jobs that are changed.
pub const NAMES: [&str; 3] = ["a", "b", "c"];

pub struct Replica {
    pub link: Arc<Link>,
    pub store: Arc<FallbackStore>,
    pub tracker: Tracker,
}

impl Replica {
    pub fn new(record: &Record, clock: &Arc<StepClock>, active: Duration) -> Self {
        let mode = watch::Sender::new(StorageMode::Redis);
        let hub = Arc::new(Hub::default());
        let presence = Arc::new(Presence::new(1));
        let held = Arc::new(LocalCache::new(1000, hub.clone(), clock.clone(), Partitioning::SINGLE, presence.clone()));
        let (up, loses_answer) = (true.into(), false.into());
        let states = watch::Sender::new(vec![PartitionState::Serving]);
        let (record, reads, record_lineage) = (record.clone(), Reads::default(), record.lineage());
        let (run, hides) = (AtomicU64::new(1), false.into());
        let (unanswered, beats) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let link = Arc::new(Link {
            record,
            up,
            loses_answer,
            delays_answer: false.into(),
            answer_delayed: Notify::new(),
            release_answer: Notify::new(),
            delays_write: false.into(),
            late: Mutex::default(),
            hurries_late_write: false.into(),
            reads,
            run,
            known_lineage: record_lineage.into(),
            hides,
            unanswered,
            beats,
            states,
            mode,
            held: held.clone(),
        });
        let policy = FallbackPolicy::Accept;
        let store = Arc::new(FallbackStore::new(link.clone(), held, presence, clock.clone(), policy));
        let none = Duration::ZERO;
        let retention = Retention { succeeded: none, failed: none, cancelled: none, active };
        let tracker = Tracker::new(store.clone(), hub, clock.clone(), retention);
        let runner = store.clone();
        tokio::spawn(async move { runner.run().await });
        Self { link, store, tracker }
    }

    pub async fn whole(&self) {
        self.link.up.store(true, Relaxed);
        let mut mode = self.store.mode();
        let back = mode.wait_for(|mode| *mode == StorageMode::Redis);
        timeout(Duration::from_secs(60), back).await.expect("it comes back").expect("it is there");
        let settled = async {
            while self.store.stats().await.expect("it answers").dirty > 0 {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(Duration::from_secs(60), settled).await.expect("it gets everything");
    }

    pub async fn conflicts(&self) -> u64 {
        let stats = self.store.stats().await.expect("it answers");
        stats.last_reconciliation.map_or(0, |reported| reported.counts[1..].iter().sum())
    }
}

#[derive(Clone, Copy, Debug)]
pub enum Op {
    Create,
    Report,
    Succeed,
    Fail,
    Delete,
}

#[derive(Clone, Copy, Debug)]
pub enum Step {
    /// A call to a replica about a job.
    Call(usize, usize, Op),
    /// Cuts the link of a replica.
    Part(usize),
    /// Loses the answer to a replica's next write.
    LoseAnswer(usize),
    /// Saves a snapshot of the primary.
    Save,
    /// Cuts both links, and restarts the primary empty, or from its snapshot.
    Lose { all: bool },
    /// Empties the primary, which no replica notices before it sends a beat.
    LoseUnnoticed,
    /// Restores both links, and waits for both replicas.
    Heal,
}

pub fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![
        3 => Just(Op::Create), 5 => Just(Op::Report), 2 => Just(Op::Succeed), 1 => Just(Op::Fail), 1 => Just(Op::Delete)
    ];
    prop_oneof![
        12 => (0..2_usize, 0..NAMES.len(), op).prop_map(|(replica, job, op)| Step::Call(replica, job, op)),
        2 => (0..2_usize).prop_map(Step::Part),
        1 => (0..2_usize).prop_map(Step::LoseAnswer),
        1 => Just(Step::Save),
        1 => any::<bool>().prop_map(|all| Step::Lose { all }),
        1 => Just(Step::LoseUnnoticed),
        2 => Just(Step::Heal),
    ]
}

/// The last acknowledged change of a job, and its replica; `None`: both replicas in turn.
#[derive(Clone, Debug)]
pub struct Acknowledged {
    pub job: Arc<Job>,
    pub by: Option<usize>,
}

pub struct World {
    pub record: Record,
    pub clock: Arc<StepClock>,
    pub replicas: [Replica; 2],
    pub saved: Vec<Arc<Job>>,
    /// Since the last time that everything was whole.
    pub acknowledged: HashMap<&'static str, Acknowledged>,
    /// The acknowledged reports since then: the job, its incarnation, and the number of the report, which the message
    /// of the job has together with those of the reports before.
    pub reports: Vec<(&'static str, Uuid, String)>,
    pub last_report: usize,
}

impl World {
    pub fn new() -> Self {
        Self::keeping_active_for(Duration::ZERO)
    }

    /// Returns a world that keeps active jobs for this long after their last report; zero: for ever.
    pub fn keeping_active_for(active: Duration) -> Self {
        let (record, clock) = (Record::new(), Arc::new(StepClock::default()));
        let replicas = [Replica::new(&record, &clock, active), Replica::new(&record, &clock, active)];
        let (saved, acknowledged, reports) = (Vec::new(), HashMap::new(), Vec::new());
        Self { record, clock, replicas, saved, acknowledged, reports, last_report: 0 }
    }

    pub async fn take(&mut self, step: Step) {
        match step {
            Step::Call(replica, job, op) => self.call(replica, NAMES[job], op).await,
            Step::Part(replica) => self.replicas[replica].link.up.store(false, Relaxed),
            Step::LoseAnswer(replica) => self.replicas[replica].link.loses_answer.store(true, Relaxed),
            Step::Save => self.saved = self.record.save().await,
            Step::Lose { all } => {
                for replica in &self.replicas {
                    replica.link.up.store(false, Relaxed);
                    // The call makes the replica notice the outage before anything else happens.
                    _ = replica.tracker.on_behalf_of(&ANYONE).get(&id("nowhere"), None).await;
                }
                self.record.restore(if all { Vec::new() } else { self.saved.clone() }).await;
            }
            Step::LoseUnnoticed => self.record.restore(Vec::new()).await,
            Step::Heal => self.heal().await,
        }
    }

    pub async fn call(&mut self, replica: usize, name: &'static str, op: Op) {
        let tracker = self.replicas[replica].tracker.on_behalf_of(&ANYONE);
        let change = match op {
            Op::Create => None,
            Op::Report => {
                self.last_report += 1;
                let before = tracker.get(&id(name), None).await.ok().map(|stored| stored.job);
                let reports = before.as_ref().and_then(|job| job.progress.message.as_deref()).unwrap_or_default();
                let message = Some(format!("{reports}{}.", self.last_report));
                let expected_revision = before.as_ref().map(|job| job.version.revision);
                let progress = Progress { message, ..Progress::default() };
                Some(Change::Report(Report { progress, expected_revision, ..Report::default() }))
            }
            Op::Succeed => Some(success()),
            Op::Fail => Some(failure()),
            Op::Delete => Some(Change::Delete { force: true }),
        };
        let outcome = match change {
            None => tracker.create(NewJob { id: Some(id(name)), ..plain() }).await.map(CreateOutcome::into_stored),
            Some(change) => tracker.change(&id(name), &change).await.map(|changed| changed.stored),
        };
        match outcome {
            Ok(stored) => {
                if let Op::Report = op {
                    self.reports.push((name, stored.job.version.incarnation_id, format!("{}.", self.last_report)));
                }
                let before = self.acknowledged.get(name);
                let by = before.is_none_or(|before| before.by == Some(replica)).then_some(replica);
                self.acknowledged.insert(name, Acknowledged { job: stored.job, by });
            }
            // The creation over a tombstone may be stored nevertheless, and replace what others acknowledged.
            Err(JobError::StoreUnavailable) if matches!(op, Op::Create) => {
                self.acknowledged.entry(name).and_modify(|before| before.by = None);
            }
            Err(JobError::NotFound(_) | JobError::Exists(_) | JobError::Rejected(..) | JobError::StoreUnavailable) => {}
            Err(error) => panic!("{op:?} of {name} on {replica}: {error}"),
        }
    }

    /// Cuts the link of a replica, which notices it.
    pub async fn part(&self, replica: usize) {
        let replica = &self.replicas[replica];
        replica.link.up.store(false, Relaxed);
        _ = replica.tracker.on_behalf_of(&ANYONE).get(&id("nowhere"), None).await;
        assert_eq!(*replica.store.mode().borrow(), StorageMode::Degraded);
    }

    /// Returns the primary's job of this name.
    pub async fn there(&self, name: &str) -> Option<Arc<Job>> {
        self.record.store().get(&id(name)).await.expect("it answers").map(|stored| stored.job)
    }

    pub async fn heal(&mut self) {
        for at in 0..2 {
            if self.replicas[at].link.known_lineage.load(Relaxed) != self.record.lineage() {
                self.part(at).await;
            }
        }
        for _ in 0..3 {
            for replica in &self.replicas {
                replica.link.loses_answer.store(false, Relaxed);
                replica.whole().await;
                // A read may show that data was lost.
                for name in NAMES {
                    _ = replica.tracker.on_behalf_of(&ANYONE).get(&id(name), None).await;
                }
            }
        }
        assert!(self.replicas.iter().all(|replica| *replica.store.mode().borrow() == StorageMode::Redis));
        let (mut conflicts, mut reported) = (0, HashSet::new());
        for replica in &self.replicas {
            conflicts += replica.conflicts().await;
            let report = replica.store.stats().await.expect("it answers").last_reconciliation;
            let discarded = report.into_iter().flat_map(|report| report.jobs);
            let discarded = discarded.filter(|(_, outcome, _)| *outcome != ReconcileOutcome::Merged);
            reported.extend(discarded.map(|(id, ..)| id.to_string()));
        }
        for (name, incarnation, number) in std::mem::take(&mut self.reports) {
            let Some(there) = self.there(name).await else { continue };
            let is_it = there.version.incarnation_id == incarnation && there.removal.is_none();
            let message = there.progress.message.as_deref().unwrap_or_default();
            let kept = message.split_inclusive('.').any(|kept| kept == number);
            assert!(
                kept || !is_it || reported.contains(name),
                "report {number} of {name} is lost unreported: {there:?}"
            );
        }
        for (name, acknowledged) in self.acknowledged.drain() {
            let there = self.record.store().get(&id(name)).await.expect("it answers").map(|stored| stored.job);
            let there = there.unwrap_or_else(|| panic!("{name} is gone: {acknowledged:?}"));
            let (job, version) = (&acknowledged.job, acknowledged.job.version);
            let kept = there.version.incarnation_id == version.incarnation_id
                && there.version.revision >= version.revision
                && there.removal == job.removal
                && there.attempt >= job.attempt
                && (!job.state.is_terminal() || there.state == job.state);
            let alone = acknowledged.by.is_some();
            assert!(kept || !alone || conflicts > 0, "{name}: {job:?} was acknowledged, {there:?} is there");
            for replica in &self.replicas {
                let read = replica
                    .tracker
                    .on_behalf_of(&ANYONE)
                    .get(&id(name), None)
                    .await
                    .map(|stored| stored.job.version)
                    .ok();
                assert_eq!(read, Some(there.version).filter(|_| there.removal.is_none()), "{name}");
            }
        }
    }
}
