//! The entries of the local copy, what is known of each, and which of them are evicted.

use std::{sync::Arc, time::Instant};

use indexmap::IndexSet;

use crate::{
    domain::{Job, JobId, TOMBSTONE_LIFE, Timestamp, Version, merge},
    store::{
        History,
        table::{Row, Table},
    },
};

/// How many entries are looked at for one that can be evicted.
const LOOKED_AT: usize = 100;

/// The entries, and what is known of the primary.
#[derive(Default)]
pub struct Entries {
    /// The entries.
    pub table: Table<EntryMeta>,
    /// The primary's partitions.
    pub partitions: Vec<Partition>,
    /// How many versions were announced.
    pub announced: u64,
    /// Everything that was committed before is known here, or outdates what is.
    pub heard_until: Option<Instant>,
    /// How often notifications were lost: what was fresh before no longer is.
    gaps: u64,
    /// When notifications were last lost while the primary served.
    last_gap: Option<Timestamp>,
    /// How many entries there have been.
    made: u64,
}

/// A partition of the primary.
#[derive(Debug, Default)]
pub struct Partition {
    /// Since when it has been unavailable, and whether it can be read all the same.
    pub unavailable: Option<Unavailable>,
    /// The entries of active jobs that it does not have.
    dirty_active: IndexSet<JobId>,
    /// The entries of ended and removed jobs that it does not have.
    dirty_ended: IndexSet<JobId>,
    /// The number of the reconciliation pass that is under way, or was last.
    pass: u64,
    /// The history that the pass compares with, until it is over.
    pass_history: Option<History>,
}

/// That a partition does not serve.
#[derive(Clone, Copy, Debug)]
pub struct Unavailable {
    /// From then on.
    pub since: Timestamp,
    /// It takes no writes, and answers reads.
    pub readable: bool,
}

impl Partition {
    /// Whether it is served from, with reads and writes.
    pub const fn is_available(&self) -> bool {
        self.unavailable.is_none()
    }

    /// Whether it answers reads.
    pub fn is_readable(&self) -> bool {
        self.unavailable.is_none_or(|unavailable| unavailable.readable)
    }

    /// How many entries it does not have.
    pub fn dirty(&self) -> usize {
        self.dirty_active.len() + self.dirty_ended.len()
    }

    /// Up to `limit` of them, ended jobs first.
    pub fn first_dirty(&self, limit: usize) -> impl Iterator<Item = &JobId> {
        self.dirty_ended.iter().chain(&self.dirty_active).take(limit)
    }

    /// Takes note of whether it has the entry of `job`.
    fn note_dirty(&mut self, job: &Job, dirty: bool) {
        self.forget(&job.id);
        if dirty {
            let is_over = job.state.is_terminal() || job.removal.is_some();
            let dirty = if is_over { &mut self.dirty_ended } else { &mut self.dirty_active };
            dirty.insert(job.id.clone());
        }
    }

    fn forget(&mut self, id: &JobId) {
        self.dirty_active.swap_remove(id);
        self.dirty_ended.swap_remove(id);
    }

    /// Begins a pass over what is held, or goes on with the last one if that compared with the same history.
    pub fn begin_pass(&mut self, history: History) {
        if !self.pass_history.is_some_and(|known| known.is_continued_by(&history)) {
            self.pass += 1;
            self.pass_history = Some(history);
        }
    }

    /// The next time that it is unavailable, everything is compared anew.
    pub fn end_pass(&mut self) {
        self.pass_history = None;
    }

    /// The number of the pass that is under way, or was last.
    pub const fn pass(&self) -> u64 {
        self.pass
    }
}

/// What is fresh, from when: the entry, and the last gap in the notifications.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessToken {
    entry: u64,
    gaps: u64,
}

impl FreshnessToken {
    /// Whether the two are of one entry, whatever was missed in between.
    pub fn is_of_same_entry(&self, other: &Self) -> bool {
        self.entry == other.entry
    }
}

impl EntryMeta {
    /// Whether the primary failed a command for it a moment ago.
    pub fn is_suspect(&self) -> bool {
        self.suspect_until.is_some_and(|until| Instant::now() < until)
    }
}

/// What is known of an entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryMeta {
    /// The partition of its id.
    pub partition: usize,
    /// The primary does not have it.
    pub dirty: bool,
    /// The primary had it and lost it. It does not age until it is there again.
    pub lost: bool,
    /// No write of it was ever sent to the primary.
    pub unsent: bool,
    /// The primary failed a command for it: until then it is given no change of it.
    pub suspect_until: Option<Instant>,
    /// The version that the primary was last known to have.
    pub base: Option<Version>,
    /// When that was, or when the entry was made.
    pub confirmed: Timestamp,
    /// Tells this entry from others, before and after, of the same id.
    pub entry: u64,
    /// All its changes have been heard of since it was confirmed, unless there was another gap.
    pub fresh: Option<FreshnessToken>,
    /// The newest revision that was notified.
    pub notified: i64,
    /// The pass that compared it last with what the primary has.
    pub compared_in: u64,
}

/// An entry, to be pushed to the primary.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// The version that is held.
    pub job: Arc<Job>,
    /// The primary does not have it.
    pub dirty: bool,
    /// The version that the primary was last known to have.
    pub base: Option<Version>,
    /// Since when nobody knows whether the primary has it.
    pub unconfirmed_since: Timestamp,
}

impl CacheEntry {
    /// Whether its retention is not over; tombstones have none.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.job.removal.is_some() || self.job.is_visible(now)
    }
}

impl Entries {
    /// None yet. All partitions are unavailable since `now`.
    pub fn new(partitions: usize, now: Timestamp) -> Self {
        let unavailable = Some(Unavailable { since: now, readable: false });
        let partitions = (0..partitions).map(|_| Partition { unavailable, ..Partition::default() }).collect();
        Self { partitions, ..Self::default() }
    }

    /// How many entries the primary does not have.
    pub fn dirty(&self) -> usize {
        self.partitions.iter().map(Partition::dirty).sum()
    }

    /// Whether all partitions are served from.
    pub fn all_available(&self) -> bool {
        self.partitions.iter().all(Partition::is_available)
    }

    /// What is known of an entry of `job` that was confirmed at `now`, or made then. If one is in its place, and fresh, it
    /// stays so.
    pub fn meta(&mut self, job: &Job, partition: usize, dirty: bool, now: Timestamp) -> EntryMeta {
        if let Some(row) = self.table.get(&job.id) {
            let known = EntryMeta { suspect_until: None, ..row.note };
            return EntryMeta { dirty, lost: false, unsent: false, base: Some(job.version), confirmed: now, ..known };
        }
        self.made += 1;
        EntryMeta {
            partition,
            dirty,
            lost: false,
            unsent: false,
            suspect_until: None,
            base: Some(job.version),
            confirmed: now,
            entry: self.made,
            fresh: None,
            notified: 0,
            compared_in: self.partitions[partition].pass(),
        }
    }

    /// What is fresh from now on, if `id` is held.
    pub fn freshness(&self, id: &JobId) -> Option<FreshnessToken> {
        self.table.get(id).map(|row| self.freshness_of(&row.note))
    }

    /// What is fresh from now on of an entry that is held.
    pub const fn freshness_of(&self, meta: &EntryMeta) -> FreshnessToken {
        FreshnessToken { entry: meta.entry, gaps: self.gaps }
    }

    /// Whether this is a tombstone that the primary has forgotten by now, as everybody may.
    pub fn is_forgotten(row: &Row<EntryMeta>, now: Timestamp) -> bool {
        let is_over = row.job.forget_time.is_some_and(|time| time <= now);
        !row.note.dirty && row.job.removal.is_some() && is_over
    }

    /// Whether the primary may still have something for an entry: an end stands though the job's retention is over by now.
    pub fn is_known(row: &Row<EntryMeta>, now: Timestamp) -> bool {
        let is_live = row.job.removal.is_none() && row.job.state.is_terminal();
        let end = row.job.expire_time.filter(|_| is_live).map(|time| time + TOMBSTONE_LIFE);
        !Self::is_forgotten(row, now) && end.is_none_or(|end| now < end)
    }

    /// An entry as it is to be pushed.
    pub fn entry(&self, row: &Row<EntryMeta>, now: Timestamp) -> CacheEntry {
        let EntryMeta { partition, dirty, lost, base, confirmed, .. } = row.note;
        // As long as the primary served and notifications were heard, nothing was known to have changed.
        let heard_since = self.last_gap.is_none_or(|gap| confirmed > gap);
        let until = self.partitions[partition].unavailable.map_or(now, |unavailable| unavailable.since);
        let unconfirmed_since = match (lost, heard_since) {
            (true, _) => now,
            (false, true) => until.max(confirmed),
            (false, false) => confirmed,
        };
        CacheEntry { job: row.job.clone(), dirty, base, unconfirmed_since }
    }

    /// Puts an entry in the place of what is there.
    pub fn put(&mut self, job: Arc<Job>, meta: EntryMeta) {
        self.partitions[meta.partition].note_dirty(&job, meta.dirty);
        self.table.put(job, meta);
    }

    /// Forgets an entry, and returns it: freeing it may take longer than a lock should be held.
    pub fn forget(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let row = self.table.forget(id)?;
        self.partitions[row.note.partition].forget(id);
        Some(row.job)
    }

    /// Nothing is fresh any more. `gap` says whether notifications were lost while the primary served.
    pub fn lose_track(&mut self, gap: Option<Timestamp>) {
        self.gaps += 1;
        self.heard_until = None;
        self.last_gap = gap.or(self.last_gap);
    }

    /// Makes room for a version of `id`, where at most `max_jobs` may be held: clean entries are evicted, ended ones first.
    /// Says whether there is room. Where it is no `must`, no more than a few are looked at.
    pub fn make_room(&mut self, max_jobs: usize, id: &JobId, must: bool) -> bool {
        let is_clean = |table: &Table<EntryMeta>, id: &JobId| table.get(id).is_some_and(|row| !row.note.dirty);
        let some = if must { usize::MAX } else { LOOKED_AT };
        let is_dirty = self.table.get(id).is_some_and(|row| row.note.dirty);
        if must && !is_dirty && self.dirty() >= max_jobs {
            return false;
        }
        if self.table.tombstones().len() > max_jobs {
            let oldest = self.table.tombstones().take(LOOKED_AT).find(|id| is_clean(&self.table, id)).cloned();
            oldest.inspect(|oldest| _ = self.forget(oldest));
        }
        if self.table.len() < max_jobs || self.table.get(id).is_some_and(|row| row.job.removal.is_none()) {
            return true;
        }
        let ended = self.table.ended().take(LOOKED_AT).find(|id| is_clean(&self.table, id)).cloned();
        let is_clean_job = |row: &Row<EntryMeta>| !row.note.dirty && row.job.removal.is_none();
        let evicted = ended.or_else(|| self.table.next_in_turn(some, is_clean_job));
        evicted.is_some_and(|id| self.forget(&id).is_some())
    }
}

/// Whether `job` came later than `held`, or stands where the two are of incarnations that began apart.
pub fn comes_after(job: &Job, held: &Job) -> bool {
    if job.version.incarnation_id == held.version.incarnation_id {
        job.version.revision > held.version.revision
    } else {
        merge(job, held).job.version.incarnation_id == job.version.incarnation_id
    }
}
