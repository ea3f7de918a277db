//! Sets of jobs, sorted by creation. They make the cost of a page depend on the page, not on the number of jobs.

use std::{
    collections::{BTreeSet, HashMap, btree_set},
    iter::from_fn,
    mem::replace,
    ops::Bound,
};

use crate::domain::{Cursor, Filter, Job, ListQuery, Order, Owners, State};

type Positions = BTreeSet<Cursor>;

/// The positions of all jobs that are not removed.
#[derive(Debug, Default)]
pub struct Index {
    /// Each job is in exactly one of these sets. There is no set of all jobs: it would store each position twice.
    states: [Positions; State::ALL.len()],
    owners: HashMap<String, Positions>,
    kinds: HashMap<String, Positions>,
}

impl Index {
    /// Adds `job`.
    pub fn insert(&mut self, job: &Job) {
        let position = Cursor::of(job);
        let is_new = self.states[job.state as usize].insert(position.clone());
        debug_assert!(is_new, "each job is added once");
        self.owners.entry(job.owner.clone()).or_default().insert(position.clone());
        self.kinds.entry(job.kind.clone()).or_default().insert(position);
    }

    /// Removes `job`, which must be the version that was added.
    pub fn remove(&mut self, job: &Job) {
        fn remove_from(sets: &mut HashMap<String, Positions>, name: &str, position: &Cursor) {
            if let Some(positions) = sets.get_mut(name) {
                let was_there = positions.remove(position);
                debug_assert!(was_there, "each job is in the sets of its owner and of its kind");
                if positions.is_empty() {
                    sets.remove(name);
                }
            }
        }
        let position = Cursor::of(job);
        let was_there = self.states[job.state as usize].remove(&position);
        debug_assert!(was_there, "each job is in the set of its state");
        remove_from(&mut self.owners, &job.owner, &position);
        remove_from(&mut self.kinds, &job.kind, &position);
    }

    /// Moves `job` from the set of its state to the set of `to`.
    pub fn change_state(&mut self, job: &Job, to: State) {
        let position = Cursor::of(job);
        let was_there = self.states[job.state as usize].remove(&position);
        debug_assert!(was_there, "each job is in the set of its state");
        self.states[to as usize].insert(position);
    }

    /// Returns the number of jobs.
    pub fn len(&self) -> usize {
        self.states.iter().map(Positions::len).sum()
    }

    /// Returns the number of jobs in each state.
    pub fn counts(&self) -> [u64; State::ALL.len()] {
        State::ALL.map(|state| self.states[state as usize].len() as u64)
    }

    /// Returns the number of jobs that `filter` selects, if a single index determines it.
    pub fn exact_count(&self, filter: &Filter) -> Option<u64> {
        let criteria = usize::from(!filter.states.is_empty())
            + usize::from(!filter.kind.is_empty())
            + usize::from(filter.owners != Owners::All);
        (filter.is_indexed() && criteria <= 1)
            .then(|| self.narrowest(filter, false).iter().map(|positions| positions.len() as u64).sum())
    }

    /// Returns the number of jobs of an owner.
    pub fn count_of(&self, owner: &str) -> u64 {
        self.owners.get(owner).map_or(0, |positions| positions.len() as u64)
    }

    /// Returns the positions of all jobs that a query may select, and possibly of others, in the order of the query.
    pub fn candidates<'a>(&'a self, query: &ListQuery) -> impl Iterator<Item = &'a Cursor> + use<'a> {
        let (oldest, newest) = query.bounds();
        let empty = matches!((&oldest, &newest), (Some(oldest), Some(newest)) if oldest >= newest);
        let [oldest, newest] = [oldest, newest].map(|bound| bound.map_or(Bound::Unbounded, Bound::Excluded));
        let sets = if empty { Vec::new() } else { self.narrowest(&query.filter, query.confined) };
        let range = |positions: &'a Positions| positions.range((oldest.clone(), newest.clone()));
        merge(sets.into_iter().map(|positions| Run::new(range(positions), query.order)).collect(), query.order)
    }

    /// Returns the smallest group of sets that together contain every job `filter` may select; if `confined`, the sets
    /// of its owners.
    fn narrowest(&self, filter: &Filter, confined: bool) -> Vec<&Positions> {
        let of_owners = |owners: &BTreeSet<String>| owners.iter().filter_map(|owner| self.owners.get(owner)).collect();
        let mut choices = vec![self.states.iter().collect::<Vec<_>>()];
        if let Owners::Only(owners) = &filter.owners {
            if confined {
                return of_owners(owners);
            }
            choices.push(of_owners(owners));
        }
        if !filter.states.is_empty() {
            choices.push(filter.states.iter().map(|state| &self.states[*state as usize]).collect());
        }
        if !filter.kind.is_empty() {
            choices.push(self.kinds.get(&filter.kind).into_iter().collect());
        }
        choices.into_iter().min_by_key(|sets| sets.iter().map(|set| set.len()).sum::<usize>()).unwrap_or_default()
    }
}

/// Returns whether two versions have the same position in the same sets, apart from those of their states. Versions of
/// one incarnation may differ: a step of the clock moves the time of creation, and a merge may change the kind.
pub fn is_listed_alike(one: &Job, other: &Job) -> bool {
    (one.create_time, &one.owner, &one.kind) == (other.create_time, &other.owner, &other.kind)
}

/// A range of one set, read in the order of a query.
struct Run<'a> {
    order: Order,
    /// The next position.
    next: Option<&'a Cursor>,
    rest: btree_set::Range<'a, Cursor>,
}

impl<'a> Run<'a> {
    fn new(range: btree_set::Range<'a, Cursor>, order: Order) -> Self {
        let mut run = Self { order, next: None, rest: range };
        run.advance();
        run
    }

    /// Takes the next position.
    fn advance(&mut self) -> Option<&'a Cursor> {
        let following = match self.order {
            Order::Newest => self.rest.next_back(),
            Order::Oldest => self.rest.next(),
        };
        replace(&mut self.next, following)
    }
}

/// Merges runs into one.
fn merge(mut runs: Vec<Run<'_>>, order: Order) -> impl Iterator<Item = &Cursor> {
    from_fn(move || {
        let positions = runs.iter().enumerate().filter_map(|(at, run)| Some((run.next?, at)));
        let (_, first) = positions.min_by(|(one, _), (other, _)| order.compare(one, other))?;
        runs[first].advance()
    })
}
