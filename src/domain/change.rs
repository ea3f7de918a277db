//! What can be done to a job, and the ways it can go.

use std::time::Duration;

use thiserror::Error;

use super::{ChangeId, Claim, Document, Failure, Job, Progress, State, Timestamp};

/// How long a tombstone is kept: longer than any entry of a replica stays unconfirmed.
pub const TOMBSTONE_LIFE: Duration = Duration::from_secs(24 * 3600);

/// How long jobs are kept by state, where the job itself does not say. Zero: for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// After success.
    pub succeeded: Duration,
    /// After failure.
    pub failed: Duration,
    /// After cancellation.
    pub cancelled: Duration,
    /// After the last change of a job that has not ended.
    pub active: Duration,
}

impl Retention {
    /// How long a job in `state` is kept.
    pub const fn of(&self, state: State) -> Duration {
        match state {
            State::Pending | State::Running => self.active,
            State::Succeeded => self.succeeded,
            State::Failed => self.failed,
            State::Cancelled => self.cancelled,
        }
    }
}

/// Limits for jobs that name none. Zero: unlimited.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Maximum time without a report until the worker counts as lost.
    pub lease: Duration,
    /// Maximum time that a job waits for a worker.
    pub start: Duration,
}

/// The time and the id of a change, and how long what it makes is kept.
#[derive(Clone, Copy, Debug)]
pub struct ChangeContext {
    /// The time.
    pub now: Timestamp,
    /// Names the change.
    pub change_id: ChangeId,
    /// How long jobs are kept.
    pub retention: Retention,
}

/// Something done to a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// A worker claims the next attempt.
    Start(Start),
    /// A worker says how far it is.
    Report(Report),
    /// A worker is done.
    Complete(Completion<Option<Document>>),
    /// A worker gave up.
    Fail(Completion<Failure>),
    /// A worker gave up, and another attempt will follow.
    Retry(Completion<Failure>),
    /// Somebody asks to stop.
    Cancel {
        /// Why.
        reason: String,
        /// Who asks.
        requester: String,
        /// Without waiting for the worker.
        force: bool,
        /// Maximum time to wait for the worker. Zero: unlimited.
        grace: Duration,
    },
    /// The worker stopped as asked.
    ConfirmCancel {
        /// Which try stopped; the current one if `None`.
        attempt: Option<i32>,
        /// The claim of the attempt that stopped.
        claim: Option<Claim>,
        /// Becomes the message of the progress.
        message: Option<String>,
    },
    /// The job is deleted.
    Delete {
        /// Even though it has not ended.
        force: bool,
    },
    /// Nobody was heard in time: the worker within its lease, or a worker that starts the job.
    LoseWorker,
    /// The time that a worker had to stop is over.
    ForceCancel,
    /// The job's time is over.
    Expire,
}

/// A worker's claim of the next attempt.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Start {
    /// The worker that claims it; may be empty.
    pub worker: String,
    /// Makes the request safe to repeat.
    pub request_id: Option<String>,
    /// Replaces the lease's length; zero ends the lease.
    pub lease_timeout: Option<Duration>,
    /// Even though the attempt before it runs.
    pub takeover: bool,
}

/// How far a worker is.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// What is new.
    pub progress: Progress,
    /// Who reports; the last one if empty.
    pub worker: String,
    /// Numbers the reports of an attempt.
    pub sequence: Option<i64>,
    /// Which try this belongs to; the current one if `None`.
    pub attempt: Option<i32>,
    /// The claim of the attempt that this belongs to.
    pub claim: Option<Claim>,
    /// Apply only to this revision.
    pub expected_revision: Option<i64>,
    /// Replaces the lease's length; zero ends the lease.
    pub lease_timeout: Option<Duration>,
}

/// A worker's last word, with what came of the work.
#[derive(Clone, Debug, PartialEq)]
pub struct Completion<T> {
    /// What came of it.
    pub outcome: T,
    /// Which try ended; the current one if `None`.
    pub attempt: Option<i32>,
    /// The claim of the attempt that ended.
    pub claim: Option<Claim>,
    /// Apply only to this revision.
    pub expected_revision: Option<i64>,
}

/// What a change made of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum Applied {
    /// This is the next version, to be stored.
    Changed(Box<Job>),
    /// This is the next version, to be stored only if no replica can have heard the worker within its lease.
    ChangedIfLost(Box<Job>),
    /// Nothing is to be stored: the job is already so.
    Unchanged,
    /// The report was ignored. It renews the lease nevertheless: `renewed` is the next version, to be stored, unless
    /// nothing depends on when the worker reported.
    Ignored {
        /// The reason.
        why: Ignored,
        /// The next version.
        renewed: Option<Box<Job>>,
    },
}

/// The reason why a report was ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// Its sequence is not higher than that of an earlier report.
    OlderSequence,
    /// It has no sequence, and its stage or its numbers are lower than those of an earlier report.
    LowerProgress,
}

/// Why a change can't be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Rejected {
    /// The job has ended, otherwise than the change would end it.
    #[error("the job has ended")]
    Finished,
    /// The attempt that is named is not the one that runs.
    #[error("this attempt has ended, or a later one has begun")]
    StaleAttempt,
    /// The current attempt runs, as far as is known.
    #[error("an attempt is running; wait for its end, or set takeover to end it")]
    AttemptRunning,
    /// The revision is not the expected one.
    #[error("the job is not at the expected revision")]
    RevisionMismatch,
    /// Nobody asked for cancellation.
    #[error("nobody asked for this job to be cancelled")]
    CancelNotRequested,
    /// The job has not ended.
    #[error("the job has not ended; set force to delete it all the same")]
    Active,
}

/// Something that time alone brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// [`Change::LoseWorker`].
    LoseWorker,
    /// [`Change::ForceCancel`].
    ForceCancel,
    /// [`Change::Expire`].
    Expire,
    /// The tombstone is forgotten.
    Forget,
}
