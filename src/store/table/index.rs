//! Sorted sets of jobs by creation, so that the cost of a page of a list depends on the page, not on the collection.

use std::{
    collections::{BTreeSet, HashMap, btree_set},
    iter::from_fn,
    mem::replace,
    ops::Bound,
};

use crate::domain::{Cursor, Filter, Job, ListQuery, Order, Owners, State};

type Places = BTreeSet<Cursor>;

/// The positions of all jobs that are not removed.
#[derive(Debug, Default)]
pub struct Index {
    /// Together they have each job once: no other set has all of them.
    states: [Places; State::ALL.len()],
    owners: HashMap<String, Places>,
    kinds: HashMap<String, Places>,
}

impl Index {
    /// Adds `job`.
    pub fn insert(&mut self, job: &Job) {
        let place = Cursor::of(job);
        self.states[job.state as usize].insert(place.clone());
        self.owners.entry(job.owner.clone()).or_default().insert(place.clone());
        self.kinds.entry(job.kind.clone()).or_default().insert(place);
    }

    /// Removes `job`, which must be the version that was added.
    pub fn remove(&mut self, job: &Job) {
        fn remove_from(sets: &mut HashMap<String, Places>, name: &str, place: &Cursor) {
            if let Some(places) = sets.get_mut(name) {
                places.remove(place);
                if places.is_empty() {
                    sets.remove(name);
                }
            }
        }
        let place = Cursor::of(job);
        self.states[job.state as usize].remove(&place);
        remove_from(&mut self.owners, &job.owner, &place);
        remove_from(&mut self.kinds, &job.kind, &place);
    }

    /// Moves `job` from the set of its state to that of another.
    pub fn change_state(&mut self, job: &Job, to: State) {
        let place = Cursor::of(job);
        self.states[job.state as usize].remove(&place);
        self.states[to as usize].insert(place);
    }

    /// Returns the number of jobs.
    pub fn len(&self) -> usize {
        self.states.iter().map(Places::len).sum()
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
            .then(|| self.narrowest(filter, false).iter().map(|places| places.len() as u64).sum())
    }

    /// Returns the number of jobs of an owner.
    pub fn count_of(&self, owner: &str) -> u64 {
        self.owners.get(owner).map_or(0, |places| places.len() as u64)
    }

    /// Returns the positions of all jobs that a query may select, and perhaps of others, in the order of the query.
    pub fn candidates<'a>(&'a self, query: &ListQuery) -> impl Iterator<Item = &'a Cursor> + use<'a> {
        let (oldest, newest) = query.bounds();
        let empty = matches!((&oldest, &newest), (Some(oldest), Some(newest)) if oldest >= newest);
        let [oldest, newest] = [oldest, newest].map(|bound| bound.map_or(Bound::Unbounded, Bound::Excluded));
        let sets = if empty { Vec::new() } else { self.narrowest(&query.filter, query.confined) };
        let range = |places: &'a Places| places.range((oldest.clone(), newest.clone()));
        merge(sets.into_iter().map(|places| Run::new(range(places), query.order)).collect(), query.order)
    }

    /// Returns the smallest sets that together contain every job `filter` may select; if `confined`, those of its
    /// owners.
    fn narrowest(&self, filter: &Filter, confined: bool) -> Vec<&Places> {
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
        choices.into_iter().min_by_key(|sets| sets.iter().map(|places| places.len()).sum::<usize>()).unwrap_or_default()
    }
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
        let places = runs.iter().enumerate().filter_map(|(at, run)| Some((run.next?, at)));
        let (_, first) = places.min_by(|(one, _), (other, _)| order.compare(one, other))?;
        runs[first].advance()
    })
}
