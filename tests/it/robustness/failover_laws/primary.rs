//! A primary that can lose its data, and the links to it.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use jobtrack::{
    domain::{Branch, Job, JobId, ListQuery, NextBranch, Timestamp, Version},
    store::{
        CommitEvent, Decided, Decision, DueBatch, Durability, History, JobStore, Listener, LocalCache, MemoryStore,
        Page, PartitionState, PrimaryStore, Record as StoredRecord, Replaced, StorageMode, StoreError, StoreStats,
        Stored,
    },
};
use tokio::{
    sync::{Notify, watch},
    time::sleep,
};
use uuid::Uuid;

use super::world::NAMES;
use crate::support::{jobs::id, stores::Deaf};

/// A primary that can lose its data, and the order in which it first stored ids.
#[derive(Clone)]
pub struct Record {
    store: Arc<Mutex<Arc<MemoryStore>>>,
    next_since: Arc<AtomicI64>,
    /// The lineage of the data, which changes with each loss.
    lineage: Arc<AtomicU64>,
}

impl Record {
    pub fn new() -> Self {
        let store = Arc::new(MemoryStore::new(1000, Arc::new(Deaf)));
        Self { store: Arc::new(Mutex::new(store)), next_since: Arc::new(1.into()), lineage: Arc::new(1.into()) }
    }

    pub fn store(&self) -> Arc<MemoryStore> {
        self.store.lock().expect("no test panics here").clone()
    }

    pub fn lineage(&self) -> u64 {
        self.lineage.load(Relaxed)
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
        *self.store.lock().expect("no test panics here") = store;
        self.lineage.fetch_add(1, Relaxed);
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
    pub loses_answer: AtomicBool,
    /// The next write is carried out at once, and its answer arrives late: after `release_answer`.
    pub delays_answer: AtomicBool,
    /// The answer is on its way.
    pub answer_delayed: Notify,
    pub release_answer: Notify,
    /// The next write is carried out late, after its caller has given up.
    pub delays_write: AtomicBool,
    /// The write that is to be carried out late, and the version that it replaces.
    pub late: Mutex<Option<(Arc<Job>, Option<Job>)>>,
    /// The late write is carried out just before the next one.
    pub hurries_late_write: AtomicBool,
    pub reads: Reads,
    /// Id of the server's process.
    pub run: AtomicU64,
    /// The lineage of the data, as far as the replica knows.
    pub known_lineage: AtomicU64,
    /// Hides from the replica that the link is down.
    pub hides: AtomicBool,
    /// Number of requests without an answer because the link was down.
    pub unanswered: AtomicUsize,
    /// Number of beats that arrived.
    pub beats: AtomicUsize,
    pub states: watch::Sender<Vec<PartitionState>>,
    pub mode: watch::Sender<StorageMode>,
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

    /// Carries out the write that is late, if there is one.
    pub async fn carry_out_late_write(&self) {
        let late = self.late.lock().expect("no test panics here").take();
        if let Some((job, previous)) = late {
            self.write(job, previous.as_ref()).await.expect("there is room");
        }
    }

    /// Writes with the times that the primary adds.
    async fn write(&self, mut job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let (lineage, id) = (self.known_lineage.load(Relaxed), Uuid::new_v4().as_u64_pair().0);
        let there = self.record.store().get(&job.id).await?.and_then(|there| there.job.branch.as_deref().copied());
        let next = match (NextBranch::of(&job, previous, lineage, id), there) {
            (NextBranch::Continued(branch), Some(there)) if there.lineage == branch.lineage => there,
            (NextBranch::Continued(branch), Some(there)) => Branch { parent: there.parent_at(branch.base), ..branch },
            (NextBranch::Continued(branch), None) | (NextBranch::Given(branch), _) => branch,
        };
        let noted = Arc::make_mut(&mut job);
        noted.branch = Some(next.into());
        let before = previous.and_then(|previous| previous.since);
        let since = noted.since.or(before);
        noted.since = since.or_else(|| Some(Timestamp::from_micros(self.record.next_since.fetch_add(1, Relaxed))));
        noted.heard = Some(noted.update_time);
        if noted.state.is_terminal() && noted.removal.is_none() && noted.durable_time.is_none() {
            noted.durable_time = Some(noted.update_time);
        }
        self.record.store().replace(job, previous).await
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

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.check()?;
        if self.delays_write.swap(false, Relaxed) {
            *self.late.lock().expect("no test panics here") = Some((job, previous.cloned()));
            return Err(StoreError::Unavailable);
        }
        if self.hurries_late_write.swap(false, Relaxed) {
            self.carry_out_late_write().await;
        }
        let outcome = self.write(job, previous).await?;
        if self.delays_answer.swap(false, Relaxed) {
            self.answer_delayed.notify_one();
            self.release_answer.notified().await;
        }
        if self.loses_answer.swap(false, Relaxed) {
            return Err(StoreError::Unavailable);
        }
        Ok(match outcome {
            Replaced::Stored(stored) => {
                let stored = durable(stored);
                let replaced = previous.map(|previous| previous.version);
                self.held.on_commit(CommitEvent { stored: stored.clone(), position: 0, previous: None, replaced });
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
        if self.check().is_ok() {
            self.known_lineage.store(self.record.lineage(), Relaxed);
        }
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
        self.known_lineage.store(self.record.lineage(), Relaxed);
        Ok(())
    }

    fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.states.subscribe()
    }

    fn history(&self, _: usize) -> History {
        let lineage = self.known_lineage.load(Relaxed);
        History { epoch: lineage, lineage, run: self.run.load(Relaxed), ..History::default() }
    }
}
