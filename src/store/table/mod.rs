//! Records in memory, and the orders they are found by.

use std::{collections::BTreeSet, mem::replace, ops::Bound, sync::Arc};

use ahash::RandomState;
use indexmap::{IndexMap, map::Entry};

mod index;

use self::index::Index;
use crate::domain::{Cursor, Due, Job, JobId, ListQuery, State, Timestamp};

/// How many places a page may look at beyond those it returns, where no index fits its filter.
const SCAN: usize = 2000;

/// Records by id and by every order that somebody asks for, each with a note `T`.
#[derive(Debug)]
pub struct Table<T> {
    by_id: IndexMap<JobId, Row<T>, RandomState>,
    orders: Orders,
    /// Whose turn it is to be looked at for one that can give way.
    hand: usize,
}

/// Where records are found, besides under their ids.
#[derive(Debug, Default)]
struct Orders {
    index: Index,
    due: BTreeSet<(Timestamp, JobId)>,
    /// Jobs that have ended, the first to end first.
    ended: BTreeSet<(Timestamp, JobId)>,
    /// The oldest first.
    tombstones: BTreeSet<(Timestamp, JobId)>,
}

/// A record.
#[derive(Debug)]
pub struct Row<T> {
    /// The version that is there.
    pub job: Arc<Job>,
    /// What is noted of it.
    pub note: T,
}

/// A part of a list.
#[derive(Debug, Default)]
pub struct Selection {
    /// The jobs, the newest first.
    pub jobs: Vec<Arc<Job>>,
    /// Where the rest begins.
    pub next: Option<Cursor>,
    /// How many match in all, where one index tells.
    pub total: Option<u64>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self { by_id: IndexMap::default(), orders: Orders::default(), hand: 0 }
    }
}

impl<T> Table<T> {
    /// The record of `id`.
    pub fn get(&self, id: &JobId) -> Option<&Row<T>> {
        self.by_id.get(id)
    }

    /// The record of `id` and its note.
    pub fn note(&mut self, id: &JobId) -> Option<(&Job, &mut T)> {
        self.by_id.get_mut(id).map(|row| (&*row.job, &mut row.note))
    }

    /// Puts `job` in the place of what is there, which it returns.
    pub fn put(&mut self, job: Arc<Job>, note: T) -> Option<Row<T>> {
        match self.by_id.entry(job.id.clone()) {
            Entry::Occupied(mut entry) => {
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

    /// Forgets a record, and returns it: freeing it may take longer than a lock should be held.
    pub fn forget(&mut self, id: &JobId) -> Option<Row<T>> {
        let row = self.by_id.swap_remove(id)?;
        self.orders.change(Some(&row.job), None);
        Some(row)
    }

    /// How many slots there are: one for each record, from 0. A record that is forgotten leaves its slot to the last one.
    pub fn slots(&self) -> usize {
        self.by_id.len()
    }

    /// The record in a slot.
    pub fn slot(&self, slot: usize) -> Option<&Row<T>> {
        self.by_id.get_index(slot).map(|(_, row)| row)
    }

    /// The next record that `gives_way`, of at most so many. All have their turn: none is looked at again before the others.
    pub fn next_in_turn(&mut self, most: usize, gives_way: impl Fn(&Row<T>) -> bool) -> Option<JobId> {
        for _ in 0..most.min(self.by_id.len()) {
            self.hand = (self.hand + 1) % self.by_id.len();
            let (id, row) = self.by_id.get_index(self.hand)?;
            if gives_way(row) {
                return Some(id.clone());
            }
        }
        None
    }

    /// How many jobs there are, tombstones aside.
    pub fn len(&self) -> usize {
        self.orders.index.len()
    }

    /// How many jobs are in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        self.orders.index.counts()
    }

    /// How many jobs an owner has.
    pub fn count_of(&self, owner: &str) -> u64 {
        self.orders.index.count_of(owner)
    }

    /// The jobs that have ended, the first to end first.
    pub fn ended(&self) -> impl Iterator<Item = &JobId> {
        self.orders.ended.iter().map(|(_, id)| id)
    }

    /// The tombstones, the oldest first.
    pub fn tombstones(&self) -> impl ExactSizeIterator<Item = &JobId> {
        self.orders.tombstones.iter().map(|(_, id)| id)
    }

    /// What a query selects.
    pub fn select(&self, query: &ListQuery) -> Selection {
        // While something is due, the index may still hold what the page leaves out.
        let exact = self.orders.due.first().is_none_or(|(time, _)| *time > query.now);
        let total = self.orders.index.exact_count(&query.filter).filter(|_| exact);
        let mut selection = Selection { total, ..Selection::default() };
        let mut candidates = self.orders.index.candidates(query).peekable();
        let mut last = None;
        for place in candidates.by_ref().take(query.limit + SCAN) {
            last = Some(place);
            let Some(row) = self.by_id.get(&place.id) else { continue };
            if query.filter.matches(&row.job) && row.job.is_visible(query.now) {
                selection.jobs.push(row.job.clone());
                if selection.jobs.len() == query.limit {
                    break;
                }
            }
        }
        selection.next = last.filter(|_| candidates.peek().is_some()).cloned();
        selection
    }

    /// The records for which something is due behind `after`, the longest overdue first, and when each was or will be.
    pub fn due_after(&self, after: Option<&(Timestamp, JobId)>) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        let from = after.cloned().map_or(Bound::Unbounded, Bound::Excluded);
        self.orders.due.range((from, Bound::Unbounded)).filter_map(|(time, id)| {
            let row = self.by_id.get(id)?;
            row.job.next_due().map(|(_, due)| (*time, row, due))
        })
    }

    /// The records for which something is due, the longest overdue first, and when each was or will be.
    pub fn due(&self) -> impl Iterator<Item = (Timestamp, &Row<T>, Due)> {
        self.due_after(None)
    }
}

impl Orders {
    /// Moves a record from where its old version is found to where its new one is. Most changes of a job move nothing.
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
        let ended = |job: &Job| job.end_time.map(|time| (time, job.id.clone()));
        let removed = |job: &Job| job.removal.map(|_| (job.update_time, job.id.clone()));
        move_entry(&mut self.due, old.and_then(due), new.and_then(due));
        move_entry(&mut self.ended, listed(old).and_then(ended), listed(new).and_then(ended));
        move_entry(&mut self.tombstones, old.and_then(removed), new.and_then(removed));
    }
}

fn move_entry<E: Ord>(set: &mut BTreeSet<E>, from: Option<E>, to: Option<E>) {
    if from != to {
        from.inspect(|entry| _ = set.remove(entry));
        set.extend(to);
    }
}
