//! The changes that a subscriber has not taken yet, in bounded memory.

use std::{
    future::poll_fn,
    mem::take,
    sync::{Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use indexmap::{IndexMap, map::Entry};

use super::CoalescedChanges;
use crate::domain::{Filter, JobId};

/// Maximum number of jobs of which an inbox keeps changes; with more it overflows.
const MAX_JOBS: usize = 10_000;

/// Maximum size in bytes of the changes that an inbox keeps, apart from those of the first job. The limit is needed
/// because versions that the store has replaced or deleted stay in memory only for the inbox. Changes of jobs without
/// documents reach [`MAX_JOBS`] first.
const MAX_BYTES: usize = 64 * 1024 * 1024;

/// The changes that one subscriber has not taken yet.
pub struct Inbox {
    filter: Filter,
    state: Mutex<InboxState>,
}

#[derive(Default)]
struct InboxState {
    changes: Changes,
    overflowed: bool,
    /// Waker of the subscriber while it waits.
    waker: Option<Waker>,
}

/// Changes of each job once, in the order of their first change. The first job is kept outside of the map: most
/// subscribers watch one job.
#[derive(Default)]
struct Changes {
    first: Option<CoalescedChanges>,
    others: IndexMap<JobId, CoalescedChanges>,
    /// Size of `others` in bytes.
    bytes: usize,
}

impl Changes {
    fn push(&mut self, changes: &CoalescedChanges) {
        let id = &changes.latest().id;
        match &mut self.first {
            None => self.first = Some(changes.clone()),
            Some(first) if first.latest().id == *id => first.append(changes.clone()),
            Some(_) => match self.others.entry(id.clone()) {
                Entry::Occupied(mut entry) => {
                    self.bytes -= entry.get().size();
                    entry.get_mut().append(changes.clone());
                    self.bytes += entry.get().size();
                }
                Entry::Vacant(entry) => {
                    self.bytes += changes.size();
                    entry.insert(changes.clone());
                }
            },
        }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    fn exceeds_limits(&self) -> bool {
        self.len() > MAX_JOBS || self.bytes > MAX_BYTES
    }

    fn into_values(self) -> impl Iterator<Item = CoalescedChanges> {
        self.first.into_iter().chain(self.others.into_values())
    }
}

impl InboxState {
    /// Drops all changes, and keeps no new ones before the next [`take`](Inbox::take): the subscriber has to read the
    /// store.
    fn overflow(&mut self) {
        self.changes = Changes::default();
        self.overflowed = true;
    }

    fn is_empty(&self) -> bool {
        self.changes.len() == 0 && !self.overflowed
    }
}

impl Inbox {
    /// Creates an empty inbox for changes of jobs that `filter` can match in some state.
    pub fn new(filter: Filter) -> Self {
        Self { filter, state: Mutex::default() }
    }

    /// Returns whether changes of a job with this id, kind and owner may belong in the inbox.
    pub fn accepts(&self, id: &JobId, kind: &str, owner: &str) -> bool {
        self.filter.matches_names(id, kind, owner)
    }

    /// Adds changes, if the filter can match the job, and wakes the subscriber.
    pub fn push(&self, changes: &CoalescedChanges) {
        if !changes.versions().any(|job| self.filter.matches_creation(job)) {
            return;
        }
        let mut state = self.state();
        if state.overflowed {
            return;
        }
        state.changes.push(changes);
        if state.changes.exceeds_limits() {
            state.overflow();
        }
        wake(state);
    }

    /// Records that a change was lost, and wakes the subscriber: it has to read the store.
    pub fn overflow(&self) {
        let mut state = self.state();
        state.overflow();
        wake(state);
    }

    /// Takes the changes, of each job once, in the order of their first change. Returns `None` if the inbox overflowed
    /// and the store has to be read; later changes are kept again.
    pub fn take(&self) -> Option<impl Iterator<Item = CoalescedChanges> + use<>> {
        let mut state = self.state();
        let (changes, overflowed) = (take(&mut state.changes), take(&mut state.overflowed));
        drop(state);
        (!overflowed).then(|| changes.into_values())
    }

    /// Waits until there is something to [take](Self::take). Only one task may wait at a time.
    pub async fn arrived(&self) {
        poll_fn(|context| {
            let mut state = self.state();
            if !state.is_empty() {
                return Poll::Ready(());
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                waker => *waker = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
    }

    /// Locks the state, even if the lock is poisoned: the state is valid between any two statements.
    fn state(&self) -> MutexGuard<'_, InboxState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the subscriber after the lock is released, so that it does not have to wait for the lock.
fn wake(mut state: MutexGuard<'_, InboxState>) {
    let waker = state.waker.take();
    drop(state);
    waker.into_iter().for_each(Waker::wake);
}
