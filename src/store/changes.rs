//! What a store tells of its commits.

use std::time::Instant;

use super::Stored;
use crate::domain::{JobId, State};

/// A version that was stored, and its place in the order of commits.
#[derive(Clone, Debug)]
pub struct CommitEvent {
    /// The version.
    pub stored: Stored,
    /// Its place: rises with each commit of the store, and is at most [`position`](super::JobStore::position) from then on.
    pub position: u64,
    /// The state that this life of the job was in before; `None`: it was created since, or what it was is not known.
    pub previous: Option<State>,
}

/// What is known of a version that somebody else stored, before it is read.
#[derive(Clone, Copy, Debug)]
pub struct ChangeNotification<'a> {
    /// Which job.
    pub id: &'a JobId,
    /// Its revision.
    pub revision: i64,
    /// What sort of work it is.
    pub kind: &'a str,
    /// Whom it belongs to; may be empty.
    pub owner: &'a str,
    /// This store stored it, and may not have heard that it did.
    pub own: bool,
}

/// Is told of each version that a store has stored. Of one job it may be told out of order, and more than once, where
/// others write to the same data.
pub trait Listener: Send + Sync + 'static {
    /// A version was stored. Called in the order of commits and under the store's lock: it must be quick, and must not
    /// call the store.
    fn changed(&self, announcement: CommitEvent);

    /// Somebody else stored a version. Says whether to read and to announce it.
    fn hinted(&self, _: &ChangeNotification<'_>) -> bool {
        true
    }

    /// Every commit before `time` has been announced, or hinted at.
    fn heard_until(&self, _: Instant) {}

    /// The jobs to be read again when hints were lost.
    fn watched(&self) -> Vec<JobId> {
        Vec::new()
    }

    /// The record of a job is missing that the indexes name: it was evicted, or removed by hand.
    fn vanished(&self, _: &JobId) {}

    /// Hints may have been lost. Those [`watched`](Self::watched) are read again, of other jobs nothing more is heard.
    fn missed(&self) {}
}
