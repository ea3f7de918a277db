//! The entries of what is held, and which of them give way.

use std::{sync::Arc, time::Instant};

use crate::{
    domain::{Job, JobId, TOMBSTONE_LIFE, Timestamp, Version, merge},
    store::table::{Row, Table},
};

/// How many entries are looked at for one that can give way.
const LOOKED_AT: usize = 100;

/// What is held, and what is known of the store of record.
#[derive(Default)]
pub struct Entries {
    /// The entries.
    pub table: Table<Note>,
    /// How many are dirty.
    pub dirty: usize,
    /// Since when the store of record has been away.
    pub away_since: Option<Timestamp>,
    /// It can be read all the same.
    pub readable: bool,
    /// How many versions were announced.
    pub announced: u64,
    /// Everything that was committed before is known here, or outdates what is.
    pub heard_until: Option<Instant>,
    /// How often hints were lost: what was followed before no longer is.
    losses: u64,
    /// When hints were last lost while the store of record served.
    lost_track: Option<Timestamp>,
    /// How many entries there have been.
    made: u64,
    /// Counts the reconciliations that were begun.
    pub reconciliation: u64,
}

/// What is followed, from when: the entry, and the last loss of hints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessToken {
    entry: u64,
    losses: u64,
}

/// What is noted of an entry.
#[derive(Clone, Copy)]
pub struct Note {
    /// The store of record does not have it.
    pub dirty: bool,
    /// The version that the store of record was last known to have.
    pub base: Option<Version>,
    /// When that was, or when the entry was made.
    pub confirmed: Timestamp,
    /// Tells this entry from others, before and after, of the same id.
    pub entry: u64,
    /// All its changes have been heard of since it was confirmed, unless there was another loss.
    pub followed: Option<FreshnessToken>,
    /// The newest revision that was hinted at.
    pub hinted: i64,
    /// The reconciliation that compared it last with what the store of record has.
    pub compared_in: u64,
}

/// An entry, to be offered to the store of record.
pub struct Entry {
    /// The version that is held.
    pub job: Arc<Job>,
    /// The store of record does not have it.
    pub dirty: bool,
    /// The version that the store of record was last known to have.
    pub base: Option<Version>,
    /// Since when nobody knows whether the store of record has it.
    pub unconfirmed_since: Timestamp,
}

impl Entry {
    /// Whether its time is not over; tombstones have none.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.job.removal.is_some() || self.job.is_visible(now)
    }
}

impl Entries {
    /// None yet. The store of record counts as away since `now`.
    pub fn new(now: Timestamp) -> Self {
        Self { away_since: Some(now), ..Self::default() }
    }

    /// Whether the store of record answers, as far as is known.
    pub const fn answers(&self) -> bool {
        self.away_since.is_none() || self.readable
    }

    /// The note on an entry that was confirmed at `now`, or made then; what is followed in its place goes on.
    pub fn note(&mut self, job: &Job, dirty: bool, now: Timestamp) -> Note {
        if let Some(row) = self.table.get(&job.id) {
            return Note { dirty, base: Some(job.version), confirmed: now, ..row.note };
        }
        self.made += 1;
        let (base, entry, compared_in) = (Some(job.version), self.made, self.reconciliation);
        Note { dirty, base, confirmed: now, entry, followed: None, hinted: 0, compared_in }
    }

    /// What is followed from now on, if `id` is held.
    pub fn following(&self, id: &JobId) -> Option<FreshnessToken> {
        self.table.get(id).map(|row| FreshnessToken { entry: row.note.entry, losses: self.losses })
    }

    /// Whether this is a tombstone that the store of record has forgotten by now, as everybody may.
    pub fn is_forgotten(row: &Row<Note>, now: Timestamp) -> bool {
        !row.note.dirty && row.job.removal.is_some() && row.job.update_time + TOMBSTONE_LIFE <= now
    }

    /// An entry as it is to be offered.
    pub fn entry(&self, row: &Row<Note>) -> Entry {
        // As long as the store of record served and hints were heard, nothing was known to have changed.
        let heard_since = self.lost_track.is_none_or(|lost| row.note.confirmed > lost);
        let heard_until = self.away_since.filter(|_| heard_since);
        let unconfirmed_since = heard_until.map_or(row.note.confirmed, |until| until.max(row.note.confirmed));
        Entry { job: row.job.clone(), dirty: row.note.dirty, base: row.note.base, unconfirmed_since }
    }

    /// Puts an entry in the place of what is there.
    pub fn put(&mut self, job: Arc<Job>, note: Note) {
        self.dirty += usize::from(note.dirty);
        let old = self.table.put(job, note);
        self.dirty -= usize::from(old.is_some_and(|old| old.note.dirty));
    }

    /// Forgets an entry, and returns it: freeing it may take longer than a lock should be held.
    pub fn forget(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let row = self.table.forget(id)?;
        self.dirty -= usize::from(row.note.dirty);
        Some(row.job)
    }

    /// Nothing is followed any more.
    pub fn lose_track(&mut self, now: Timestamp) {
        self.losses += 1;
        self.heard_until = None;
        if self.away_since.is_none() {
            self.lost_track = Some(now);
        }
    }

    /// Makes room for a version of `id`, where at most `max_jobs` may be held: clean entries give way, ended ones first.
    /// Says whether there is room. Where it is no `must`, no more than a few are looked at.
    pub fn make_room(&mut self, max_jobs: usize, id: &JobId, must: bool) -> bool {
        let is_clean = |table: &Table<Note>, id: &JobId| table.get(id).is_some_and(|row| !row.note.dirty);
        let some = if must { usize::MAX } else { LOOKED_AT };
        let is_dirty = self.table.get(id).is_some_and(|row| row.note.dirty);
        if must && self.dirty >= max_jobs && !is_dirty {
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
        let is_clean_job = |row: &Row<Note>| !row.note.dirty && row.job.removal.is_none();
        let gives_way = ended.or_else(|| self.table.next_in_turn(some, is_clean_job));
        gives_way.is_some_and(|id| self.forget(&id).is_some())
    }
}

/// Whether `job` came later than `held`, or stands where the two are of lives that began apart.
pub fn comes_after(job: &Job, held: &Job) -> bool {
    if job.version.incarnation_id == held.version.incarnation_id {
        job.version.revision > held.version.revision
    } else {
        merge(job, held).job.version.incarnation_id == job.version.incarnation_id
    }
}
