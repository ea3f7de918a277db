//! Records in memory, and the indexes by which they are found.

use std::{collections::BTreeSet, mem::replace, ops::Bound, sync::Arc};

use ahash::RandomState;
use indexmap::{IndexMap, map::Entry};

mod finished;
mod index;

use self::{finished::Finished, index::Index};
use crate::domain::{Cursor, Due, Job, JobId, ListQuery, State, Timestamp, View};

/// Maximum number of records that a page examines beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// Estimated size in bytes of a record besides its job: its row, and its entries in the indexes.
const ROW_SIZE: usize = 400;

/// Growth of a job, in bytes, that is never refused: otherwise a report, a heartbeat or an end would be lost because
/// others hold much.
const SMALL_GROWTH: usize = 1024;

/// The bytes that a version needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Bytes by which the version is larger than the current record.
    pub growth: usize,
    /// The version is stored even if there is no room.
    pub is_small: bool,
}

/// Records by id and in every order that is needed, each with a note `T`.
#[derive(Debug)]
pub struct Table<T> {
    by_id: IndexMap<JobId, Row<T>, RandomState>,
    orders: Orders,
    /// Estimated size of all records in bytes.
    bytes: usize,
    /// Estimated size in bytes of the records of active jobs.
    active_bytes: usize,
    /// Slot of the record that was last examined for eviction.
    hand: usize,
}

/// The indexes, besides the one by id.
#[derive(Debug, Default)]
struct Orders {
    index: Index,
    due: BTreeSet<(Timestamp, JobId)>,
    ended: Finished,
    /// Tombstones, oldest first.
    tombstones: BTreeSet<(Timestamp, JobId)>,
}

/// A record.
#[derive(Debug)]
pub struct Row<T> {
    /// The current version.
    pub job: Arc<Job>,
    /// The note that belongs to the record.
    pub note: T,
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Selection {
    /// The jobs, in the order of the query.
    pub jobs: Vec<Arc<Job>>,
    /// Position of the rest; `None` if there is none.
    pub next: Option<Cursor>,
    /// Total number of matches, where a single index determines it.
    pub total: Option<u64>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { by_id: IndexMap::default(), orders: Orders::default(), bytes: 0, active_bytes: 0, hand: 0 }
    }
}

impl<T> Table<T> {
    /// Returns the record of `id`.
    pub fn get(&self, id: &JobId) -> Option<&Row<T>> {
        self.by_id.get(id)
    }

    /// Returns the job and the note of `id`.
    pub fn note(&mut self, id: &JobId) -> Option<(&Job, &mut T)> {
        self.by_id.get_mut(id).map(|row| (&*row.job, &mut row.note))
    }

    /// Stores `job` in the place of the current record, which it returns.
    pub fn put(&mut self, job: Arc<Job>, note: T) -> Option<Row<T>> {
        self.bytes += record_size(&job);
        self.active_bytes += active_size(&job);
        match self.by_id.entry(job.id.clone()) {
            Entry::Occupied(mut entry) => {
                self.bytes -= record_size(&entry.get().job);
                self.active_bytes -= active_size(&entry.get().job);
                self.orders.change(Some(&entry.get().job), Some(&job));
                Some(replace(entry.get_mut(), Row { job, note }))
            }
            Entry::Vacant(entry) => {
                self.orders.change(None, Some(&job));
                entry.insert(Row { job, note });
                None
            }
        }
    }

    /// Removes and returns a record: freeing it may take longer than a lock should be held.
    pub fn forget(&mut self, id: &JobId) -> Option<Row<T>> {
        let row = self.by_id.swap_remove(id)?;
        self.bytes -= record_size(&row.job);
        self.active_bytes -= active_size(&row.job);
        self.orders.change(Some(&row.job), None);
        Some(row)
    }

    /// Returns the number of slots: one for each record, from 0. When a record is removed, the last record moves to its
    /// slot.
    pub fn slots(&self) -> usize {
        self.by_id.len()
    }

    /// Returns the record in a slot.
    pub fn slot(&self, slot: usize) -> Option<&Row<T>> {
        self.by_id.get_index(slot).map(|(_, row)| row)
    }

    /// Returns the next record that `is_evictable`, of at most `most` examined. Records take turns: none is examined
    /// again before all others.
    pub fn next_in_turn(&mut self, most: usize, is_evictable: impl Fn(&Row<T>) -> bool) -> Option<JobId> {
        for _ in 0..most.min(self.by_id.len()) {
            self.hand = (self.hand + 1) % self.by_id.len();
            let (id, row) = self.by_id.get_index(self.hand)?;
            if is_evictable(row) {
                return Some(id.clone());
            }
        }
        None
    }

    /// Returns the number of jobs, without tombstones.
    pub fn len(&self) -> usize {
        self.orders.index.len()
    }

    /// Returns the estimated size of all records, tombstones included, in bytes.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the estimated size of the records of active jobs, which nothing but their end makes evictable, in bytes.
    pub const fn active_bytes(&self) -> usize {
        self.active_bytes
    }

    /// Returns what `job` needs in the place of the current record.
    pub fn need(&self, job: &Job) -> Need {
        let current = self.by_id.get(&job.id).map(|row| record_size(&row.job));
        let growth = record_size(job).saturating_sub(current.unwrap_or_default());
        Need { growth, is_small: current.is_some() && growth <= SMALL_GROWTH }
    }

    /// Returns the number of jobs in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        self.orders.index.counts()
    }

    /// Returns the number of jobs of an owner.
    pub fn count_of(&self, owner: &str) -> u64 {
        self.orders.index.count_of(owner)
    }

    /// Returns up to `each` finished jobs of each owner, those to evict first at the beginning.
    pub fn ended(&self, each: usize) -> impl Iterator<Item = &JobId> {
        self.orders.ended.iter(each)
    }

    /// Returns the tombstones, oldest first.
    pub fn tombstones(&self) -> impl ExactSizeIterator<Item = &JobId> {
        self.orders.tombstones.iter().map(|(_, id)| id)
    }

    /// Returns the part of a list that a query selects, where `seen` returns each job as callers see it.
    pub fn select(&self, query: &ListQuery, seen: impl Fn(&Row<T>) -> Arc<Job>) -> Selection {
        // While something is due, the index may still contain jobs that the page leaves out.
        let exact = self.orders.due.first().is_none_or(|(time, _)| *time > query.now);
        let total = self.orders.index.exact_count(&query.filter).filter(|_| exact);
        let mut selection = Selection { total, ..Selection::default() };
        let mut candidates = self.orders.index.candidates(query).peekable();
        let (mut last, mut bytes) = (None, 0);
        for place in candidates.by_ref().take(query.limit + SCAN) {
            last = Some(place);
            let Some(job) = self.by_id.get(&place.id).map(&seen) else { continue };
            if query.filter.matches(&job, query.now) && job.is_visible(query.now) {
                bytes += match query.view {
                    View::Full => job.size(),
                    View::Basic => job.size() - job.document_size(),
                };
                selection.jobs.push(job);
                if selection.jobs.len() == query.limit || bytes >= query.max_bytes {
                    break;
                }
            }
        }
        selection.next = last.filter(|_| candidates.peek().is_some()).cloned();
        selection
    }

    /// Returns the records behind `after` for which something is or will be due, each with its time, the earliest
    /// first.
    pub fn due_after(&self, after: Option<&(Timestamp, JobId)>) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        self.orders.due.range((from, Bound::Unbounded)).filter_map(|(time, id)| {
            let row = self.by_id.get(id)?;
            row.job.next_due().map(|(_, due)| (*time, row, due))
        })
    }

    /// Returns the records for which something is or will be due, each with its time, the earliest first.
    pub fn due(&self) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        self.due_after(None)
    }
}

impl Orders {
    /// Moves a record from the index entries of its old version to those of its new one. Most changes of a job move
    /// nothing.
    fn change(&mut self, old: Option<&Job>, new: Option<&Job>) {
        fn listed(job: Option<&Job>) -> Option<&Job> {
            job.filter(|job| job.removal.is_none())
        }
        match (listed(old), listed(new)) {
            (Some(was), Some(is)) if was.version.incarnation_id == is.version.incarnation_id => {
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
        listed(old).inspect(|job| self.ended.remove(job));
        listed(new).inspect(|job| self.ended.insert(job));
        let removed = |job: &Job| job.removal.map(|_| (job.update_time, job.id.clone()));
        move_entry(&mut self.due, old.and_then(due), new.and_then(due));
        move_entry(&mut self.tombstones, old.and_then(removed), new.and_then(removed));
    }
}

/// Returns the estimated size of a record in bytes.
pub fn record_size(job: &Job) -> usize {
    ROW_SIZE + job.size()
}

/// Returns the estimated size of the record of an active job in bytes; 0 of others.
pub fn active_size(job: &Job) -> usize {
    if job.removal.is_none() && job.end_time.is_none() { record_size(job) } else { 0 }
}

fn move_entry<E: Ord>(set: &mut BTreeSet<E>, from: Option<E>, to: Option<E>) {
    if from != to {
        from.inspect(|entry| _ = set.remove(entry));
        set.extend(to);
    }
}
