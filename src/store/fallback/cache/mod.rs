//! The local cache: the jobs that passed through this replica, from which it serves while the primary is unavailable.
//!
//! An entry is clean if the primary had exactly that version at the last contact, and dirty if it was accepted here
//! alone. All events for the subscribers of this replica pass through here, in one order.
//!
//! As long as no notification is lost, the cache knows which entries are current. An entry is fresh as soon as the
//! primary has confirmed it, provided that the entry existed before the primary was asked. A notification of a newer
//! version makes the entry stale until that version is read; after a loss of notifications no entry is fresh.

mod availability;
mod due;
mod learn;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::{
    entries::{CacheEntry, Entries, EntryMeta, FreshnessToken, volatile},
    partition::Partition,
};
use crate::{
    clock::Clock,
    domain::{Job, JobId, ListQuery, State, Timestamp},
    store::{
        Capacity, ChangeNotification, CommitEvent, CommitPosition, Durability, Listener, Page, Partitioning, Presence,
        Source, StorageMode, Stored, table::Row,
    },
    telemetry::metrics::{Counter, Measured, Metrics, counter},
};

/// Maximum time that a fresh entry may be behind the primary.
const LAG_MAX: Duration = Duration::from_secs(1);

/// The local cache of a replica.
pub struct LocalCache {
    listener: Arc<dyn Listener>,
    clock: Arc<dyn Clock>,
    capacity: Capacity,
    partitioning: Partitioning,
    presence: Arc<Presence>,
    entries: Mutex<Entries>,
    mode: watch::Sender<StorageMode>,
    /// Signals for each partition that it became unavailable, or has another dirty entry.
    sync_needed: Vec<Notify>,
    opened: Counter,
}

/// The store that a read or a change of a job is sent to.
#[derive(Debug)]
pub enum Route {
    /// The primary; its answer is fresh as of this token.
    Primary(Option<FreshnessToken>),
    /// The cache for reads, and the primary for changes: the primary serves, but lacks the change that was accepted
    /// here for this job. That change has to be pushed before another one is sent.
    Dirty,
    /// Only this replica.
    Local,
}

impl LocalCache {
    /// Creates a cache of this capacity that reports to `listener`. All partitions count as unavailable at
    /// first.
    pub fn new(
        capacity: impl Into<Capacity>,
        listener: Arc<dyn Listener>,
        clock: Arc<dyn Clock>,
        partitioning: Partitioning,
        presence: Arc<Presence>,
    ) -> Self {
        let entries = Mutex::new(Entries::new(partitioning.count, clock.now()));
        let mode = watch::Sender::new(StorageMode::Degraded);
        let sync_needed = (0..partitioning.count).map(|_| Notify::new()).collect();
        let opened =
            counter("jobtrack_breaker_opened_total", "Times that Redis became unavailable, as a whole or in part.");
        Self { listener, clock, capacity: capacity.into(), partitioning, presence, entries, mode, sync_needed, opened }
    }

    /// Locks the entries. A panic under the lock would leave at worst a surplus index entry, which readers skip.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the partition of a job.
    pub fn partition_of(&self, id: &JobId) -> usize {
        (self.partitioning.of)(id)
    }

    /// Returns the number of partitions.
    pub const fn partitions(&self) -> usize {
        self.partitioning.count
    }

    /// Returns the store that a read of a job is sent to.
    pub fn route_read(&self, id: &JobId) -> Route {
        let entries = self.entries();
        let is_dirty = entries.table.get(id).is_some_and(|row| row.meta.dirty);
        match &entries.partitions[self.partition_of(id)] {
            partition if !partition.is_readable() => Route::Local,
            _ if is_dirty => Route::Dirty,
            _ => Route::Primary(entries.freshness(id)),
        }
    }

    /// Returns the store that a change of a job is sent to. A change that ends or removes a job frees memory, so a
    /// primary that is full and rejects other writes may accept it.
    pub fn route_write(&self, job: &Job) -> Route {
        let frees_memory = job.removal.is_some() || job.state.is_terminal();
        let entries = self.entries();
        let partition = &entries.partitions[self.partition_of(&job.id)];
        let known = entries.table.get(&job.id).map(|row| &row.meta);
        let is_dirty = known.is_some_and(|meta| meta.dirty);
        match partition.is_available() {
            true if known.is_some_and(EntryMeta::is_suspect) => Route::Local,
            true if is_dirty => Route::Dirty,
            true => Route::Primary(entries.freshness(&job.id)),
            false if frees_memory && !is_dirty && partition.is_readable() => Route::Primary(entries.freshness(&job.id)),
            false => Route::Local,
        }
    }

    /// Returns the entry of `id` as it is served while the primary is unavailable. Clean entries of finished jobs whose
    /// retention is over are not returned.
    pub fn get(&self, id: &JobId) -> Option<Stored> {
        let now = self.clock.now();
        let entries = self.entries();
        let row = entries.table.get(id).filter(|row| !Entries::is_forgotten(row, now))?;
        // A tombstone of a job that the primary never had does not show that the id is free: the primary may have
        // another job under it.
        let is_unfounded = row.job.removal.is_some() && !row.job.is_recorded();
        let is_known = row.meta.dirty || row.job.removal.is_some() || row.job.is_visible(now);
        (is_known && !is_unfounded).then(|| volatile(self.as_seen(&row.job, row.meta.dirty, now)))
    }

    /// Returns the entry of `id`, if it is at most `LAG_MAX` behind the primary. Never returns tombstones.
    pub fn get_fresh(&self, id: &JobId) -> Option<Stored> {
        let entries = self.entries();
        let is_late = entries.notified_until.is_none_or(|until| until.elapsed() > LAG_MAX);
        let Row { job, meta } = entries.table.get(id)?;
        if is_late || !entries.partitions[meta.partition].is_available() {
            return None;
        }
        let is_current = meta.fresh == Some(entries.freshness_of(meta)) && job.version.revision >= meta.notified;
        let is_there = is_current && !meta.dirty && job.removal.is_none();
        is_there.then(|| Stored {
            job: self.with_current_lease(job),
            durability: Durability::Durable,
            source: Source::Memory,
        })
    }

    /// Returns a version of the primary with the expiry of its lease as of now.
    pub fn with_current_lease(&self, job: &Arc<Job>) -> Arc<Job> {
        if job.lease.expire_time.is_none() {
            return job.clone();
        }
        self.as_seen(job, false, self.clock.now())
    }

    /// Returns a version as callers see it at `now`: a clean one with the expiry of its lease as of then.
    fn as_seen(&self, job: &Arc<Job>, dirty: bool, now: Timestamp) -> Arc<Job> {
        if dirty { job.clone() } else { self.presence.with_running_lease(self.partition_of(&job.id), job, now) }
    }

    /// Marks the entry of `job` as fresh, because the primary has confirmed this version after `since` was taken.
    pub fn mark_fresh(&self, job: &Job, since: Option<FreshnessToken>) {
        let mut entries = self.entries();
        if since.is_none() || since != entries.freshness(&job.id) {
            return;
        }
        if let Some((_, meta)) = entries.table.meta_mut(&job.id).filter(|(cached, _)| cached.version == job.version) {
            meta.fresh = since;
        }
    }

    /// Returns the entry of `id`.
    pub fn entry(&self, id: &JobId) -> Option<CacheEntry> {
        let entries = self.entries();
        entries.table.get(id).map(|row| entries.entry(row, self.clock.now()))
    }

    /// Returns the dirty entry of `id`, if there is one.
    pub fn accepted(&self, id: &JobId) -> Option<Stored> {
        self.entries().table.get(id).filter(|row| row.meta.dirty).map(|row| volatile(row.job.clone()))
    }

    /// Returns the number of dirty entries.
    pub fn dirty(&self) -> usize {
        self.entries().dirty()
    }

    /// Returns the number of jobs in the cache.
    pub fn count(&self) -> usize {
        self.entries().table.len()
    }

    /// Returns the estimated size of the entries in bytes.
    pub fn bytes(&self) -> usize {
        self.entries().table.bytes()
    }

    /// Returns the number of cached jobs of an owner.
    pub fn count_of_owner(&self, owner: &str) -> u64 {
        self.entries().table.count_of(owner)
    }

    /// Returns the number of cached jobs in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        self.entries().table.counts()
    }

    /// Returns the position of the last announced version.
    pub fn position(&self) -> CommitPosition {
        self.entries().position
    }

    /// Returns the cached jobs that a query selects.
    pub fn list(&self, query: &ListQuery) -> Page {
        let seen = |row: &Row<EntryMeta>| self.as_seen(&row.job, row.meta.dirty, query.now);
        let selection = self.entries().table.select(query, seen);
        let jobs = selection.jobs.into_iter().map(volatile).collect();
        Page { jobs, next: selection.next, total: None, partial: true }
    }

    fn announce(&self, entries: &mut Entries, stored: Stored, previous: Option<State>) {
        entries.position += 1;
        self.listener.on_commit(CommitEvent { stored, position: entries.position, previous, replaced: None });
    }
}

impl Measured for LocalCache {
    fn metrics(&self) -> Metrics {
        vec![Box::new(self.opened.clone())]
    }
}

impl Listener for LocalCache {
    fn on_commit(&self, event: CommitEvent) {
        self.learn_commit(&event.stored, event.previous, event.replaced);
    }

    fn on_notification(&self, notification: &ChangeNotification<'_>) -> bool {
        let mut entries = self.entries();
        if let Some((job, meta)) = entries.table.meta_mut(notification.id) {
            meta.notified = meta.notified.max(notification.revision);
            return !notification.own || job.version.revision < notification.revision;
        }
        drop(entries);
        self.listener.on_notification(notification)
    }

    fn set_clock(&self, set: &dyn Fn() -> i64) {
        let mut entries = self.entries();
        let by = set();
        if by != 0 {
            entries.move_times(by, self.clock.now());
        }
    }

    fn set_notified_until(&self, time: Instant) {
        self.entries().notified_until = Some(time);
    }

    fn watched(&self) -> Vec<JobId> {
        self.listener.watched()
    }

    fn on_missing_record(&self, id: &JobId) {
        let since = self.entries().freshness(id);
        self.mark_record_lost(id, since);
    }

    fn on_gap(&self) {
        let mut entries = self.entries();
        let serves = entries.partitions.iter().any(Partition::is_available);
        entries.lose_track(Some(self.clock.now()).filter(|_| serves));
        let available = entries.all_available();
        drop(entries);
        // While the primary is unavailable, no job could be read again. The return of the primary is reported as a gap,
        // too.
        if available {
            self.listener.on_gap();
        }
    }
}
