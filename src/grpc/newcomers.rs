//! Connections on which nobody has authenticated yet: they are told apart from the others, which they must not keep out.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

/// All of them, by the order in which they came.
#[derive(Clone, Default)]
pub struct Newcomers(Arc<Shared>);

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl Newcomers {
    /// Takes in one more.
    pub fn enter(&self) -> Newcomer {
        let number = self.0.next.fetch_add(1, Relaxed);
        let closed = CancellationToken::new();
        self.open().insert(number, closed.clone());
        Newcomer { all: self.clone(), number, closed, is_known: AtomicBool::new(false) }
    }

    /// Returns how many there are.
    pub fn count(&self) -> usize {
        self.open().len()
    }

    /// Closes the oldest. Returns whether there was one.
    pub fn close_oldest(&self) -> bool {
        let oldest = self.open().pop_first();
        oldest.inspect(|(_, closed)| closed.cancel()).is_some()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that is one of them until somebody authenticates on it.
pub struct Newcomer {
    all: Newcomers,
    number: u64,
    closed: CancellationToken,
    is_known: AtomicBool,
}

impl Newcomer {
    /// Notes that somebody has authenticated.
    pub fn authenticated(&self) {
        // Read first: each call says so.
        if !self.is_known.load(Relaxed) && !self.is_known.swap(true, Relaxed) {
            self.all.open().remove(&self.number);
        }
    }

    /// Returns whether somebody has authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.is_known.load(Relaxed)
    }

    /// Is cancelled when the connection is to be closed.
    pub const fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl Drop for Newcomer {
    fn drop(&mut self) {
        self.all.open().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_has_not_authenticated_gives_way() {
        let all = Newcomers::default();
        let [known, gone, old, new] = [(); 4].map(|()| all.enter());
        known.authenticated();
        drop(gone);
        assert_eq!(all.count(), 2);
        assert!(all.close_oldest());
        assert_eq!([&known, &old, &new].map(|it| it.closed().is_cancelled()), [false, true, false]);
        assert!(all.close_oldest());
        assert!(!all.close_oldest(), "nobody else gives way");
        assert!(!known.closed().is_cancelled());
    }
}
