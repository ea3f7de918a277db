//! The local cache: the jobs that passed through this replica, from which it serves while the primary is unavailable.
//!
//! An entry is clean if the primary had exactly that version at the last contact, and dirty if it was accepted here
//! alone. All events for the subscribers of this replica pass through here, in one order.
//!
//! While all notifications arrive, an entry is as good as the record itself: it is fresh from the moment at which the
//! primary confirmed it, if it was asked when the entry existed already. A notification of a newer version makes the
//! entry stale until that version is read; after a loss of notifications no entry is fresh.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    task::yield_now,
};

use super::entries::{CacheEntry, Entries, EntryMeta, FreshnessToken, Partition, Unavailable, comes_after};
use crate::{
    clock::Clock,
    domain::{Deadline, Due, Job, JobId, ListQuery, State, TOMBSTONE_LIFE, Timestamp},
    store::{
        Capacity, ChangeNotification, CommitEvent, DueBatch, DueRecord, Durability, History, Listener, Page,
        Partitioning, Presence, Replaced, Source, StorageMode, StoreError, Stored, table::Row,
    },
    telemetry::metrics::{Counter, Measured, Metrics, counter},
};

/// Maximum time that a fresh entry may be behind the primary.
const LAG: Duration = Duration::from_secs(1);

/// Time for which changes of a job are accepted here after the primary failed a command for it: two checks of a primary
/// that is silent.
const SUSPICION: Duration = Duration::from_millis(500);

/// Maximum number of entries examined under one lock.
const LOOKED_AT: usize = 2000;

/// Maximum number of entries removed under one lock.
const FORGOTTEN_AT_ONCE: usize = 200;

/// The local cache of a replica.
pub struct LocalCache {
    listener: Arc<dyn Listener>,
    clock: Arc<dyn Clock>,
    capacity: Capacity,
    partitioning: Partitioning,
    presence: Arc<Presence>,
    entries: Mutex<Entries>,
    mode: watch::Sender<StorageMode>,
    /// Signals for each partition that it became unavailable, or that something was accepted that it does not have.
    unsettled: Vec<Notify>,
    opened: Counter,
}

/// The place to read a job from, or to send a change of it to.
#[derive(Debug)]
pub enum Route {
    /// The primary; its answer is fresh as of this token.
    Primary(Option<FreshnessToken>),
    /// The primary, which serves and does not have the change that was accepted here for this job.
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
        let unsettled = (0..partitioning.count).map(|_| Notify::new()).collect();
        let opened =
            counter("jobtrack_breaker_opened_total", "Times that Redis became unavailable, as a whole or in part.");
        Self { listener, clock, capacity: capacity.into(), partitioning, presence, entries, mode, unsettled, opened }
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

    /// Returns a receiver of the storage mode, which tells whether all partitions serve, and of its changes.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    /// Returns whether a partition is unavailable.
    pub fn is_unavailable(&self, partition: usize) -> bool {
        !self.entries().partitions[partition].is_available()
    }

    /// Returns whether all partitions are unavailable.
    pub fn is_all_unavailable(&self) -> bool {
        self.entries().partitions.iter().all(|partition| !partition.is_available())
    }

    /// Returns whether any partition answers reads.
    pub fn is_any_readable(&self) -> bool {
        self.entries().partitions.iter().any(Partition::is_readable)
    }

    /// Returns whether any partition is unavailable.
    pub fn is_any_unavailable(&self) -> bool {
        !self.entries().all_available()
    }

    /// Waits until a partition is unavailable, or has dirty entries.
    pub async fn unsettled(&self, partition: usize) {
        loop {
            let changed = self.unsettled[partition].notified();
            if self.is_unsettled(partition) {
                return;
            }
            changed.await;
        }
    }

    /// Returns whether a partition is unavailable, or has dirty entries.
    pub fn is_unsettled(&self, partition: usize) -> bool {
        let partition = &self.entries().partitions[partition];
        !partition.is_available() || partition.dirty() > 0
    }

    /// Returns the place to read a job from.
    pub fn route_read(&self, id: &JobId) -> Route {
        let entries = self.entries();
        let is_dirty = entries.table.get(id).is_some_and(|row| row.note.dirty);
        match &entries.partitions[self.partition_of(id)] {
            partition if !partition.is_readable() => Route::Local,
            _ if is_dirty => Route::Dirty,
            _ => Route::Primary(entries.freshness(id)),
        }
    }

    /// Returns the place to send a change of a job to. A change that ends or removes a job makes room, so a primary
    /// that takes nothing else may take it.
    pub fn route_write(&self, job: &Job) -> Route {
        let makes_room = job.removal.is_some() || job.state.is_terminal();
        let entries = self.entries();
        let partition = &entries.partitions[self.partition_of(&job.id)];
        let known = entries.table.get(&job.id).map(|row| &row.note);
        let is_dirty = known.is_some_and(|meta| meta.dirty);
        match partition.is_available() {
            true if known.is_some_and(EntryMeta::is_suspect) => Route::Local,
            true if is_dirty => Route::Dirty,
            true => Route::Primary(entries.freshness(&job.id)),
            false if makes_room && !is_dirty && partition.is_readable() => Route::Primary(entries.freshness(&job.id)),
            false => Route::Local,
        }
    }

    /// Returns whether all partitions answer reads.
    pub fn is_listable(&self) -> bool {
        self.entries().partitions.iter().all(Partition::is_readable)
    }

    /// Marks a partition as unavailable; it may be `readable` nevertheless.
    pub fn set_unavailable(&self, partition: usize, readable: bool) {
        self.mark_unavailable(&mut self.entries(), partition, readable);
    }

    fn mark_unavailable(&self, entries: &mut Entries, at: usize, readable: bool) {
        let now = self.clock.now();
        self.presence.set_serving(at, false);
        let was_whole = entries.all_available();
        let partition = &mut entries.partitions[at];
        if let Some(unavailable) = &mut partition.unavailable {
            unavailable.readable = readable;
            return;
        }
        partition.unavailable = Some(Unavailable { since: now, readable });
        partition.end_pass();
        entries.lose_track(None);
        if was_whole {
            self.opened.inc();
        }
        self.mode.send_replace(StorageMode::Degraded);
        self.unsettled[at].notify_one();
    }

    /// Marks a partition as available, if this replica still says that it serves from it: a call may have found it
    /// unavailable since. Returns whether it did.
    #[must_use]
    pub fn set_available(&self, at: usize) -> bool {
        let mut entries = self.entries();
        if !self.presence.is_serving(at) {
            return false;
        }
        let partition = &mut entries.partitions[at];
        partition.unavailable = None;
        partition.end_pass();
        let all = entries.all_available();
        if all {
            self.mode.send_replace(StorageMode::Redis);
        }
        drop(entries);
        if all {
            // Lists in the meantime contained only cached jobs, so their readers must list again.
            self.listener.missed();
        }
        true
    }

    /// Begins a pass over the entries of a partition, or continues one that compared with the same history. Returns the
    /// slot from which to proceed downward.
    pub fn begin_pass(&self, partition: usize, history: History) -> usize {
        let mut entries = self.entries();
        entries.partitions[partition].begin_pass(history);
        entries.table.slots()
    }

    /// Returns up to `limit` clean entries of a partition that the pass has not compared yet, from the slots below
    /// `slot`, and the slot of the rest; `None` if there are no more. An entry whose slot changes meanwhile moves to a
    /// lower one, so none is missed.
    pub fn uncompared(&self, partition: usize, slot: usize, limit: usize) -> Option<(Vec<CacheEntry>, usize)> {
        let now = self.clock.now();
        let entries = self.entries();
        let pass = entries.partitions[partition].pass();
        let mut slot = slot.min(entries.table.slots());
        if slot == 0 {
            return None;
        }
        let end = slot.saturating_sub(LOOKED_AT);
        let mut found = Vec::new();
        while slot > end && found.len() < limit {
            slot -= 1;
            let Some(row) = entries.table.slot(slot) else { continue };
            let EntryMeta { partition: at, dirty, compared_in, .. } = row.note;
            if at == partition && !dirty && compared_in != pass && Entries::is_known(row, now) {
                found.push(entries.entry(row, now));
            }
        }
        Some((found, slot))
    }

    /// Records that the primary has exactly these versions, which the pass has compared.
    pub fn confirm(&self, partition: usize, jobs: &[Arc<Job>]) {
        let now = self.clock.now();
        let mut entries = self.entries();
        let pass = entries.partitions[partition].pass();
        for job in jobs {
            let known = entries.table.note(&job.id).filter(|(held, _)| held.version == job.version);
            if let Some((_, meta)) = known {
                (meta.confirmed, meta.compared_in, meta.suspect_until) = (now, pass, None);
            }
        }
    }

    /// Returns up to `limit` dirty entries of a partition, finished jobs first.
    pub fn first_dirty(&self, partition: usize, limit: usize) -> Vec<CacheEntry> {
        let now = self.clock.now();
        let entries = self.entries();
        let ids = entries.partitions[partition].first_dirty(limit);
        ids.filter_map(|id| entries.table.get(id)).map(|row| entries.entry(row, now)).collect()
    }

    /// Returns the entry of `id` as it is served while the primary is unavailable. Entries that may or may not have
    /// expired elsewhere are not returned.
    pub fn get(&self, id: &JobId) -> Option<Stored> {
        let now = self.clock.now();
        let entries = self.entries();
        let row = entries.table.get(id).filter(|row| !Entries::is_forgotten(row, now))?;
        // The removal of a job that the primary never knew says nothing of another job that it may have under the id.
        let is_unfounded = row.job.removal.is_some() && !row.job.is_recorded();
        let is_known = row.note.dirty || row.job.removal.is_some() || row.job.is_visible(now);
        (is_known && !is_unfounded).then(|| volatile(self.as_seen(&row.job, row.note.dirty, now)))
    }

    /// Returns the entry of `id`, if the primary has had no other version for longer than a moment. Never returns
    /// tombstones.
    pub fn get_fresh(&self, id: &JobId) -> Option<Stored> {
        let entries = self.entries();
        let is_late = entries.heard_until.is_none_or(|until| until.elapsed() > LAG);
        let Row { job, note } = entries.table.get(id)?;
        if is_late || !entries.partitions[note.partition].is_available() {
            return None;
        }
        let is_current = note.fresh == Some(entries.freshness_of(note)) && job.version.revision >= note.notified;
        let is_there = is_current && !note.dirty && job.removal.is_none();
        is_there.then(|| Stored {
            job: self.with_liveness(job),
            durability: Durability::Durable,
            source: Source::Memory,
        })
    }

    /// Returns a version of the primary with its lease as it runs.
    pub fn with_liveness(&self, job: &Arc<Job>) -> Arc<Job> {
        if job.lease.expire_time.is_none() {
            return job.clone();
        }
        self.as_seen(job, false, self.clock.now())
    }

    /// Returns a version with the lease as it runs, if the lease seems over.
    fn as_seen(&self, job: &Arc<Job>, dirty: bool, now: Timestamp) -> Arc<Job> {
        if dirty { job.clone() } else { self.presence.with_running_lease(self.partition_of(&job.id), job, now) }
    }

    /// Marks an entry as fresh whose version the primary had when it was asked, after `since` was taken.
    pub fn mark_fresh(&self, job: &Job, since: Option<FreshnessToken>) {
        let mut entries = self.entries();
        if since.is_none() || since != entries.freshness(&job.id) {
            return;
        }
        if let Some((_, meta)) = entries.table.note(&job.id).filter(|(held, _)| held.version == job.version) {
            meta.fresh = since;
        }
    }

    /// Handles a missing record: the primary was asked for `id` after `since` was taken, and has none. If the same
    /// entry is still cached, and a deletion would have left a tombstone, the record was lost: the entry becomes dirty,
    /// and is returned.
    pub fn mark_lost(&self, id: &JobId, since: Option<FreshnessToken>) -> Option<Stored> {
        let now = self.clock.now();
        let mut entries = self.entries();
        if !since?.is_of_same_entry(&entries.freshness(id)?) {
            return None;
        }
        let row = entries.table.get(id)?;
        let (job, meta) = (row.job.clone(), row.note);
        let unconfirmed_since = entries.entry(row, now).unconfirmed_since;
        let is_remembered = now.since(unconfirmed_since) < TOMBSTONE_LIFE;
        if job.removal.is_some() || !job.is_visible(now) || !(meta.dirty || is_remembered) {
            return None;
        }
        if meta.dirty {
            return Some(volatile(job));
        }
        self.presence.begin_dirty(meta.partition);
        entries.put(job.clone(), EntryMeta { dirty: true, lost: true, fresh: None, ..meta });
        self.report_dirty(&entries, meta.partition);
        drop(entries);
        self.unsettled[meta.partition].notify_one();
        Some(volatile(job))
    }

    /// Returns the entry of `id`.
    pub fn entry(&self, id: &JobId) -> Option<CacheEntry> {
        let entries = self.entries();
        entries.table.get(id).map(|row| entries.entry(row, self.clock.now()))
    }

    /// Returns the dirty entry of `id`, if there is one.
    pub fn accepted(&self, id: &JobId) -> Option<Stored> {
        self.entries().table.get(id).filter(|row| row.note.dirty).map(|row| volatile(row.job.clone()))
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

    /// Returns the number of announced versions.
    pub fn position(&self) -> u64 {
        self.entries().announced
    }

    /// Accepts a version that the primary did not take. `previous` is the version that it was derived from; `sent`: the
    /// primary may have received it.
    pub fn accept(&self, job: Arc<Job>, previous: Option<&Job>, sent: bool) -> Result<Replaced, StoreError> {
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        let now = self.clock.now();
        let there = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now));
        // An entry that is not cached has just been read from the primary.
        if let Some(row) = there {
            if row.job.version == job.version {
                return Ok(Replaced::Stored(volatile(job)));
            }
            // The times differ if the clock was set since `previous` was read.
            let known = |job: &Job| (job.version, job.create_time);
            if previous.map(known) != Some(known(&row.job)) {
                return Ok(Replaced::Conflict(Some(volatile(row.job.clone()))));
            }
        }
        let job = if previous.is_none() { entries.by_set_clock(job, now) } else { job };
        let before = there.map(|row| row.note);
        let base = before.map_or_else(|| previous.map(|job| job.version), |before| before.base);
        let confirmed = before.map_or(now, |before| before.confirmed);
        let unsent = !sent && before.map_or(previous.is_none(), |before| before.unsent);
        let (lost, suspect_until) = before.map_or((false, None), |before| (before.lost, before.suspect_until));
        let evicted = entries.make_room(self.capacity, &job, true)?;
        // Must precede the acknowledgement.
        self.presence.begin_dirty(partition);
        let before = previous.filter(|before| before.version.incarnation_id == job.version.incarnation_id);
        let meta = EntryMeta { lost, unsent, suspect_until, base, ..entries.meta(&job, partition, true, confirmed) };
        entries.put(job.clone(), meta);
        self.report_dirty(&entries, partition);
        self.announce(&mut entries, volatile(job.clone()), before.map(|before| before.state));
        drop(entries);
        drop(evicted);
        self.unsettled[partition].notify_one();
        Ok(Replaced::Stored(volatile(job)))
    }

    /// Records that the primary failed a command for a job. Until the primary has been checked, changes of the job are
    /// accepted here: a caller that has waited to read from a silent primary does not wait again.
    pub fn suspect(&self, id: &JobId) {
        if let Some((_, meta)) = self.entries().table.note(id) {
            meta.suspect_until = Some(Instant::now() + SUSPICION);
        }
    }

    /// Records that these entries are about to be sent to the primary.
    pub fn mark_sent(&self, ids: &[JobId]) {
        let mut entries = self.entries();
        for id in ids {
            entries.table.note(id).into_iter().for_each(|(_, meta)| meta.unsent = false);
        }
    }

    /// Takes in a version of the primary. `before` is the state before it, if that is known. A later version replaces
    /// the entry; if it is unclear which is later, a reconciliation merges the two.
    pub fn learn(&self, stored: &Stored, before: Option<State>) {
        let (job, now) = (&stored.job, self.clock.now());
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        let meta = entries.meta(job, partition, false, now);
        if let Some(row) = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now)) {
            let (held, is_dirty) = (row.job.version, row.note.dirty);
            let is_compared = row.note.compared_in == entries.partitions[partition].pass();
            if held == job.version {
                if !is_dirty {
                    entries.table.note(&job.id).into_iter().for_each(|(_, known)| *known = meta);
                    return;
                }
                self.put_clean(&mut entries, job.clone(), meta);
                return self.announce(&mut entries, stored.clone(), before);
            }
            // A reconciliation decides about entries that it has not compared yet.
            if is_dirty || !(entries.partitions[partition].is_readable() || is_compared) {
                return;
            }
            if held.incarnation_id == job.version.incarnation_id && held.revision == job.version.revision {
                // The primary had another change under this revision, so it has lost data.
                return self.mark_unavailable(&mut entries, partition, false);
            }
            if !comes_after(job, &row.job) {
                return;
            }
            let displaced = row.job.clone();
            self.announce_displaced(&mut entries, &displaced, job, now);
        }
        let evicted = entries.make_room(self.capacity, job, false);
        if evicted.is_ok() {
            self.put_clean(&mut entries, job.clone(), meta);
        } else {
            // Without room for this version, an older one is of no use.
            entries.forget(&job.id);
        }
        self.announce(&mut entries, stored.clone(), before);
        drop(entries);
        drop(evicted);
    }

    fn put_clean(&self, entries: &mut Entries, job: Arc<Job>, meta: EntryMeta) {
        debug_assert!(!meta.dirty, "the primary has it");
        entries.put(job, meta);
        self.report_dirty(entries, meta.partition);
    }

    fn report_dirty(&self, entries: &Entries, partition: usize) {
        self.presence.set_dirty_jobs(partition, entries.partitions[partition].dirty());
    }

    /// Records that the version `sent` was pushed, and the primary has `stored` now. Later changes of the entry stay.
    pub fn mark_synced(&self, sent: &Job, stored: &Stored) {
        let partition = self.partition_of(&sent.id);
        let mut entries = self.entries();
        let Some(row) = entries.table.get(&sent.id) else { return };
        if row.job.version != sent.version && row.job.version != stored.job.version {
            return;
        }
        // A reader that lists jobs in the primary may not know of a version that was accepted here.
        let news = row.note.dirty || row.job.version != stored.job.version;
        let same = row.job.version.incarnation_id == stored.job.version.incarnation_id;
        let before = Some(row.job.state).filter(|_| same);
        let displaced = row.job.clone();
        let now = self.clock.now();
        self.announce_displaced(&mut entries, &displaced, &stored.job, now);
        let meta = entries.meta(&stored.job, partition, false, now);
        let compared_in = entries.partitions[partition].pass();
        self.put_clean(&mut entries, stored.job.clone(), EntryMeta { fresh: None, compared_in, ..meta });
        if news {
            self.announce(&mut entries, stored.clone(), before);
        }
    }

    /// Removes the entry of this version.
    pub fn forget(&self, job: &Job) {
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        if entries.table.get(&job.id).is_some_and(|row| row.job.version == job.version) {
            let forgotten = entries.forget(&job.id);
            self.report_dirty(&entries, partition);
            drop(entries);
            drop(forgotten);
        }
    }

    /// Returns the cached jobs that a query selects.
    pub fn list(&self, query: &ListQuery) -> Page {
        let seen = |row: &Row<EntryMeta>| self.as_seen(&row.job, row.note.dirty, query.now);
        let selection = self.entries().table.select(query, seen);
        let jobs = selection.jobs.into_iter().map(volatile).collect();
        Page { jobs, next: selection.next, total: None, partial: true }
    }

    /// Returns the due records of jobs that were never sent to the primary: of other jobs another replica may know
    /// more. Examines a few at a time, because callers wait for the lock.
    pub fn due(&self, now: Timestamp, limit: usize) -> DueBatch {
        let mut batch = DueBatch::default();
        let mut after = None;
        loop {
            let entries = self.entries();
            let mut last = None;
            for (time, row, due) in entries.table.due_after(after.as_ref()).take(LOOKED_AT) {
                if time > now || batch.records.len() == limit {
                    batch.next = Some(time.max(now));
                    return batch;
                }
                last = Some((time, &row.job.id));
                let is_available = entries.partitions[row.note.partition].is_available();
                if row.note.dirty && row.note.unsent && !is_available && due != Due::Forget {
                    batch.records.push(DueRecord { stored: volatile(row.job.clone()), due });
                }
            }
            let Some((time, id)) = last else { return batch };
            after = Some((time, id.clone()));
        }
    }

    /// Returns whether time decides about `job` here: it was never sent to the primary, and the deadline has passed. The
    /// clock may have been set since that was found.
    pub fn decides(&self, job: &Job, deadline: &Deadline) -> bool {
        let entries = self.entries();
        let now = self.clock.now();
        let row = entries.table.get(&job.id).filter(|row| row.job.version == job.version);
        row.is_some_and(|row| row.note.unsent && row.job.time_of(deadline) <= now)
    }

    /// Removes tombstones that the primary has forgotten, and jobs that it must have removed. Removes a few at a time,
    /// because callers wait for the lock.
    pub async fn tidy(&self) {
        let now = self.clock.now();
        let mut after = None;
        while let Some(last) = self.tidy_some(now, after.as_ref()) {
            after = Some(last);
            yield_now().await;
        }
    }

    /// Does this for some of the entries that are due after a position. Returns the position of the last of them.
    fn tidy_some(&self, now: Timestamp, after: Option<&(Timestamp, JobId)>) -> Option<(Timestamp, JobId)> {
        let mut entries = self.entries();
        let is_over = |time: Timestamp, row: &Row<EntryMeta>, due| match due {
            _ if row.note.dirty => false,
            Due::Forget => true,
            Due::Expire => row.job.state.is_terminal() && time + TOMBSTONE_LIFE <= now,
            Due::LoseWorker | Due::ForceCancel => false,
        };
        let due = entries.table.due_after(after).take_while(|(time, ..)| *time <= now);
        let (mut last, mut over) = (None, Vec::new());
        for (time, row, due) in due.take(FORGOTTEN_AT_ONCE) {
            last = Some((time, &row.job.id));
            if is_over(time, row, due) {
                over.push(row.job.id.clone());
            }
        }
        let last = last.map(|(time, id)| (time, id.clone()));
        let forgotten: Vec<_> = over.iter().filter_map(|id| entries.forget(id)).collect();
        drop(entries);
        drop(forgotten);
        last
    }

    /// Announces the removal of a job whose id another job has, of which its watchers might never hear: they watch by
    /// owner and kind.
    fn announce_displaced(&self, entries: &mut Entries, displaced: &Job, by: &Job, now: Timestamp) {
        let is_other = displaced.version.incarnation_id != by.version.incarnation_id;
        let is_hidden = displaced.owner != by.owner || displaced.kind != by.kind;
        if is_other && is_hidden && displaced.removal.is_none() {
            let mut removed = displaced.expired(now, by.version.change_id);
            // The job that stands may have the next revision, and must be newer than this.
            removed.version.revision = displaced.version.revision;
            self.announce(entries, volatile(removed.into()), Some(displaced.state));
        }
    }

    fn announce(&self, entries: &mut Entries, stored: Stored, previous: Option<State>) {
        entries.announced += 1;
        self.listener.changed(CommitEvent { stored, position: entries.announced, previous });
    }
}

impl Measured for LocalCache {
    fn metrics(&self) -> Metrics {
        vec![Box::new(self.opened.clone())]
    }
}

impl Listener for LocalCache {
    fn changed(&self, event: CommitEvent) {
        self.learn(&event.stored, event.previous);
    }

    fn hinted(&self, notification: &ChangeNotification<'_>) -> bool {
        let mut entries = self.entries();
        if let Some((job, meta)) = entries.table.note(notification.id) {
            meta.notified = meta.notified.max(notification.revision);
            return !notification.own || job.version.revision < notification.revision;
        }
        drop(entries);
        self.listener.hinted(notification)
    }

    fn set_clock(&self, set: &dyn Fn() -> i64) {
        let mut entries = self.entries();
        let by = set();
        if by != 0 {
            entries.move_times(by, self.clock.now());
        }
    }

    fn heard_until(&self, time: Instant) {
        self.entries().heard_until = Some(time);
    }

    fn watched(&self) -> Vec<JobId> {
        self.listener.watched()
    }

    fn vanished(&self, id: &JobId) {
        let since = self.entries().freshness(id);
        self.mark_lost(id, since);
    }

    fn missed(&self) {
        let mut entries = self.entries();
        let serves = entries.partitions.iter().any(Partition::is_available);
        entries.lose_track(Some(self.clock.now()).filter(|_| serves));
        let available = entries.all_available();
        drop(entries);
        // While the primary is unavailable nobody reads it, and when it is back everything counts as missed.
        if available {
            self.listener.missed();
        }
    }
}

fn volatile(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}
