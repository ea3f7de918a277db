//! Records in memory, and their indexes.

use std::{collections::BTreeSet, mem::replace, ops::Bound, sync::Arc};

use ahash::RandomState;
use indexmap::{IndexMap, map::Entry};

mod finished;
mod index;

use self::{finished::Finished, index::Index};
use crate::domain::{Cursor, Due, Job, JobId, ListQuery, State, Timestamp, View};

/// Maximum number of records that a page examines beyond those that it returns. Bounds the time under the lock if no
/// index fits the filter.
const SCAN: usize = 2000;

/// Estimated size in bytes of a record apart from its job: its row, and its index entries.
const ROW_SIZE: usize = 400;

/// Growth of a job, in bytes, that is never refused. Otherwise a report or the end of a job would be rejected because
/// other jobs use all memory.
const SMALL_GROWTH: usize = 1024;

/// The bytes that a version needs.
#[derive(Clone, Copy, Debug)]
pub struct Need {
    /// Bytes by which the version is larger than the current record.
    pub growth: usize,
    /// The version is stored even if there is no room.
    pub is_small: bool,
}

/// Records by id and in the order of each index, each with data `T` of the store.
#[derive(Debug)]
pub struct Table<T> {
    by_id: IndexMap<JobId, Row<T>, RandomState>,
    orders: Orders,
    /// Estimated size of all records in bytes.
    bytes: usize,
    /// Estimated size in bytes of the records of active jobs.
    active_bytes: usize,
    /// Slot of the record that was last examined for eviction: the hand of a clock algorithm.
    hand: usize,
}

/// The indexes, apart from the one by id.
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
    /// Data of the store about the record.
    pub meta: T,
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

    /// Returns the job of `id`, and the data of the store about it, which may be changed.
    pub fn meta_mut(&mut self, id: &JobId) -> Option<(&Job, &mut T)> {
        self.by_id.get_mut(id).map(|row| (&*row.job, &mut row.meta))
    }

    /// Stores `job` in place of the current record, and returns the replaced record.
    pub fn put(&mut self, job: Arc<Job>, meta: T) -> Option<Row<T>> {
        self.bytes += record_size(&job);
        self.active_bytes += active_size(&job);
        let replaced = match self.by_id.entry(job.id.clone()) {
            Entry::Occupied(mut entry) => {
                self.bytes -= record_size(&entry.get().job);
                self.active_bytes -= active_size(&entry.get().job);
                self.orders.change(Some(&entry.get().job), Some(&job));
                Some(replace(entry.get_mut(), Row { job, meta }))
            }
            Entry::Vacant(entry) => {
                self.orders.change(None, Some(&job));
                entry.insert(Row { job, meta });
                None
            }
        };
        self.assert_indexes_agree();
        replaced
    }

    /// Removes and returns a record. The caller should free the record after releasing the lock, because freeing may
    /// take long.
    pub fn forget(&mut self, id: &JobId) -> Option<Row<T>> {
        let row = self.by_id.swap_remove(id)?;
        self.bytes -= record_size(&row.job);
        self.active_bytes -= active_size(&row.job);
        self.orders.change(Some(&row.job), None);
        self.assert_indexes_agree();
        Some(row)
    }

    /// Checks in debug builds that each record is either a job in the index or a tombstone.
    fn assert_indexes_agree(&self) {
        debug_assert_eq!(self.by_id.len(), self.orders.index.len() + self.orders.tombstones.len());
        debug_assert!(self.active_bytes <= self.bytes, "active jobs are part of all records");
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

    /// Returns the next record that `is_evictable`, and examines at most `most` records. As long as no record is
    /// removed, each is examined once before any is examined again.
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

    /// Returns the estimated size of the records of active jobs in bytes. These can't be evicted before they end.
    pub const fn active_bytes(&self) -> usize {
        self.active_bytes
    }

    /// Returns the bytes that `job` needs in place of the current record.
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

    /// Returns up to `each` finished jobs of each owner, in the order of eviction.
    pub fn ended(&self, each: usize) -> impl Iterator<Item = &JobId> {
        self.orders.ended.iter(each)
    }

    /// Returns the tombstones, oldest first.
    pub fn tombstones(&self) -> impl ExactSizeIterator<Item = &JobId> {
        self.orders.tombstones.iter().map(|(_, id)| id)
    }

    /// Returns the part of a list that a query selects. `seen` returns each job as callers see it.
    pub fn select(&self, query: &ListQuery, seen: impl Fn(&Row<T>) -> Arc<Job>) -> Selection {
        // An expired job stays in the indexes until it is swept, so an exact count is available only while nothing is
        // due.
        let exact = self.orders.due.first().is_none_or(|(time, _)| *time > query.now);
        let total = self.orders.index.exact_count(&query.filter).filter(|_| exact);
        let mut selection = Selection { total, ..Selection::default() };
        let mut candidates = self.orders.index.candidates(query).peekable();
        let (mut last, mut bytes) = (None, 0);
        for position in candidates.by_ref().take(query.limit + SCAN) {
            last = Some(position);
            let Some(job) = self.by_id.get(&position.id).map(&seen) else { continue };
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

    /// Returns the records after `after` for which an action is or will be due, each with its time, the earliest first.
    pub fn due_after(&self, after: Option<&(Timestamp, JobId)>) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        self.orders.due.range((from, Bound::Unbounded)).filter_map(|(time, id)| {
            let row = self.by_id.get(id)?;
            row.job.next_due().map(|(_, due)| (*time, row, due))
        })
    }

    /// Returns the records for which an action is or will be due, each with its time, the earliest first.
    pub fn due(&self) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        self.due_after(None)
    }
}

impl Orders {
    /// Updates the indexes for a new version. Entries that both versions share stay: most changes of a job are reports,
    /// which move at most the entry of the due time.
    fn change(&mut self, old: Option<&Job>, new: Option<&Job>) {
        fn listed(job: Option<&Job>) -> Option<&Job> {
            job.filter(|job| job.removal.is_none())
        }
        match (listed(old), listed(new)) {
            (Some(was), Some(is)) if index::is_listed_alike(was, is) => {
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

/// Returns the estimated size of the record of an active job in bytes; 0 for other jobs.
pub fn active_size(job: &Job) -> usize {
    if job.removal.is_none() && job.end_time.is_none() { record_size(job) } else { 0 }
}

fn move_entry<E: Ord>(set: &mut BTreeSet<E>, from: Option<E>, to: Option<E>) {
    if from != to {
        if let Some(entry) = from {
            let was_there = set.remove(&entry);
            debug_assert!(was_there, "each record is in the indexes under its current version");
        }
        set.extend(to);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use uuid::Uuid;

    use super::*;
    use crate::domain::{ChangeContext, ChangeId, Filter, NewJob, Order, Retention};

    fn job() -> Job {
        let retention = Retention {
            succeeded: Duration::ZERO,
            failed: Duration::ZERO,
            cancelled: Duration::ZERO,
            active: Duration::ZERO,
        };
        let change_id = ChangeId { process: 1, counter: 1 };
        let context = ChangeContext { now: Timestamp::from_micros(1_000_000), change_id, retention };
        Job::create(JobId::from(Uuid::new_v4()), NewJob::default(), None, Uuid::new_v4(), &context)
    }

    #[test]
    fn a_version_with_another_creation_time_or_kind_has_one_index_entry() {
        let mut table = Table::default();
        let created = job();
        let moved = created.moved(1_000_000);
        let renamed = Job { kind: "other".to_owned(), ..moved.clone() };
        for version in [created, moved, renamed] {
            table.put(Arc::new(version.clone()), ());
            let positions: Vec<_> = table.orders.index.candidates(&query(&version.kind)).collect();
            assert_eq!(positions, [&Cursor::of(&version)]);
            assert_eq!((table.len(), table.count_of(&version.owner)), (1, 1));
        }
        let id = table.slot(0).map(|row| row.job.id.clone()).expect("there is one record");
        table.forget(&id);
        assert_eq!((table.len(), table.count_of("")), (0, 0));
    }

    fn query(kind: &str) -> ListQuery {
        ListQuery {
            filter: Filter { kind: kind.to_owned(), ..Filter::default() },
            order: Order::Newest,
            limit: 10,
            max_bytes: usize::MAX,
            after: None,
            now: Timestamp::MIN,
            confined: false,
            view: View::Full,
        }
    }
}
