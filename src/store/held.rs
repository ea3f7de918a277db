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

use super::{
    Announcement, DueBatch, DueRecord, Durability, Hint, Listener, Page, Replaced, Source, StorageMode, StoreError,
    Stored,
    entries::{Entries, Entry, Following, Note},
    table::Row,
};
use crate::{
    clock::Clock,
    domain::{Due, Job, JobId, ListQuery, State, TOMBSTONE_LIFE, Timestamp, merge},
};

/// How far behind an entry may be that is served while the store of record serves too.
const LAG: Duration = Duration::from_secs(1);

/// What this replica holds.
pub struct Held {
    listener: Arc<dyn Listener>,
    clock: Arc<dyn Clock>,
    max_jobs: usize,
    entries: Mutex<Entries>,
    mode: watch::Sender<StorageMode>,
    /// The store of record went away, or something was accepted that it does not have.
    unsettled: Notify,
}

impl Held {
    /// Holds at most `max_jobs` jobs, and tells `listener` what happens. The store of record counts as away at first.
    pub fn new(max_jobs: usize, listener: Arc<dyn Listener>, clock: Arc<dyn Clock>) -> Self {
        let entries = Entries { away_since: Some(clock.now()), ..Entries::default() };
        let mode = watch::Sender::new(StorageMode::Degraded);
        Self { listener, clock, max_jobs, entries: Mutex::new(entries), mode, unsettled: Notify::new() }
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
        let mut entries = self.entries();
        entries.readable = readable;
        if entries.away_since.is_none() {
            entries.away_since = Some(self.clock.now());
            entries.lose_track();
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
        true
    }

    /// What is held for `id`, as it is served while the store of record is away.
    pub fn get(&self, id: &JobId) -> Option<Stored> {
        self.entries().table.get(id).map(|row| volatile(row.job.clone()))
    }

    /// What is held for `id`, if the store of record has had nothing else for longer than a moment. No tombstones.
    pub fn recent(&self, id: &JobId) -> Option<Stored> {
        let entries = self.entries();
        let is_late = entries.heard_until.is_none_or(|until| until.elapsed() > LAG);
        if is_late || entries.away_since.is_some() {
            return None;
        }
        let Row { job, note } = entries.table.get(id)?;
        let is_current = note.followed == Some(entries.following) && job.version.revision >= note.hinted;
        let is_there = is_current && !note.dirty && job.removal.is_none();
        is_there.then(|| Stored { job: job.clone(), durability: Durability::Durable, source: Source::Memory })
    }

    /// Whether `id` is held, so that all of its changes are heard of from now on: see [`follow`](Self::follow).
    pub fn following(&self, id: &JobId) -> Option<Following> {
        let entries = self.entries();
        entries.table.get(id).map(|_| entries.following)
    }

    /// This version was there when the store of record was asked, and that was after `since` was taken.
    pub fn follow(&self, job: &Job, since: Option<Following>) {
        let mut entries = self.entries();
        if since != Some(entries.following) {
            return;
        }
        if let Some((_, note)) = entries.table.note(&job.id).filter(|(held, _)| held.version == job.version) {
            note.followed = since;
        }
    }

    /// The entry of `id`.
    pub fn entry(&self, id: &JobId) -> Option<Entry> {
        let entries = self.entries();
        let row = entries.table.get(id)?;
        Some(entries.entry(&row.job, row.note))
    }

    /// How many entries the store of record does not have.
    pub fn dirty(&self) -> usize {
        self.entries().dirty
    }

    /// How many jobs are held.
    pub fn count(&self) -> usize {
        self.entries().table.len()
    }

    /// How many of them are in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        self.entries().table.counts()
    }

    /// How many versions were announced.
    pub fn position(&self) -> u64 {
        self.entries().announced
    }

    /// All entries whose time is not over, or those that are dirty: ended jobs first.
    pub fn to_offer(&self, only_dirty: bool) -> Vec<Entry> {
        let now = self.clock.now();
        let entries = self.entries();
        let lives = |job: &Job| job.removal.is_some() || job.is_visible(now);
        let wanted = entries.table.rows().filter(|row| row.note.dirty || (!only_dirty && lives(&row.job)));
        let mut wanted: Vec<_> = wanted.map(|row| entries.entry(&row.job, row.note)).collect();
        drop(entries);
        wanted.sort_by_key(|entry| !entry.job.state.is_terminal());
        wanted
    }

    /// Takes a version that the store of record did not. `previous` is what the version was made from.
    pub fn accept(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let mut entries = self.entries();
        let there = entries.table.get(&job.id).map(|row| (row.job.clone(), row.note));
        // What is not held has just been read from the store of record.
        if let Some((there, _)) = &there {
            if there.version == job.version {
                return Ok(Replaced::Stored(volatile(job)));
            }
            if previous.map(|previous| previous.version) != Some(there.version) {
                return Ok(Replaced::Conflict(Some(volatile(there.clone()))));
            }
        }
        if !entries.make_room(self.max_jobs, &job.id) {
            return Err(StoreError::Full(self.max_jobs));
        }
        let base = there.as_ref().map_or_else(|| previous.map(|job| job.version), |(_, note)| note.base);
        let confirmed = there.map_or_else(|| self.clock.now(), |(_, note)| note.confirmed);
        let before = previous.filter(|before| before.version.uid == job.version.uid).map(|before| before.state);
        entries.put(job.clone(), Note { dirty: true, base, confirmed, followed: None, hinted: 0 });
        self.announce(&mut entries, volatile(job.clone()), before);
        self.unsettled.notify_one();
        Ok(Replaced::Stored(volatile(job)))
    }

    /// Takes note of a version that the store of record has. `before` is the state before it, if that is known.
    pub fn learn(&self, stored: &Stored, before: Option<State>) {
        let mut entries = self.entries();
        let mut note = self.clean(&stored.job);
        if let Some(row) = entries.table.get(&stored.job.id) {
            note = Note { followed: row.note.followed, hinted: row.note.hinted, ..note };
            if row.job.version == stored.job.version {
                match entries.table.note(&stored.job.id) {
                    Some((_, known)) if !known.dirty => *known = note,
                    _ => entries.put(stored.job.clone(), note),
                }
                return;
            }
            // What is dirty is merged with it in time. What is clean gives way to what came later.
            if row.note.dirty || !comes_after(&stored.job, &row.job) {
                return;
            }
        }
        if entries.make_room(self.max_jobs, &stored.job.id) {
            entries.put(stored.job.clone(), note);
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
        let news = row.job.version != stored.job.version;
        let before = Some(row.job.state).filter(|_| row.job.version.uid == stored.job.version.uid);
        entries.put(stored.job.clone(), self.clean(&stored.job));
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

    /// What is due of what is held, or of what is dirty. Tombstones that the store of record does not have are kept.
    pub fn due(&self, now: Timestamp, limit: usize, only_dirty: bool) -> DueBatch {
        let entries = self.entries();
        let mut batch = DueBatch::default();
        for (time, row, due) in entries.table.due() {
            if if row.note.dirty { due == Due::Forget } else { only_dirty } {
                continue;
            }
            if time > now || batch.records.len() == limit {
                batch.next = Some(time);
                break;
            }
            batch.records.push(DueRecord { stored: volatile(row.job.clone()), due });
        }
        batch
    }

    /// Forgets what the store of record has removed, or will, and everybody else has forgotten.
    pub fn tidy(&self) {
        let now = self.clock.now();
        let mut entries = self.entries();
        let is_over = |row: &Row<Note>, due| !row.note.dirty && matches!(due, Due::Forget | Due::Expire);
        let due = entries.table.due().take_while(|(time, ..)| *time + TOMBSTONE_LIFE <= now);
        let over: Vec<_> =
            due.filter(|(_, row, due)| is_over(row, *due)).map(|(_, row, _)| row.job.id.clone()).collect();
        let forgotten: Vec<_> = over.iter().filter_map(|id| entries.forget(id)).collect();
        drop(entries);
        drop(forgotten);
    }

    fn clean(&self, job: &Job) -> Note {
        Note { dirty: false, base: Some(job.version), confirmed: self.clock.now(), followed: None, hinted: 0 }
    }

    fn announce(&self, entries: &mut Entries, stored: Stored, previous: Option<State>) {
        entries.announced += 1;
        self.listener.changed(Announcement { stored, position: entries.announced, previous });
    }
}

impl Listener for Held {
    fn changed(&self, announcement: Announcement) {
        self.learn(&announcement.stored, announcement.previous);
    }

    fn hinted(&self, hint: &Hint<'_>) -> bool {
        let mut entries = self.entries();
        if let Some((_, note)) = entries.table.note(hint.id) {
            note.hinted = note.hinted.max(hint.revision);
            return true;
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
        self.entries().lose_track();
        self.listener.missed();
    }
}

fn volatile(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}

/// Whether `job` came later than `held`, or stands where the two are of lives that began apart.
fn comes_after(job: &Job, held: &Job) -> bool {
    if job.version.uid == held.version.uid {
        // Where the same revision is another version, the store of record has lost something, and is right.
        (job.version.revision, job.version.stamp != held.version.stamp) > (held.version.revision, false)
    } else {
        merge(job, held).job.version.uid == job.version.uid
    }
}
