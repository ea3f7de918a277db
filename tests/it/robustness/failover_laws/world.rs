//! Two replicas and a primary between them, without processes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use jobtrack::{
    clock::Clock,
    domain::{ANYONE, Change, Job, JobError, JobId, ListQuery, NewJob, Retention, Timestamp, Version},
    store::{
        CommitEvent, Decided, Decision, DueBatch, Durability, FallbackPolicy, FallbackStore, History, JobStore,
        Listener, LocalCache, MemoryStore, Page, PartitionState, Partitioning, Presence, PrimaryStore,
        Record as StoredRecord, Replaced, StorageMode, StoreError, StoreStats, Stored,
    },
    tracker::{CreateOutcome, Tracker},
    watch::Hub,
};
use proptest::prelude::{Just, Strategy, any, prop_oneof};
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::support::jobs::{failure, heartbeat, id, plain, success};

/// A primary that can lose its data, and the order in which it first stored ids.
#[derive(Clone)]
pub struct Record(Arc<Mutex<Arc<MemoryStore>>>, Arc<AtomicI64>);

pub struct Deaf;

impl Listener for Deaf {
    fn on_commit(&self, _: CommitEvent) {}
}

impl Record {
    pub fn new() -> Self {
        Self(Arc::new(Mutex::new(Arc::new(MemoryStore::new(1000, Arc::new(Deaf))))), Arc::new(1.into()))
    }

    pub fn store(&self) -> Arc<MemoryStore> {
        self.0.lock().expect("no test panics here").clone()
    }

    /// Returns all its records.
    pub async fn save(&self) -> Vec<Arc<Job>> {
        let store = self.store();
        let mut all = Vec::new();
        for name in NAMES {
            all.extend(store.get(&id(name)).await.expect("it answers").map(|stored| stored.job));
        }
        all
    }

    /// Replaces all records, under a new data set.
    pub async fn restore(&self, jobs: Vec<Arc<Job>>) {
        let store = Arc::new(MemoryStore::new(1000, Arc::new(Deaf)));
        for job in jobs {
            store.replace(job, None).await.expect("there is room");
        }
        *self.0.lock().expect("no test panics here") = store;
    }
}

/// The batch reads over a link.
#[derive(Default)]
pub struct Reads {
    pub count: AtomicUsize,
    /// Number of the read that fails.
    pub failing: AtomicUsize,
    /// The largest number of versions that were read together.
    pub largest: AtomicUsize,
    /// Duration of each read, in milliseconds.
    pub millis: AtomicU64,
    under_way: AtomicUsize,
    pub most_at_once: AtomicUsize,
}

impl Reads {
    async fn read(&self) -> Result<(), StoreError> {
        let number = self.count.fetch_add(1, Relaxed) + 1;
        self.most_at_once.fetch_max(self.under_way.fetch_add(1, Relaxed) + 1, Relaxed);
        let millis = self.millis.load(Relaxed);
        if millis > 0 {
            sleep(Duration::from_millis(millis)).await;
        }
        self.under_way.fetch_sub(1, Relaxed);
        if number == self.failing.load(Relaxed) { Err(StoreError::Unavailable) } else { Ok(()) }
    }
}

/// The link of one replica to the primary.
pub struct Link {
    pub record: Record,
    pub up: AtomicBool,
    /// The next request is carried out, and its answer is lost.
    loses_answer: AtomicBool,
    pub reads: Reads,
    /// Id of the server's process.
    pub run: AtomicU64,
    /// Hides from the replica that the link is down.
    pub hides: AtomicBool,
    /// Number of requests without an answer because the link was down.
    pub unanswered: AtomicUsize,
    /// Number of beats that arrived.
    pub beats: AtomicUsize,
    states: watch::Sender<Vec<PartitionState>>,
    mode: watch::Sender<StorageMode>,
    /// The cache that receives notifications.
    pub held: Arc<LocalCache>,
}

impl Link {
    fn check(&self) -> Result<Arc<MemoryStore>, StoreError> {
        if self.up.load(Relaxed) {
            return Ok(self.record.store());
        }
        self.unanswered.fetch_add(1, Relaxed);
        Err(StoreError::Unavailable)
    }
}

/// Returns a version as the primary marks it.
pub fn durable(stored: Stored) -> Stored {
    Stored { durability: Durability::Durable, ..stored }
}

#[async_trait]
impl JobStore for Link {
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        Ok(self.check()?.get(id).await?.map(durable))
    }

    async fn replace(&self, mut job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let store = self.check()?;
        let noted = Arc::make_mut(&mut job);
        let before = previous.and_then(|previous| previous.since);
        let since = noted.since.or(before);
        noted.since = since.or_else(|| Some(Timestamp::from_micros(self.record.1.fetch_add(1, Relaxed))));
        noted.heard = Some(noted.update_time);
        if noted.state.is_terminal() && noted.removal.is_none() && noted.durable_time.is_none() {
            noted.durable_time = Some(noted.update_time);
        }
        let outcome = store.replace(job, previous).await?;
        if self.loses_answer.swap(false, Relaxed) {
            return Err(StoreError::Unavailable);
        }
        Ok(match outcome {
            Replaced::Stored(stored) => {
                let stored = durable(stored);
                self.held.on_commit(CommitEvent { stored: stored.clone(), position: 0, previous: None });
                Replaced::Stored(stored)
            }
            Replaced::Conflict(there) => Replaced::Conflict(there.map(durable)),
        })
    }

    async fn decide(&self, job: Arc<Job>, previous: &Job, _: Decision) -> Result<Decided, StoreError> {
        Ok(match self.replace(job, Some(previous)).await? {
            Replaced::Stored(stored) => Decided::Stored(stored),
            Replaced::Conflict(_) => Decided::Conflict,
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.check()?.list(query).await
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        self.check()?.count_of_owner(owner).await
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        self.check()?.delete(job).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        self.check()?.due(now, limit).await
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.check().map(drop)
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        self.check()?.stats().await
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    fn epoch(&self) -> u64 {
        self.record.store().epoch()
    }

    fn position(&self) -> u64 {
        0
    }

    async fn changed_since(&self, _: u64, _: u64, _: usize, _: usize) -> Result<Option<Vec<CommitEvent>>, StoreError> {
        Ok(None)
    }
}

#[async_trait]
impl PrimaryStore for Link {
    async fn probe(&self, _: usize) -> PartitionState {
        self.suspect();
        self.states.borrow()[0]
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<StoredRecord>, StoreError> {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            self.reads.read().await?;
            records.push(self.get(id).await?.map_or(StoredRecord::Missing, StoredRecord::Found));
        }
        Ok(records)
    }

    async fn versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, StoreError> {
        self.reads.largest.fetch_max(ids.len(), Relaxed);
        let records = self.get_many(ids).await?;
        Ok(records.into_iter().map(|record| record.found().map(|stored| stored.job.version)).collect())
    }

    fn suspect(&self) {
        let seems_up = self.up.load(Relaxed) || self.hides.load(Relaxed);
        let state = if seems_up { PartitionState::Serving } else { PartitionState::Unavailable };
        self.states.send_if_modified(|states| std::mem::replace(&mut states[0], state) != state);
    }

    async fn beat(&self, _: usize) -> Result<(), StoreError> {
        self.check()?;
        self.beats.fetch_add(1, Relaxed);
        Ok(())
    }

    fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.states.subscribe()
    }

    fn history(&self, _: usize) -> History {
        History { epoch: self.epoch(), run: self.run.load(Relaxed), ..History::default() }
    }
}

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
        let (record, reads) = (record.clone(), Reads::default());
        let (run, hides) = (AtomicU64::new(1), false.into());
        let (unanswered, beats) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let link = Arc::new(Link {
            record,
            up,
            loses_answer,
            reads,
            run,
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
}

impl World {
    pub fn new() -> Self {
        Self::keeping_active_for(Duration::ZERO)
    }

    /// Returns a world that keeps active jobs for this long after their last report; zero: for ever.
    pub fn keeping_active_for(active: Duration) -> Self {
        let (record, clock) = (Record::new(), Arc::new(StepClock::default()));
        let replicas = [Replica::new(&record, &clock, active), Replica::new(&record, &clock, active)];
        Self { record, clock, replicas, saved: Vec::new(), acknowledged: HashMap::new() }
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
            Step::Heal => self.heal().await,
        }
    }

    pub async fn call(&mut self, replica: usize, name: &'static str, op: Op) {
        let tracker = self.replicas[replica].tracker.on_behalf_of(&ANYONE);
        let change = match op {
            Op::Create => None,
            Op::Report => Some(heartbeat()),
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
                let before = self.acknowledged.get(name);
                let by = before.is_none_or(|before| before.by == Some(replica)).then_some(replica);
                self.acknowledged.insert(name, Acknowledged { job: stored.job, by });
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
        for _ in 0..2 {
            for replica in &self.replicas {
                replica.link.loses_answer.store(false, Relaxed);
                replica.whole().await;
            }
        }
        let mut conflicts = 0;
        for replica in &self.replicas {
            conflicts += replica.conflicts().await;
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
