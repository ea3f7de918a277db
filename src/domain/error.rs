//! Everything a call can be refused for, with the data that a caller needs to go on.

use thiserror::Error;

use super::{JobId, State, change::Rejected};

/// One bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request, such as `progress.percent` or `job_ids[3]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// A limit that was reached. All pass with time or with a deletion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// `--max-memory-jobs`, and none of the jobs has ended.
    Memory(usize),
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JobError {
    /// Fields of the request are malformed.
    #[error("the request is not valid")]
    Invalid(Vec<Violation>),
    /// The store of record was asked and has no such job.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The id belongs to a job that another request made.
    #[error("job {id} exists already, made by another request")]
    Exists {
        /// Which job.
        id: JobId,
        /// Where it is in its life.
        state: State,
        /// Its revision.
        revision: i64,
    },
    /// The job is not in a condition to be changed so.
    #[error("{reason}")]
    Rejected {
        /// Which job.
        id: JobId,
        /// Where it is in its life.
        state: State,
        /// Its attempt.
        attempt: i32,
        /// Its revision.
        revision: i64,
        /// What stands against it.
        reason: Rejected,
    },
    /// The revision asked for did not come in time.
    #[error("job {id} is at revision {revision}, which is not yet {wanted}")]
    RevisionNotReached {
        /// Which job.
        id: JobId,
        /// Where it is in its life.
        state: State,
        /// Its revision.
        revision: i64,
        /// The revision asked for.
        wanted: i64,
    },
    /// A limit is reached.
    #[error("a limit of this server is reached")]
    Exhausted(Limit),
    /// The job is not held here, and the store of record can't be asked.
    #[error("the store can't be reached")]
    StoreUnavailable,
    /// What the store holds for this job can't be read.
    #[error("what is stored for job {0} can't be read")]
    Corrupt(JobId),
    /// The server is shutting down.
    #[error("the server is shutting down; go on elsewhere")]
    Draining,
    /// The caller's time is over.
    #[error("the call's deadline has passed")]
    DeadlineExceeded,
}
