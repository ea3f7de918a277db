//! The store of one process: a map, bounded, lost when the process ends.
//!
//! Everything happens under one lock, held for a few map operations and never across an await, so commits have one
//! order and each is announced in it. When the store is full, the jobs that ended first give way; active jobs never do.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    Announcement, DueBatch, DueRecord, Durability, JobStore, Listener, Page, Replaced, Source, StorageMode, StoreError,
    StoreStats, Stored,
    index::Index,
    log::{Log, Logged},
};
use crate::domain::{Job, JobId, ListQuery, Stamp, State, Timestamp};

/// How many places a page may look at beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// Keeps jobs in this process's memory.
pub struct MemoryStore {
    epoch: u64,
    max_jobs: usize,
    listener: Arc<dyn Listener>,
    records: Mutex<Records>,
    mode: watch::Sender<StorageMode>,
}

/// All records, and the orders they are found by.
#[derive(Default)]
struct Records {
    by_id: HashMap<JobId, Record>,
    index: Index,
    due: BTreeSet<(Timestamp, JobId)>,
    /// Jobs that have ended, the first to end first.
    ended: BTreeSet<(Timestamp, JobId)>,
    /// The oldest first.
    tombstones: BTreeSet<(Timestamp, JobId)>,
    log: Log,
}

struct Record {
    job: Arc<Job>,
    position: u64,
}

impl MemoryStore {
    /// An empty store for at most `max_jobs` jobs, and as many tombstones, which tells `listener` of each commit.
    pub fn new(max_jobs: usize, listener: Arc<dyn Listener>) -> Self {
        let epoch = Uuid::new_v4().as_u64_pair().0;
        let mode = watch::Sender::new(StorageMode::Memory);
        Self { epoch, max_jobs, listener, records: Mutex::default(), mode }
    }

    /// The lock. A panic under it would leave at worst an index entry too many, which readers pass over.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores and announces `job`.
    fn commit(&self, records: &mut Records, job: Arc<Job>) -> Stored {
        let (position, previous) = records.put(&job);
        let stored = stored(job);
        self.listener.changed(Announcement { stored: stored.clone(), position, previous });
        stored
    }

    /// Makes room for one more job at `now`.
    fn make_room(&self, records: &mut Records, now: Timestamp) -> Result<(), StoreError> {
        while records.index.len() >= self.max_jobs {
            let first = records.ended.first().and_then(|(_, id)| records.by_id.get(id));
            let first = first.ok_or(StoreError::Full(self.max_jobs))?;
            let stamp = Stamp { process: self.epoch, counter: records.log.position() };
            let gone = Arc::new(first.job.give_way(now, stamp));
            self.commit(records, gone);
        }
        Ok(())
    }
}

impl Records {
    /// Puts `job` in the place of what is there. Returns its place in the order of commits, and the state before.
    fn put(&mut self, job: &Arc<Job>) -> (u64, Option<State>) {
        let old = self.by_id.remove(&job.id);
        let position = self.log.append(job, old.as_ref().map(|record| record.position));
        let old = old.map(|record| record.job);
        self.by_id.insert(job.id.clone(), Record { job: job.clone(), position });
        self.reindex(old.as_deref(), Some(job));
        (position, old.filter(|old| old.version.uid == job.version.uid).map(|old| old.state))
    }

    /// Forgets a record, and returns it: freeing it may take longer than the lock should be held.
    fn forget(&mut self, id: &JobId) -> Option<Record> {
        let record = self.by_id.remove(id)?;
        self.log.forget(record.position);
        self.reindex(Some(&record.job), None);
        Some(record)
    }

    /// Moves a record from where its old version is found to where its new one is. Most changes of a job move nothing.
    fn reindex(&mut self, old: Option<&Job>, new: Option<&Job>) {
        fn listed(job: Option<&Job>) -> Option<&Job> {
            job.filter(|job| job.removal.is_none())
        }
        match (listed(old), listed(new)) {
            (Some(was), Some(is)) if was.version.uid == is.version.uid => {
                if was.state != is.state {
                    self.index.change_state(was, is.state);
                }
            }
            (was, is) => {
                was.inspect(|job| self.index.remove(job));
                is.inspect(|job| self.index.insert(job));
            }
        }
        let due = |job: &Job| job.next_due().map(|(time, _)| (time, job.id.clone()));
        let ended = |job: &Job| job.end_time.map(|time| (time, job.id.clone()));
        let removed = |job: &Job| job.removal.map(|_| (job.update_time, job.id.clone()));
        move_entry(&mut self.due, old.and_then(due), new.and_then(due));
        move_entry(&mut self.ended, listed(old).and_then(ended), listed(new).and_then(ended));
        move_entry(&mut self.tombstones, old.and_then(removed), new.and_then(removed));
    }
}

fn move_entry<T: Ord>(set: &mut BTreeSet<T>, from: Option<T>, to: Option<T>) {
    if from != to {
        from.inspect(|entry| _ = set.remove(entry));
        set.extend(to);
    }
}

fn stored(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}

#[async_trait]
impl JobStore for MemoryStore {
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        Ok(self.records().by_id.get(id).map(|record| stored(record.job.clone())))
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let mut forgotten = Vec::new();
        let mut records = self.records();
        let current = records.by_id.get(&job.id);
        let there = current.map(|record| record.job.version);
        if there == Some(job.version) {
            return Ok(Replaced::Stored(stored(job)));
        }
        if there != previous.map(|job| job.version) {
            return Ok(Replaced::Conflict(current.map(|record| stored(record.job.clone()))));
        }
        let adds = job.removal.is_none() && current.is_none_or(|record| record.job.removal.is_some());
        if adds {
            self.make_room(&mut records, job.update_time)?;
        }
        let stored = self.commit(&mut records, job);
        while records.tombstones.len() > self.max_jobs {
            let Some((_, oldest)) = records.tombstones.first().cloned() else { break };
            forgotten.extend(records.forget(&oldest));
        }
        drop(records);
        Ok(Replaced::Stored(stored))
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let records = self.records();
        // While something is due, the index may still hold what the page leaves out.
        let exact = records.due.first().is_none_or(|(time, _)| *time > query.now);
        let total = records.index.exact_count(&query.filter).filter(|_| exact);
        let mut page = Page { total, ..Page::default() };
        let mut candidates = records.index.candidates(&query.filter, query.after.as_ref()).peekable();
        let mut last = None;
        for place in candidates.by_ref().take(query.limit + SCAN) {
            last = Some(place);
            let Some(record) = records.by_id.get(&place.id) else { continue };
            if query.filter.matches(&record.job) && record.job.is_visible(query.now) {
                page.jobs.push(stored(record.job.clone()));
                if page.jobs.len() == query.limit {
                    break;
                }
            }
        }
        page.next = last.filter(|_| candidates.peek().is_some()).cloned();
        Ok(page)
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        let mut records = self.records();
        let there = records.by_id.get(&job.id).is_some_and(|record| record.job.version == job.version);
        let forgotten = if there { records.forget(&job.id) } else { None };
        drop(records);
        drop(forgotten);
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        let records = self.records();
        let mut entries = records.due.iter();
        let mut batch = DueBatch::default();
        for (time, id) in entries.by_ref() {
            if *time > now || batch.records.len() == limit {
                batch.next = Some(*time);
                break;
            }
            let job = records.by_id.get(id).map(|record| record.job.clone());
            batch
                .records
                .extend(job.and_then(|job| job.next_due().map(|(_, due)| DueRecord { stored: stored(job), due })));
        }
        Ok(batch)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let records = self.records();
        let held = records.index.len() as u64;
        Ok(StoreStats { counts: Some(records.index.counts()), held, redis: None })
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn position(&self) -> u64 {
        self.records().log.position()
    }

    async fn changed_since(
        &self,
        since: u64,
        after: u64,
        limit: usize,
    ) -> Result<Option<Vec<Announcement>>, StoreError> {
        let changes = self.records().log.since(since, after, limit);
        let announce = |Logged { position, job, previous }| Announcement { stored: stored(job), position, previous };
        Ok(changes.map(|changes| changes.into_iter().map(announce).collect()))
    }
}
