//! Connections on which no caller has authenticated yet. Their number has a limit of its own, so that silent peers
//! can't use up all connections.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use tokio_util::sync::CancellationToken;

/// Registry of the connections on which no caller has authenticated, in the order in which they were accepted.
#[derive(Clone, Default)]
pub struct UnauthenticatedConnections(Arc<Shared>);

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    open: Mutex<BTreeMap<u64, CancellationToken>>,
}

impl UnauthenticatedConnections {
    /// Registers a new connection.
    pub fn register(&self) -> AuthenticationState {
        let number = self.0.next.fetch_add(1, Relaxed);
        let closed = CancellationToken::new();
        self.open().insert(number, closed.clone());
        AuthenticationState { all: self.clone(), number, closed, is_authenticated: AtomicBool::new(false) }
    }

    /// Returns the number of registered connections.
    pub fn count(&self) -> usize {
        self.open().len()
    }

    /// Closes the oldest registered connection. Returns whether there was one.
    pub fn close_oldest(&self) -> bool {
        let oldest = self.open().pop_first();
        oldest.inspect(|(_, closed)| closed.cancel()).is_some()
    }

    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, CancellationToken>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Registration of a connection. The registration ends when a caller authenticates on the connection, or when this
/// value is dropped.
pub struct AuthenticationState {
    all: UnauthenticatedConnections,
    number: u64,
    closed: CancellationToken,
    is_authenticated: AtomicBool,
}

impl AuthenticationState {
    /// Records that a caller has authenticated.
    pub fn mark_authenticated(&self) {
        // Each call gets here. A read comes first, because unlike the swap it leaves the cache line shared between
        // cores.
        if !self.is_authenticated.load(Relaxed) && !self.is_authenticated.swap(true, Relaxed) {
            self.all.open().remove(&self.number);
        }
    }

    /// Returns whether a caller has authenticated.
    pub fn is_authenticated(&self) -> bool {
        self.is_authenticated.load(Relaxed)
    }

    /// Returns the token that is cancelled to close the connection.
    pub const fn closed(&self) -> &CancellationToken {
        &self.closed
    }
}

impl Drop for AuthenticationState {
    fn drop(&mut self) {
        self.all.open().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_unauthenticated_connection_is_closed_first() {
        let all = UnauthenticatedConnections::default();
        let [known, gone, old, new] = [(); 4].map(|()| all.register());
        known.mark_authenticated();
        drop(gone);
        assert_eq!(all.count(), 2);
        assert!(all.close_oldest());
        assert_eq!([&known, &old, &new].map(|it| it.closed().is_cancelled()), [false, true, false]);
        assert!(all.close_oldest());
        assert!(!all.close_oldest(), "no other is unauthenticated");
        assert!(!known.closed().is_cancelled());
    }
}
