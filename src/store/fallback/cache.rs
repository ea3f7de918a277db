//! What this replica holds of the jobs that passed through it: what it serves from while the store of record is away.
//!
//! An entry is clean if the store of record had exactly that version when it was last heard of, and dirty if it was
//! accepted here alone. Everything that subscribers of this replica are told goes through here, in one order.
//!
//! While all commits are heard of, an entry is as good as the record itself: it is followed from the moment at which the
//! store of record, asked when the entry was here already, confirmed it. A hint of a newer version outdates it until
//! that is read; when hints were lost, none is followed any more.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};

use super::entries::{Entries, Entry, FreshnessToken, Note, comes_after};
use crate::{
    clock::Clock,
    domain::{Due, Job, JobId, ListQuery, State, TOMBSTONE_LIFE, Timestamp},
    store::{
        ChangeNotification, CommitEvent, DueBatch, DueRecord, Durability, Listener, Page, Replaced, Source,
        StorageMode, StoreError, Stored, table::Row,
    },
    telemetry::metrics::{Counter, Measured, Metrics, counter},
};

/// How far behind an entry may be that is served while the store of record serves too.
const LAG: Duration = Duration::from_secs(1);

/// What this replica holds.
pub struct LocalCache {
    listener: Arc<dyn Listener>,
    clock: Arc<dyn Clock>,
    max_jobs: usize,
    entries: Mutex<Entries>,
    mode: watch::Sender<StorageMode>,
    /// The store of record went away, or something was accepted that it does not have.
    unsettled: Notify,
    opened: Counter,
}

impl LocalCache {
    /// Holds at most `max_jobs` jobs, and tells `listener` what happens. The store of record counts as away at first.
    pub fn new(max_jobs: usize, listener: Arc<dyn Listener>, clock: Arc<dyn Clock>) -> Self {
        let entries = Entries::new(clock.now());
        let mode = watch::Sender::new(StorageMode::Degraded);
        let opened = counter("jobtrack_breaker_opened_total", "How often Redis began to count as away.");
        Self { listener, clock, max_jobs, entries: Mutex::new(entries), mode, unsettled: Notify::new(), opened }
    }

    /// The lock. A panic under it would leave at worst an index entry too many, which readers pass over.
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store of record serves, and each change of that.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    /// Whether the store of record is away.
    pub fn is_away(&self) -> bool {
        self.entries().away_since.is_some()
    }

    /// Waits until the store of record is away, or does not have all that is held.
    pub async fn is_unsettled(&self) {
        loop {
            let changed = self.unsettled.notified();
            if self.is_away() || self.dirty() > 0 {
                return;
            }
            changed.await;
        }
    }

    /// Whether the store of record is to be asked for `id`.
    pub fn is_readable(&self, id: &JobId) -> bool {
        let entries = self.entries();
        let is_dirty = || entries.table.get(id).is_some_and(|row| row.note.dirty);
        entries.answers() && !is_dirty()
    }

    /// Whether the store of record answers.
    pub fn is_listable(&self) -> bool {
        self.entries().answers()
    }

    /// The store of record is away from now on; it may be `readable` all the same.
    pub fn go_away(&self, readable: bool) {
        self.mark_away(&mut self.entries(), readable);
    }

    fn mark_away(&self, entries: &mut Entries, readable: bool) {
        entries.readable = readable;
        if entries.away_since.is_none() {
            entries.away_since = Some(self.clock.now());
            entries.lose_track(self.clock.now());
            self.opened.inc();
            self.mode.send_replace(StorageMode::Degraded);
            self.unsettled.notify_one();
        }
    }

    /// The store of record is back, unless something is held that it does not have. Says whether it is.
    pub fn come_back(&self) -> bool {
        let mut entries = self.entries();
        if entries.dirty > 0 {
            return false;
        }
        entries.away_since = None;
        self.mode.send_replace(StorageMode::Redis);
        drop(entries);
        // Whoever listed jobs meanwhile had those that are held, and no others.
        self.listener.missed();
        true
    }

    /// What is held for `id`, as it is served while the store of record is away. What may be over elsewhere, or may not,
    /// is not told.
    pub fn get(&self, id: &JobId) -> Option<Stored> {
        let now = self.clock.now();
        let entries = self.entries();
        let row = entries.table.get(id).filter(|row| !Entries::is_forgotten(row, now))?;
        let is_known = row.note.dirty || row.job.removal.is_some() || row.job.is_visible(now);
        is_known.then(|| volatile(row.job.clone()))
    }

    /// What is held for `id`, if the store of record has had nothing else for longer than a moment. No tombstones.
    pub fn recent(&self, id: &JobId) -> Option<Stored> {
        let entries = self.entries();
        let is_late = entries.heard_until.is_none_or(|until| until.elapsed() > LAG);
        if is_late || entries.away_since.is_some() {
            return None;
        }
        let Row { job, note } = entries.table.get(id)?;
        let is_current = note.followed == entries.following(id) && job.version.revision >= note.hinted;
        let is_there = is_current && !note.dirty && job.removal.is_none();
        is_there.then(|| Stored { job: job.clone(), durability: Durability::Durable, source: Source::Memory })
    }

    /// Whether `id` is held, so that all of its changes are heard of from now on: see [`follow`](Self::follow).
    pub fn following(&self, id: &JobId) -> Option<FreshnessToken> {
        self.entries().following(id)
    }

    /// This version was there when the store of record was asked, and that was after `since` was taken.
    pub fn follow(&self, job: &Job, since: Option<FreshnessToken>) {
        let mut entries = self.entries();
        if since.is_none() || since != entries.following(&job.id) {
            return;
        }
        if let Some((_, note)) = entries.table.note(&job.id).filter(|(held, _)| held.version == job.version) {
            note.followed = since;
        }
    }

    /// The entry of `id`.
    pub fn entry(&self, id: &JobId) -> Option<Entry> {
        let entries = self.entries();
        entries.table.get(id).map(|row| entries.entry(row))
    }

    /// What was accepted here for `id`, if the store of record does not have it.
    pub fn accepted(&self, id: &JobId) -> Option<Stored> {
        self.entries().table.get(id).filter(|row| row.note.dirty).map(|row| volatile(row.job.clone()))
    }

    /// How many entries the store of record does not have.
    pub fn dirty(&self) -> usize {
        self.entries().dirty
    }

    /// How many jobs are held.
    pub fn count(&self) -> usize {
        self.entries().table.len()
    }

    /// How many of them an owner has.
    pub fn count_of_owner(&self, owner: &str) -> u64 {
        self.entries().table.count_of(owner)
    }

    /// How many of them are in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        self.entries().table.counts()
    }

    /// How many versions were announced.
    pub fn position(&self) -> u64 {
        self.entries().announced
    }

    /// All entries that somebody may still know of, or those that are dirty: ended jobs first.
    pub fn to_offer(&self, only_dirty: bool) -> Vec<Entry> {
        let now = self.clock.now();
        let mut entries = self.entries();
        entries.reconciliation += u64::from(!only_dirty);
        // An end stands though the job's time is over by now.
        let is_known = |row: &Row<Note>| {
            let end = row.job.expire_time.filter(|_| row.job.removal.is_none()).map(|time| time + TOMBSTONE_LIFE);
            !Entries::is_forgotten(row, now) && end.is_none_or(|end| now < end)
        };
        let wanted = entries.table.rows().filter(|row| row.note.dirty || (!only_dirty && is_known(row)));
        let mut wanted: Vec<_> = wanted.map(|row| entries.entry(row)).collect();
        drop(entries);
        wanted.sort_by_key(|entry| !entry.job.state.is_terminal());
        wanted
    }

    /// Takes a version that the store of record did not. `previous` is what the version was made from.
    pub fn accept(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let mut entries = self.entries();
        let now = self.clock.now();
        let there = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now));
        // What is not held has just been read from the store of record.
        if let Some(row) = there {
            if row.job.version == job.version {
                return Ok(Replaced::Stored(volatile(job)));
            }
            if previous.map(|previous| previous.version) != Some(row.job.version) {
                return Ok(Replaced::Conflict(Some(volatile(row.job.clone()))));
            }
        }
        let before = there.map(|row| (row.note.base, row.note.confirmed));
        let (base, confirmed) = before.unwrap_or_else(|| (previous.map(|job| job.version), now));
        if !entries.make_room(self.max_jobs, &job.id, true) {
            return Err(StoreError::Full(self.max_jobs));
        }
        let before = previous
            .filter(|before| before.version.incarnation_id == job.version.incarnation_id)
            .map(|before| before.state);
        let note = Note { base, ..entries.note(&job, true, confirmed) };
        entries.put(job.clone(), note);
        self.announce(&mut entries, volatile(job.clone()), before);
        self.unsettled.notify_one();
        Ok(Replaced::Stored(volatile(job)))
    }

    /// Takes note of a version that the store of record has. `before` is the state before it, if that is known. What is
    /// held gives way to what came later; where it can't be told what did, the two are merged by a reconciliation.
    pub fn learn(&self, stored: &Stored, before: Option<State>) {
        let (job, now) = (&stored.job, self.clock.now());
        let mut entries = self.entries();
        let note = entries.note(job, false, now);
        if let Some(row) = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now)) {
            let (held, is_dirty) = (row.job.version, row.note.dirty);
            let is_compared = row.note.compared_in == entries.reconciliation;
            if held == job.version {
                if !is_dirty {
                    entries.table.note(&job.id).into_iter().for_each(|(_, known)| *known = note);
                    return;
                }
                entries.put(job.clone(), note);
                return self.announce(&mut entries, stored.clone(), before);
            }
            // A reconciliation decides about what it has not come to yet.
            if is_dirty || !(entries.answers() || is_compared) {
                return;
            }
            if held.incarnation_id == job.version.incarnation_id && held.revision == job.version.revision {
                // The store of record had another change under this revision: it has lost something.
                return self.mark_away(&mut entries, false);
            }
            if !comes_after(job, &row.job) {
                return;
            }
        }
        if entries.make_room(self.max_jobs, &job.id, false) {
            entries.put(job.clone(), note);
        }
        self.announce(&mut entries, stored.clone(), before);
    }

    /// The version `sent` was offered, and the store of record has `stored` now. What came meanwhile stays.
    pub fn settle(&self, sent: &Job, stored: &Stored) {
        let mut entries = self.entries();
        let Some(row) = entries.table.get(&sent.id) else { return };
        if row.job.version != sent.version && row.job.version != stored.job.version {
            return;
        }
        // Who lists jobs in the store of record may not know what was accepted here.
        let news = row.note.dirty || row.job.version != stored.job.version;
        let before =
            Some(row.job.state).filter(|_| row.job.version.incarnation_id == stored.job.version.incarnation_id);
        let note = entries.note(&stored.job, false, self.clock.now());
        let compared_in = entries.reconciliation;
        entries.put(stored.job.clone(), Note { followed: None, compared_in, ..note });
        if news {
            self.announce(&mut entries, stored.clone(), before);
        }
    }

    /// Holds this version no longer.
    pub fn forget(&self, job: &Job) {
        let mut entries = self.entries();
        if entries.table.get(&job.id).is_some_and(|row| row.job.version == job.version) {
            let forgotten = entries.forget(&job.id);
            drop(entries);
            drop(forgotten);
        }
    }

    /// What a query selects of what is held.
    pub fn list(&self, query: &ListQuery) -> Page {
        let selection = self.entries().table.select(query);
        let jobs = selection.jobs.into_iter().map(volatile).collect();
        Page { jobs, next: selection.next, total: None, partial: true }
    }

    /// What is due of what the store of record does not have. Of the rest others may know more: a worker may report
    /// elsewhere. Tombstones are kept.
    pub fn due(&self, now: Timestamp, limit: usize) -> DueBatch {
        let entries = self.entries();
        let mut batch = DueBatch::default();
        for (time, row, due) in entries.table.due() {
            if time > now || batch.records.len() == limit {
                batch.next = Some(time);
                break;
            }
            if !row.note.dirty || due == Due::Forget {
                continue;
            }
            batch.records.push(DueRecord { stored: volatile(row.job.clone()), due });
        }
        batch
    }

    /// Forgets tombstones that the store of record has forgotten, and jobs that it must have removed.
    pub fn tidy(&self) {
        let now = self.clock.now();
        let mut entries = self.entries();
        let is_over = |time: Timestamp, row: &Row<Note>, due| match due {
            _ if row.note.dirty => false,
            Due::Forget => true,
            Due::Expire => time + TOMBSTONE_LIFE <= now,
            Due::LoseWorker => false,
        };
        let due = entries.table.due().take_while(|(time, ..)| *time <= now);
        let over = due.filter(|(time, row, due)| is_over(*time, row, *due));
        let over: Vec<_> = over.map(|(_, row, _)| row.job.id.clone()).collect();
        let forgotten: Vec<_> = over.iter().filter_map(|id| entries.forget(id)).collect();
        drop(entries);
        drop(forgotten);
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
    fn changed(&self, announcement: CommitEvent) {
        self.learn(&announcement.stored, announcement.previous);
    }

    fn hinted(&self, hint: &ChangeNotification<'_>) -> bool {
        let mut entries = self.entries();
        if let Some((job, note)) = entries.table.note(hint.id) {
            note.hinted = note.hinted.max(hint.revision);
            return !hint.own || job.version.revision < hint.revision;
        }
        drop(entries);
        self.listener.hinted(hint)
    }

    fn heard_until(&self, time: Instant) {
        self.entries().heard_until = Some(time);
    }

    fn watched(&self) -> Vec<JobId> {
        self.listener.watched()
    }

    fn missed(&self) {
        let mut entries = self.entries();
        entries.lose_track(self.clock.now());
        let answers = entries.answers();
        drop(entries);
        // While the store of record is away nobody reads it, and when it is back all is missed.
        if answers {
            self.listener.missed();
        }
    }
}

fn volatile(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}
