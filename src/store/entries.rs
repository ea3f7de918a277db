//! The entries of what is held, and which of them give way.

use std::{sync::Arc, time::Instant};

use super::table::{Row, Table};
use crate::domain::{Job, JobId, Timestamp, Version};

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
    /// Changes when hints were lost: what was followed before no longer is.
    pub following: Following,
}

/// Since which loss of hints something is followed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Following(u64);

/// What is noted of an entry.
#[derive(Clone, Copy)]
pub struct Note {
    /// The store of record does not have it.
    pub dirty: bool,
    /// The version that the store of record was last known to have.
    pub base: Option<Version>,
    /// When that was, or when the entry was made.
    pub confirmed: Timestamp,
    /// All its changes have been heard of since it was confirmed.
    pub followed: Option<Following>,
    /// The newest revision that was hinted at.
    pub hinted: i64,
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

impl Entries {
    /// Whether the store of record answers, as far as is known.
    pub const fn answers(&self) -> bool {
        self.away_since.is_none() || self.readable
    }

    /// An entry as it is to be offered.
    pub fn entry(&self, job: &Arc<Job>, note: Note) -> Entry {
        let unconfirmed_since = self.away_since.map_or(note.confirmed, |since| since.max(note.confirmed));
        Entry { job: job.clone(), dirty: note.dirty, base: note.base, unconfirmed_since }
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
    pub fn lose_track(&mut self) {
        self.following.0 += 1;
        self.heard_until = None;
    }

    /// Makes room for `id`: clean entries give way, ended ones first. Says whether there is room.
    pub fn make_room(&mut self, max_jobs: usize, id: &JobId) -> bool {
        let clean = |table: &Table<Note>, id: &JobId| table.get(id).is_some_and(|row| !row.note.dirty);
        let surplus = self.table.tombstones().len() > max_jobs;
        let oldest = self.table.tombstones().find(|id| surplus && clean(&self.table, id)).cloned();
        oldest.inspect(|oldest| _ = self.forget(oldest));
        if self.table.len() < max_jobs || self.table.get(id).is_some_and(|row| row.job.removal.is_none()) {
            return true;
        }
        if self.dirty >= self.table.len() {
            return false;
        }
        let ended = self.table.ended().find(|id| clean(&self.table, id)).cloned();
        let listed = |row: &&Row<Note>| !row.note.dirty && row.job.removal.is_none();
        let gives_way = ended.or_else(|| self.table.rows().find(listed).map(|row| row.job.id.clone()));
        gives_way.is_some_and(|id| self.forget(&id).is_some())
    }
}
