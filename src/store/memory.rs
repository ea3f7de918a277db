//! The store of one process: a map, bounded, lost when the process ends.
//!
//! Everything happens under one lock, held for a few map operations and never across an await, so commits have one
//! order and each is announced in it. When the store is full, tombstones give way first, then the jobs that ended
//! first; active jobs never do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use uuid::Uuid;

use super::{
    Announcement, DueBatch, DueRecord, Durability, JobStore, Listener, Page, Replaced, Source, StorageMode, StoreError,
    StoreStats, Stored, index::Index,
};
use crate::domain::{Job, JobId, ListQuery, Removal, Timestamp, Version};

/// How many places a page may look at beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// Keeps jobs in this process's memory.
pub struct MemoryStore {
    epoch: u64,
    max_records: usize,
    listener: Arc<dyn Listener>,
    records: Mutex<Records>,
}

/// All records, and the orders they are found by.
#[derive(Default)]
struct Records {
    by_id: HashMap<JobId, Record>,
    index: Index,
    due: BTreeSet<(Timestamp, JobId)>,
    /// What may give way when memory is full, the first to go first: tombstones (`false`), then ended jobs.
    expendable: BTreeSet<(bool, Timestamp, JobId)>,
    /// The newest commit of each record.
    log: BTreeMap<u64, JobId>,
    position: u64,
    /// The newest commit that has left no trace: what changed since an earlier one can't be told.
    horizon: u64,
}

struct Record {
    job: Arc<Job>,
    position: u64,
}

impl MemoryStore {
    /// An empty store for at most `max_jobs` records, which tells `listener` of each commit.
    pub fn new(max_jobs: usize, listener: Arc<dyn Listener>) -> Self {
        let epoch = Uuid::new_v4().as_u64_pair().0;
        Self { epoch, max_records: max_jobs, listener, records: Mutex::default() }
    }

    /// The lock. A panic under it would leave at worst an index entry too many, which readers pass over.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes room for one more record.
    fn make_room(&self, records: &mut Records) -> Result<(), StoreError> {
        while records.by_id.len() >= self.max_records {
            let Some((_, _, id)) = records.expendable.first().cloned() else {
                return Err(StoreError::Full(self.max_records));
            };
            let Some(record) = records.forget(&id) else { continue };
            if record.job.removal.is_none() {
                let mut tombstone = Job::clone(&record.job);
                tombstone.version = tombstone.version.next(tombstone.version.stamp);
                tombstone.removal = Some(Removal::Expired);
                records.position += 1;
                records.horizon = records.position;
                self.announce(Arc::new(tombstone), records.position);
            }
        }
        Ok(())
    }

    fn announce(&self, job: Arc<Job>, position: u64) {
        self.listener.changed(Announcement { stored: stored(job), position });
    }
}

impl Records {
    fn put(&mut self, job: &Arc<Job>) {
        self.position += 1;
        let position = self.position;
        let old = self.by_id.insert(job.id.clone(), Record { job: job.clone(), position });
        self.log.insert(position, job.id.clone());
        if let Some(old) = &old {
            self.log.remove(&old.position);
        }
        self.reindex(old.as_ref().map(|record| &*record.job), Some(job));
    }

    fn forget(&mut self, id: &JobId) -> Option<Record> {
        let record = self.by_id.remove(id)?;
        self.log.remove(&record.position);
        self.horizon = self.horizon.max(record.position);
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
        move_entry(&mut self.due, old.and_then(due), new.and_then(due));
        move_entry(&mut self.expendable, old.and_then(expendable), new.and_then(expendable));
    }
}

/// The place of a record among those that may give way.
fn expendable(job: &Job) -> Option<(bool, Timestamp, JobId)> {
    match (job.removal, job.end_time) {
        (Some(_), _) => Some((false, job.update_time, job.id.clone())),
        (None, Some(end)) => Some((true, end, job.id.clone())),
        (None, None) => None,
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

    async fn replace(&self, job: Arc<Job>, expected: Option<Version>) -> Result<Replaced, StoreError> {
        let mut records = self.records();
        let current = records.by_id.get(&job.id);
        if current.map(|record| record.job.version) != expected {
            return Ok(Replaced::Conflict(current.map(|record| stored(record.job.clone()))));
        }
        if current.is_none() {
            self.make_room(&mut records)?;
        }
        records.put(&job);
        self.announce(job.clone(), records.position);
        Ok(Replaced::Stored(stored(job)))
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let records = self.records();
        let mut page = Page { total: records.index.exact_count(&query.filter), ..Page::default() };
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

    async fn delete(&self, id: &JobId, version: Version) -> Result<(), StoreError> {
        let mut records = self.records();
        if records.by_id.get(id).is_some_and(|record| record.job.version == version) {
            records.forget(id);
        }
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
            batch.records.extend(job.and_then(|job| job.next_due().map(|(_, due)| DueRecord { job, due })));
        }
        Ok(batch)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let records = self.records();
        let held = records.index.len() as u64;
        Ok(StoreStats { mode: StorageMode::Memory, counts: records.index.counts(), held })
    }

    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn position(&self) -> u64 {
        self.records().position
    }

    async fn changed_since(&self, position: u64, limit: usize) -> Result<Option<Vec<Announcement>>, StoreError> {
        let records = self.records();
        if position < records.horizon || position > records.position {
            return Ok(None);
        }
        let changes = records.log.range(position + 1..).take(limit).filter_map(|(position, id)| {
            let record = records.by_id.get(id)?;
            Some(Announcement { stored: stored(record.job.clone()), position: *position })
        });
        Ok(Some(changes.collect()))
    }
}
