//! What holds whatever happens to two replicas and the store of record between them: a random walk without processes.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use jobtrack::{
    clock::SystemClock,
    domain::{Change, Job, JobError, JobId, ListQuery, NewJob, Retention, State, Timestamp},
    store::{
        Announcement, DueBatch, Durability, Failover, Fallback, Held, JobStore, Listener, MemoryStore, Page, Replaced,
        StorageMode, StoreError, StoreStats, Stored,
    },
    tracker::Tracker,
    watch::Hub,
};
use proptest::prelude::*;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};

use crate::support::jobs::{failure, heartbeat, id, plain, success};

/// A store of record that can lose its data.
#[derive(Clone)]
struct Record(Arc<Mutex<Arc<MemoryStore>>>);

struct Deaf;

impl Listener for Deaf {
    fn changed(&self, _: Announcement) {}
}

impl Record {
    fn new() -> Self {
        Self(Arc::new(Mutex::new(Arc::new(MemoryStore::new(1000, Arc::new(Deaf))))))
    }

    fn store(&self) -> Arc<MemoryStore> {
        self.0.lock().expect("no test panics here").clone()
    }

    /// All that it holds.
    async fn save(&self) -> Vec<Arc<Job>> {
        let store = self.store();
        let mut all = Vec::new();
        for name in NAMES {
            all.extend(store.get(&id(name)).await.expect("it answers").map(|stored| stored.job));
        }
        all
    }

    /// Holds just this from now on, as another data set.
    async fn restore(&self, jobs: Vec<Arc<Job>>) {
        let store = Arc::new(MemoryStore::new(1000, Arc::new(Deaf)));
        for job in jobs {
            store.replace(job, None).await.expect("there is room");
        }
        *self.0.lock().expect("no test panics here") = store;
    }
}

/// The way of one replica to the store of record.
struct Link {
    record: Record,
    up: AtomicBool,
    /// What is asked next is done, and the answer is lost.
    loses_answer: AtomicBool,
    mode: watch::Sender<StorageMode>,
    /// Is told of what is stored.
    held: Arc<Held>,
}

impl Link {
    fn check(&self) -> Result<Arc<MemoryStore>, StoreError> {
        if self.up.load(Relaxed) { Ok(self.record.store()) } else { Err(StoreError::Unavailable) }
    }
}

/// As the store of record marks it.
fn durable(stored: Stored) -> Stored {
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
        noted.recorded = true;
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
                self.held.changed(Announcement { stored: stored.clone(), position: 0, previous: None });
                Replaced::Stored(stored)
            }
            Replaced::Conflict(there) => Replaced::Conflict(there.map(durable)),
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.check()?.list(query).await
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

    async fn changed_since(&self, _: u64, _: u64, _: usize) -> Result<Option<Vec<Announcement>>, StoreError> {
        Ok(None)
    }
}

/// The jobs that are changed.
const NAMES: [&str; 3] = ["a", "b", "c"];

struct Replica {
    link: Arc<Link>,
    store: Arc<Failover>,
    tracker: Tracker,
}

impl Replica {
    fn new(record: &Record) -> Self {
        let mode = watch::Sender::new(StorageMode::Redis);
        let hub = Arc::new(Hub::default());
        let held = Arc::new(Held::new(1000, hub.clone(), Arc::new(SystemClock)));
        let (up, loses_answer) = (true.into(), false.into());
        let link = Arc::new(Link { record: record.clone(), up, loses_answer, mode, held: held.clone() });
        let store = Arc::new(Failover::new(link.clone(), held, Arc::new(SystemClock), Fallback::Accept));
        let none = Duration::ZERO;
        let retention = Retention { succeeded: none, failed: none, cancelled: none, active: none };
        let tracker = Tracker::new(store.clone(), hub, Arc::new(SystemClock), retention);
        let runner = store.clone();
        tokio::spawn(async move { runner.run().await });
        Self { link, store, tracker }
    }

    async fn whole(&self) {
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

    async fn conflicts(&self) -> u64 {
        let stats = self.store.stats().await.expect("it answers");
        stats.last_reconciliation.map_or(0, |ledger| ledger.counts[1..].iter().sum())
    }
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Create,
    Report,
    Succeed,
    Fail,
    Delete,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A call to a replica about a job.
    Call(usize, usize, Op),
    /// A replica loses its link.
    Part(usize),
    /// The answer to a replica's next write is lost.
    LoseAnswer(usize),
    /// The store of record remembers what it has.
    Save,
    /// Both replicas lose their link, and the store of record comes back with nothing, or what it remembered.
    Lose { all: bool },
    /// Both replicas have their link again, and are waited for.
    Heal,
}

fn step() -> impl Strategy<Value = Step> {
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

/// What was last acknowledged of a job, and by which replica; `None` in the place of the replica: by both in turn.
#[derive(Clone, Debug)]
struct Acknowledged {
    job: Arc<Job>,
    by: Option<usize>,
}

struct World {
    record: Record,
    replicas: [Replica; 2],
    saved: Vec<Arc<Job>>,
    /// Since all was whole.
    acknowledged: HashMap<&'static str, Acknowledged>,
}

impl World {
    fn new() -> Self {
        let record = Record::new();
        let replicas = [Replica::new(&record), Replica::new(&record)];
        Self { record, replicas, saved: Vec::new(), acknowledged: HashMap::new() }
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Call(replica, job, op) => self.call(replica, NAMES[job], op).await,
            Step::Part(replica) => self.replicas[replica].link.up.store(false, Relaxed),
            Step::LoseAnswer(replica) => self.replicas[replica].link.loses_answer.store(true, Relaxed),
            Step::Save => self.saved = self.record.save().await,
            Step::Lose { all } => {
                for replica in &self.replicas {
                    replica.link.up.store(false, Relaxed);
                    // It is noticed before anything else happens.
                    _ = replica.tracker.get(&id("nowhere"), None).await;
                }
                self.record.restore(if all { Vec::new() } else { self.saved.clone() }).await;
            }
            Step::Heal => self.heal().await,
        }
    }

    async fn call(&mut self, replica: usize, name: &'static str, op: Op) {
        let tracker = &self.replicas[replica].tracker;
        let outcome = match op {
            Op::Create => tracker.create(NewJob { id: Some(id(name)), ..plain() }).await,
            Op::Report => tracker.change(&id(name), &heartbeat()).await,
            Op::Succeed => tracker.change(&id(name), &success()).await,
            Op::Fail => tracker.change(&id(name), &failure()).await,
            Op::Delete => tracker.change(&id(name), &Change::Delete { force: true }).await,
        };
        match outcome {
            Ok((stored, _)) => {
                let before = self.acknowledged.get(name);
                let by = before.is_none_or(|before| before.by == Some(replica)).then_some(replica);
                self.acknowledged.insert(name, Acknowledged { job: stored.job, by });
            }
            Err(JobError::NotFound(_) | JobError::Exists(_) | JobError::Rejected(..) | JobError::StoreUnavailable) => {}
            Err(error) => panic!("{op:?} of {name} on {replica}: {error}"),
        }
    }

    async fn heal(&mut self) {
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
            let kept = there.version.uid == version.uid
                && there.version.revision >= version.revision
                && there.removal == job.removal
                && there.attempt >= job.attempt
                && (!job.state.is_terminal() || there.state == job.state);
            let alone = acknowledged.by.is_some();
            assert!(kept || !alone || conflicts > 0, "{name}: {job:?} was acknowledged, {there:?} is there");
            for replica in &self.replicas {
                let read = replica.tracker.get(&id(name), None).await.map(|stored| stored.job.version).ok();
                assert_eq!(read, Some(there.version).filter(|_| there.removal.is_none()), "{name}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn nothing_acknowledged_is_lost_in_silence(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.expect("a runtime").block_on(async {
            let mut world = World::new();
            for step in steps {
                world.take(step).await;
            }
            world.heal().await;
        });
    }
}

/// An end that was in the store of record stands, whoever is asked.
#[tokio::test(start_paused = true)]
async fn the_first_end_stands() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Part(1)).await;
    world.call(0, "a", Op::Fail).await;
    world.call(1, "a", Op::Succeed).await;
    world.heal().await;
    let job = world.replicas[1].tracker.get(&id("a"), None).await.expect("it is there").job;
    assert_eq!(job.state, State::Failed);
    assert_eq!(world.replicas[1].conflicts().await, 1);
}

/// One job was made on two sides; that of one was the first to be in the store of record when that had lost its data.
#[tokio::test(start_paused = true)]
async fn a_life_that_gives_way_is_told() {
    let mut world = World::new();
    world.take(Step::Part(0)).await;
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Create).await;
    world.call(1, "a", Op::Succeed).await;
    world.take(Step::Lose { all: true }).await;
    world.replicas[0].whole().await;
    world.heal().await;
    let job = world.replicas[0].tracker.get(&id("a"), None).await.expect("it is there").job;
    assert_eq!(job.state, State::Succeeded);
    assert_eq!(world.replicas[1].conflicts().await, 1);
}

/// A job that was deleted and made anew is no conflict.
#[tokio::test(start_paused = true)]
async fn lives_that_follow_each_other_are_no_conflict() {
    let mut world = World::new();
    world.call(1, "a", Op::Create).await;
    world.call(1, "a", Op::Succeed).await;
    world.take(Step::Part(1)).await;
    world.call(0, "a", Op::Delete).await;
    world.call(0, "a", Op::Create).await;
    world.call(1, "b", Op::Create).await;
    world.heal().await;
    assert_eq!(world.replicas[1].conflicts().await, 0);
}
