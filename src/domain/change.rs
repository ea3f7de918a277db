//! The changes of a job, and their possible results.

use std::time::Duration;

use thiserror::Error;

use super::{ChangeId, Claim, Document, Failure, Job, Progress, State, Timestamp};

/// The time for which a tombstone is kept. A replica that finds no record of a job drops its own copy if the primary
/// last confirmed the copy longer ago than this, so that no copy brings a deleted job back.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The time for which jobs are kept, by state. A job may set its own retention, which applies after its end. Zero: for
/// ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// Time after success.
    pub succeeded: Duration,
    /// Time after failure.
    pub failed: Duration,
    /// Time after cancellation.
    pub cancelled: Duration,
    /// Time after the last change or report of an active job.
    pub active: Duration,
}

impl Retention {
    /// Returns the retention of a job in `state`.
    pub const fn of(&self, state: State) -> Duration {
        match state {
            State::Pending | State::Running => self.active,
            State::Succeeded => self.succeeded,
            State::Failed => self.failed,
            State::Cancelled => self.cancelled,
        }
    }
}

/// Default limits of jobs that set none. Zero: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time without a report until the worker counts as lost.
    pub lease: Duration,
    /// Maximum time that a pending job waits for a worker.
    pub start: Duration,
}

/// The time and the id of a change, and the retention that applies to its result.
#[derive(Clone, Copy, Debug)]
pub struct ChangeContext {
    /// Time of the change.
    pub now: Timestamp,
    /// Id of the change.
    pub change_id: ChangeId,
    /// Retention of jobs that set none.
    pub retention: Retention,
}

/// A change of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A worker claims the next attempt.
    Start(Start),
    /// A worker reports progress.
    Report(Report),
    /// A worker completes the job.
    Complete(Completion<Option<Document>>),
    /// A worker reports that the job failed.
    Fail(Completion<Failure>),
    /// A worker reports that the attempt failed and that the job is to be tried again.
    Retry(Completion<Failure>),
    /// A caller asks to cancel the job.
    Cancel {
        /// The reason, for people.
        reason: String,
        /// The name of the caller that asks.
        requester: String,
        /// Cancels at once, without waiting for the worker.
        force: bool,
        /// Maximum time to wait for the worker. Zero: unlimited.
        grace: Duration,
    },
    /// The worker confirms that it stopped because of a cancellation.
    ConfirmCancel {
        /// The attempt that stopped; `None`: the current one.
        attempt: Option<i32>,
        /// The claim of the attempt that stopped.
        claim: Option<Claim>,
        /// Replaces the message of the progress.
        message: Option<String>,
    },
    /// A caller deletes the job.
    Delete {
        /// Deletes an active job, too.
        force: bool,
    },
    /// The lease expired: no worker reported, or none started the job, within the time limit.
    LoseWorker,
    /// The grace period of a cancellation is over.
    ForceCancel,
    /// The retention of the job is over.
    Expire,
}

/// A worker's claim of the next attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// The worker that claims it; may be empty.
    pub worker: String,
    /// Makes the request idempotent.
    pub request_id: Option<String>,
    /// Replaces the length of the lease; zero removes the lease.
    pub lease_timeout: Option<Duration>,
    /// Starts the next attempt although the current one is running.
    pub takeover: bool,
}

/// A progress report.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The fields that changed.
    pub progress: Progress,
    /// The worker that reports; empty: the one that reported last.
    pub worker: String,
    /// Sequence number of the report within its attempt.
    pub sequence: Option<i64>,
    /// The attempt that the report belongs to; `None`: the current one.
    pub attempt: Option<i32>,
    /// The claim of that attempt.
    pub claim: Option<Claim>,
    /// Rejects the change unless the job is at this revision.
    pub expected_revision: Option<i64>,
    /// Replaces the length of the lease; zero removes the lease.
    pub lease_timeout: Option<Duration>,
}

/// A worker's last report of an attempt, with the outcome.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion<T> {
    /// The outcome of the attempt.
    pub outcome: T,
    /// The attempt that ended; `None`: the current one.
    pub attempt: Option<i32>,
    /// The claim of the attempt that ended.
    pub claim: Option<Claim>,
    /// Rejects the change unless the job is at this revision.
    pub expected_revision: Option<i64>,
}

/// The result of applying a change to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// The next version, to be stored.
    Changed(Box<Job>),
    /// The next version, to be stored only if the lease has expired on the primary's clock: another replica may have
    /// received a report since.
    ChangedIfLost(Box<Job>),
    /// The job is already in the requested condition; nothing is stored.
    Unchanged,
    /// The report was ignored, but still renews the lease. `renewed` is the version to be stored; `None` if nothing
    /// depends on the time of the last report.
    Ignored {
        /// The reason for ignoring the report.
        why: Ignored,
        /// The next version, with a renewed lease.
        renewed: Option<Box<Job>>,
    },
}

/// The reason why a report was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Its sequence number is not higher than that of an earlier report.
    OlderSequence,
    /// It has no sequence number, and its stage or its numbers are lower than those of an earlier report.
    LowerProgress,
}

/// The reason why a change is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// The job has already ended, and not in the state that the change asks for.
    #[error("the job has ended")]
    Finished,
    /// The change names an attempt that has ended, or a claim that is not the current one.
    #[error("this attempt has ended, or a later one has begun")]
    StaleAttempt,
    /// The current attempt is still running, as far as is known.
    #[error("an attempt is running; wait for its end, or set takeover to end it")]
    AttemptRunning,
    /// The revision differs from the expected one.
    #[error("the job is not at the expected revision")]
    RevisionMismatch,
    /// The job has no cancellation request.
    #[error("the job has no cancellation request")]
    CancelNotRequested,
    /// The job has not ended.
    #[error("the job has not ended; set force to delete it nevertheless")]
    Active,
}

/// An action that becomes due by time alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// [`Change::LoseWorker`].
    LoseWorker,
    /// [`Change::ForceCancel`].
    ForceCancel,
    /// [`Change::Expire`].
    Expire,
    /// Forgets the tombstone.
    Forget,
}
