//! The partitions of the primary as known to the local cache: their availability, dirty entries and comparisons.

use std::sync::{Mutex, MutexGuard, PoisonError};

use indexmap::IndexSet;

use crate::{
    domain::{Job, JobId, Timestamp},
    store::History,
};

/// A partition of the primary.
#[derive(Debug, Default)]
pub struct Partition {
    /// Start of the unavailability, and whether the partition can still be read; `None` if the partition is available.
    pub unavailable: Option<Unavailable>,
    /// Dirty entries of active jobs.
    dirty_active: IndexSet<JobId>,
    /// Dirty entries of finished and removed jobs.
    dirty_finished: IndexSet<JobId>,
    /// Number of the reconciliation pass that is under way, or was last.
    pass: u64,
    /// The history that the pass compares with, until it ends.
    pass_history: Option<History>,
    /// The lineage of the primary's data, as of the last attempt to restore the partition.
    lineage: u64,
}

/// The unavailability of a partition.
#[derive(Clone, Copy, Debug)]
pub struct Unavailable {
    /// Start of the unavailability.
    pub since: Timestamp,
    /// The partition answers reads, and rejects writes.
    pub readable: bool,
}

impl Partition {
    /// Creates a partition that is unavailable since `since`.
    pub fn unavailable_since(since: Timestamp) -> Self {
        Self { unavailable: Some(Unavailable { since, readable: false }), ..Self::default() }
    }

    /// Returns whether the partition serves reads and writes.
    pub const fn is_available(&self) -> bool {
        self.unavailable.is_none()
    }

    /// Returns whether the partition answers reads.
    pub fn is_readable(&self) -> bool {
        self.unavailable.is_none_or(|unavailable| unavailable.readable)
    }

    /// Returns the number of dirty entries.
    pub fn dirty(&self) -> usize {
        self.dirty_active.len() + self.dirty_finished.len()
    }

    /// Returns up to `limit` dirty entries, finished jobs first.
    pub fn first_dirty(&self, limit: usize) -> impl Iterator<Item = &JobId> {
        self.dirty_finished.iter().chain(&self.dirty_active).take(limit)
    }

    /// Records whether the entry of `job` is dirty.
    pub fn set_dirty(&mut self, job: &Job, dirty: bool) {
        self.forget(&job.id);
        if dirty {
            let is_finished = job.state.is_terminal() || job.removal.is_some();
            let dirty = if is_finished { &mut self.dirty_finished } else { &mut self.dirty_active };
            dirty.insert(job.id.clone());
        }
    }

    /// Removes an entry from the dirty ones.
    pub fn forget(&mut self, id: &JobId) {
        self.dirty_active.swap_remove(id);
        self.dirty_finished.swap_remove(id);
    }

    /// Begins a pass over the entries, or continues the last one if it compared with the same history.
    pub fn begin_pass(&mut self, history: History) {
        if !self.pass_history.is_some_and(|known| known.is_continued_by(&history)) {
            self.pass += 1;
            self.pass_history = Some(history);
            self.set_lineage(history.lineage);
        }
    }

    /// Records the lineage of the primary's data: answers of other lineages count no more.
    pub const fn set_lineage(&mut self, lineage: u64) {
        self.lineage = lineage;
    }

    /// Returns whether `job` was written in the known lineage. Otherwise the primary may have lost it since.
    pub fn is_of_lineage(&self, job: &Job) -> bool {
        job.branch.as_ref().is_none_or(|branch| branch.lineage == self.lineage)
    }

    /// Ends the pass: after the next unavailability all entries are compared anew.
    pub fn end_pass(&mut self) {
        self.pass_history = None;
    }

    /// Returns whether the pass that is under way has compared an entry; `compared_in` is the last pass that did.
    pub const fn has_compared(&self, compared_in: u64) -> bool {
        self.pass_history.is_some() && compared_in == self.pass
    }

    /// Returns the number of the pass that is under way, or was last.
    pub const fn pass(&self) -> u64 {
        self.pass
    }
}

/// The history with which the cache was last compared, by partition.
pub struct ComparedHistories(Mutex<Vec<History>>);

impl ComparedHistories {
    /// Creates the histories of an empty cache, in which nothing has to be compared.
    pub const fn new(histories: Vec<History>) -> Self {
        Self(Mutex::new(histories))
    }

    fn histories(&self) -> MutexGuard<'_, Vec<History>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the history of a partition.
    pub fn of(&self, partition: usize) -> History {
        self.histories()[partition]
    }

    /// Sets the history of a partition.
    pub fn set(&self, partition: usize, history: History) {
        self.histories()[partition] = history;
    }
}
