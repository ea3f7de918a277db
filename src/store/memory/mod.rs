//! The in-memory store of a single process: bounded, and lost when the process ends.
//!
//! Every operation holds its locks for a few map operations only, and never across an await. Commits are therefore
//! totally ordered and announced in that order. When the store is full, finished jobs are evicted, in the order of
//! their ends within an owner; active jobs are never evicted.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

mod history;

use self::history::{Log, Logged};
use super::{
    Capacity, CommitEvent, Decided, Decision, DueBatch, DueRecord, Durability, JobStore, Listener, Page, Replaced,
    Source, StorageMode, StoreError, StoreStats, Stored,
    table::{Need, Table, active_size, record_size},
};
use crate::domain::{ChangeId, Deadline, Job, JobId, ListQuery, State, Timestamp};

/// Time between two sweeps above which the process counts as suspended in between.
const PAUSE_MIN: Duration = Duration::from_secs(3);

/// Divisor of the capacity for the memory that tombstones may use. Above it, they are forgotten before finished jobs
/// are evicted.
const TOMBSTONES_SHARE: usize = 8;

/// Estimated size of a tombstone in bytes.
const TOMBSTONE_SIZE: usize = 1200;

/// A store of jobs in this process's memory.
pub struct MemoryStore {
    epoch: u64,
    capacity: Capacity,
    listener: Arc<dyn Listener>,
    records: Mutex<Records>,
    hearing: Mutex<Hearing>,
    mode: watch::Sender<StorageMode>,
}

/// The time since which workers have been able to report. Time in which this process was suspended does not count.
#[derive(Debug, Default)]
struct Hearing {
    since: Timestamp,
    last_sweep: Option<Instant>,
}

impl Hearing {
    /// Detects that this process was suspended: while the process runs, sweeps call this about once a second.
    fn detect_suspension(&mut self, now: Timestamp) -> &Self {
        let paused = self.last_sweep.replace(Instant::now()).is_some_and(|last| last.elapsed() > PAUSE_MIN);
        if paused {
            self.since = now;
        }
        self
    }

    /// Returns the time of a deadline of `job`. Time in which no worker could report does not count as waiting.
    fn time_of(&self, job: &Job, deadline: &Deadline) -> Timestamp {
        job.time_of(deadline).max(self.since + deadline.wait)
    }
}

/// All records, each with the position of its commit.
#[derive(Default)]
struct Records {
    table: Table<u64>,
    log: Log,
}

impl MemoryStore {
    /// Creates an empty store that reports each commit to `listener`. The store keeps at most as many tombstones as it
    /// may have jobs.
    pub fn new(capacity: impl Into<Capacity>, listener: Arc<dyn Listener>) -> Self {
        let epoch = Uuid::new_v4().as_u64_pair().0;
        let mode = watch::Sender::new(StorageMode::Memory);
        Self { epoch, capacity: capacity.into(), listener, records: Mutex::default(), hearing: Mutex::default(), mode }
    }

    /// Locks the records. A panic under the lock leaves at worst a surplus index entry, which readers skip.
    fn records(&self) -> MutexGuard<'_, Records> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hearing(&self) -> MutexGuard<'_, Hearing> {
        self.hearing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores and announces `job`.
    fn commit(&self, records: &mut Records, job: Arc<Job>) -> Stored {
        let (position, previous) = records.put(&job);
        let stored = stored(job);
        self.listener.on_commit(CommitEvent { stored: stored.clone(), position, previous, replaced: None });
        stored
    }

    /// Evicts finished jobs until there is room for `job`. If bytes are short, forgets tombstones while they use more
    /// than their share or no finished job is left. Returns the forgotten tombstones, which the caller frees after
    /// releasing the lock, because freeing may take long.
    fn evict_for(&self, records: &mut Records, job: &Job) -> Result<Vec<Arc<Job>>, StoreError> {
        let previous = records.table.get(&job.id).map(|row| &*row.job);
        let adds = job.removal.is_none() && previous.is_none_or(|previous| previous.removal.is_some());
        let Need { growth, is_small } = records.table.need(job);
        // Checks first what no eviction can free, so that a refused call evicts nothing.
        let own = previous.map_or(0, |previous| record_size(previous) - active_size(previous));
        if !is_small && growth > 0 && records.table.active_bytes() + own + growth > self.capacity.bytes {
            return Err(StoreError::Full(self.capacity.bytes_exhausted()));
        }
        let mut forgotten = Vec::new();
        loop {
            let exhausted = if adds && records.table.len() >= self.capacity.jobs {
                self.capacity.jobs_exhausted()
            } else if growth > 0 && records.table.bytes() + growth > self.capacity.bytes {
                let tombstones = records.table.tombstones().len() * TOMBSTONE_SIZE;
                let is_over = tombstones > self.capacity.bytes / TOMBSTONES_SHARE;
                let is_last = records.table.ended(2).all(|id| *id == job.id);
                let oldest = records.table.tombstones().find(|id| **id != job.id).cloned();
                match oldest.filter(|_| is_over || is_last) {
                    Some(oldest) => {
                        forgotten.extend(records.forget(&oldest));
                        continue;
                    }
                    None if is_last && is_small => return Ok(forgotten),
                    None => self.capacity.bytes_exhausted(),
                }
            } else {
                return Ok(forgotten);
            };
            let first = records.table.ended(2).find(|id| **id != job.id).and_then(|id| records.table.get(id));
            let first = first.ok_or(StoreError::Full(exhausted))?;
            let change_id = ChangeId { process: self.epoch, counter: records.log.position() };
            let gone = Arc::new(first.job.expired(job.update_time, change_id));
            self.commit(records, gone);
        }
    }
}

impl Records {
    /// Stores `job` in place of the current version. Returns the position of the commit, and the previous state.
    fn put(&mut self, job: &Arc<Job>) -> (u64, Option<State>) {
        let old = self.table.get(&job.id).map(|row| row.meta);
        let position = self.log.append(job, old);
        let old = self.table.put(job.clone(), position);
        debug_assert_eq!(self.log.current_len(), self.table.slots(), "the log has each record's newest version");
        (
            position,
            old.filter(|old| old.job.version.incarnation_id == job.version.incarnation_id).map(|old| old.job.state),
        )
    }

    /// Removes and returns a record, which the caller frees after releasing the lock, because freeing may take long.
    fn forget(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let row = self.table.forget(id)?;
        self.log.forget(row.meta);
        Some(row.job)
    }
}

fn stored(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}

#[async_trait]
impl JobStore for MemoryStore {
    fn is_remote(&self) -> bool {
        false
    }

    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        Ok(self.records().table.get(id).map(|row| stored(row.job.clone())))
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let mut records = self.records();
        let current = records.table.get(&job.id);
        let there = current.map(|row| row.job.version);
        if there == Some(job.version) {
            return Ok(Replaced::Stored(stored(job)));
        }
        if there != previous.map(|job| job.version) {
            return Ok(Replaced::Conflict(current.map(|row| stored(row.job.clone()))));
        }
        let mut forgotten = self.evict_for(&mut records, &job)?;
        let stored = self.commit(&mut records, job);
        while records.table.tombstones().len() > self.capacity.jobs {
            let Some(oldest) = records.table.tombstones().next().cloned() else { break };
            forgotten.extend(records.forget(&oldest));
        }
        drop(records);
        Ok(Replaced::Stored(stored))
    }

    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError> {
        let Decision { deadline, now, .. } = decision;
        if self.hearing().detect_suspension(now).time_of(previous, &deadline) > now {
            return Ok(Decided::Deferred);
        }
        Ok(match self.replace(job, Some(previous)).await? {
            Replaced::Stored(stored) => Decided::Stored(stored),
            Replaced::Conflict(_) => Decided::Conflict,
        })
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        let selection = self.records().table.select(query, |row| row.job.clone());
        let jobs = selection.jobs.into_iter().map(stored).collect();
        Ok(Page { jobs, next: selection.next, total: selection.total, partial: false })
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        Ok(self.records().table.count_of(owner))
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        let mut records = self.records();
        let there = records.table.get(&job.id).is_some_and(|row| row.job.version == job.version);
        let forgotten = if there { records.forget(&job.id) } else { None };
        drop(records);
        drop(forgotten);
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        let mut hearing = self.hearing();
        let hearing = hearing.detect_suspension(now);
        let records = self.records();
        let mut batch = DueBatch::default();
        for (time, row, due) in records.table.due() {
            if time > now || batch.records.len() == limit {
                batch.next = Some(batch.next.map_or(time, |next: Timestamp| next.min(time)));
                break;
            }
            let again = row.job.deadline().map(|deadline| hearing.time_of(&row.job, &deadline));
            if let Some(again) = again.filter(|again| *again > now) {
                batch.next = Some(batch.next.map_or(again, |next: Timestamp| next.min(again)));
                continue;
            }
            batch.records.push(DueRecord { stored: stored(row.job.clone()), due });
        }
        Ok(batch)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let records = self.records();
        let held = records.table.len() as u64;
        let counts = Some(records.table.counts());
        let bytes = records.table.bytes() as u64;
        Ok(StoreStats { counts, held, bytes, ..StoreStats::default() })
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
        max_bytes: usize,
    ) -> Result<Option<Vec<CommitEvent>>, StoreError> {
        let changes = self.records().log.since(since, after, limit, max_bytes);
        let announce = |Logged { position, job, previous }| CommitEvent {
            stored: stored(job),
            position,
            previous,
            replaced: None,
        };
        Ok(changes.map(|changes| changes.into_iter().map(announce).collect()))
    }
}
