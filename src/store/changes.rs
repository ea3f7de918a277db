//! Commits as a store reports them to its listener.

use std::time::Instant;

use super::Stored;
use crate::domain::{JobId, State, Version};

/// A position in the order of a store's commits: that of the first commit is 1.
pub type CommitPosition = u64;

/// A committed version, and its position in the order of commits.
#[derive(Clone, Debug)]
pub struct CommitEvent {
    /// The version.
    pub stored: Stored,
    /// Position of the commit. It rises with each commit of the store. From this commit on,
    /// [`position`](super::JobStore::position) returns at least this value.
    pub position: CommitPosition,
    /// State of this incarnation of the job before the commit; `None` if the incarnation is new, or the state is
    /// unknown.
    pub previous: Option<State>,
    /// The version that the commit replaced, if it is known.
    pub replaced: Option<Version>,
}

/// A message that a version was committed, usually by another replica. The version itself has not been read yet.
#[derive(Clone, Copy, Debug)]
pub struct ChangeNotification<'a> {
    /// Id of the job.
    pub id: &'a JobId,
    /// Revision of the version.
    pub revision: i64,
    /// Kind of the job.
    pub kind: &'a str,
    /// Owner of the job; may be empty.
    pub owner: &'a str,
    /// The commit was made by this store, which may not have received the response to its write.
    pub own: bool,
}

/// A recipient of every version that a store commits. If others write to the same data, versions of one job may arrive
/// out of order and more than once.
pub trait Listener: Send + Sync + 'static {
    /// Receives a committed version. Called in the order of commits and under the store's lock: it must be quick, and
    /// must not call the store.
    fn on_commit(&self, event: CommitEvent);

    /// Receives the notification of a commit. Returns whether the version should be read and announced.
    fn on_notification(&self, _: &ChangeNotification<'_>) -> bool {
        true
    }

    /// Calls `set`, which sets the clock and returns the microseconds by which the clock stepped. All versions that
    /// were accepted earlier have their times moved by that step, so that none of them becomes due because of it.
    fn set_clock(&self, set: &dyn Fn() -> i64) {
        set();
    }

    /// Records that every commit before the given time has been announced or notified.
    fn set_notified_until(&self, _: Instant) {}

    /// Returns the jobs that must be read again if notifications are lost.
    fn watched(&self) -> Vec<JobId> {
        Vec::new()
    }

    /// Reports that the record of a job is missing although the indexes name it: it was evicted, or removed by hand.
    fn on_missing_record(&self, _: &JobId) {}

    /// Reports that notifications may have been lost. The jobs in [`watched`](Self::watched) are read again; lost
    /// changes of other jobs are not reported later.
    fn on_gap(&self) {}
}
