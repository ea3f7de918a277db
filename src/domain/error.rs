//! Everything a call can be refused for, with the data that a caller needs to go on.

use std::time::Duration;

use thiserror::Error;

use super::{Job, JobId, Needed, State, Timestamp, Unauthenticated, change::Rejected};

/// One bad field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its path in the request, such as `progress.percent` or `job_ids[3]`.
    pub field: String,
    /// What is wrong and what would be right.
    pub description: String,
}

/// A limit that was reached, and how much it allows. All pass with time, or when something ends or is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Jobs in memory, none of which can be evicted.
    MemoryJobs(usize),
    /// Bytes in memory, none of which can be freed.
    MemoryBytes(usize),
    /// Jobs of the owner.
    JobsPerOwner(usize),
    /// Calls of the caller a second.
    CallRate {
        /// So many.
        most: u32,
        /// Time until there may be another.
        wait: Duration,
    },
    /// Open watches in all.
    Watches(usize),
    /// Open watches of the caller.
    WatchesPerIdentity(usize),
    /// Open watches on the connection.
    WatchesPerConnection(usize),
    /// Open connections.
    Connections(usize),
    /// Open connections on which nobody has authenticated.
    UnauthenticatedConnections(usize),
    /// Open watches of health.
    HealthWatches(usize),
    /// Failed authentications of an address a second.
    FailedAuthentications {
        /// So many.
        most: u32,
        /// Time until there may be another.
        wait: Duration,
    },
}

impl Limit {
    /// The names of all limits, which are those of the flags that set them.
    pub const NAMES: [&str; 11] = [
        "max-memory-jobs",
        "max-jobs-per-owner",
        "max-calls-per-second",
        "max-watches",
        "max-watches-per-identity",
        "max-watches-per-connection",
        "max-connections",
        "max-memory",
        "max-unauthenticated-connections",
        "max-health-watches",
        "max-auth-failures-per-second",
    ];

    /// The place of its name among [`NAMES`](Self::NAMES).
    pub const fn index(self) -> usize {
        match self {
            Self::MemoryJobs(_) => 0,
            Self::JobsPerOwner(_) => 1,
            Self::CallRate { .. } => 2,
            Self::Watches(_) => 3,
            Self::WatchesPerIdentity(_) => 4,
            Self::WatchesPerConnection(_) => 5,
            Self::Connections(_) => 6,
            Self::MemoryBytes(_) => 7,
            Self::UnauthenticatedConnections(_) => 8,
            Self::HealthWatches(_) => 9,
            Self::FailedAuthentications { .. } => 10,
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// How much it allows.
    pub const fn most(self) -> usize {
        match self {
            Self::CallRate { most, .. } | Self::FailedAuthentications { most, .. } => most as usize,
            Self::MemoryJobs(most)
            | Self::MemoryBytes(most)
            | Self::JobsPerOwner(most)
            | Self::Watches(most)
            | Self::WatchesPerIdentity(most)
            | Self::WatchesPerConnection(most)
            | Self::Connections(most)
            | Self::UnauthenticatedConnections(most)
            | Self::HealthWatches(most) => most,
        }
    }
}

/// The job that a call was about, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Which job.
    pub id: JobId,
    /// Where it is in its life.
    pub state: State,
    /// Its attempt.
    pub attempt: i32,
    /// Its revision.
    pub revision: i64,
    /// Who reported last; may be empty.
    pub worker: String,
    /// Time at which its lease runs out, if it runs under one.
    pub lease_expire_time: Option<Timestamp>,
}

impl From<&Job> for Subject {
    fn from(job: &Job) -> Self {
        Self {
            id: job.id.clone(),
            state: job.state,
            attempt: job.attempt,
            revision: job.version.revision,
            worker: job.worker.clone(),
            lease_expire_time: job.lease.expire_time.filter(|_| job.state == State::Running),
        }
    }
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JobError {
    /// Fields of the request are malformed.
    #[error("{}", first_violation(.0))]
    Invalid(Vec<Violation>),
    /// The store of record was asked and has no such job.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The id belongs to a job that another request made.
    #[error("job {} exists already, made by another request", .0.id)]
    Exists(Subject),
    /// The id belongs to a job that is not the caller's, of which no more is told.
    #[error("job {0} exists already, made by another request")]
    Taken(JobId),
    /// The job is not in a condition to be changed so.
    #[error("{1}")]
    Rejected(Subject, Rejected),
    /// The revision asked for, given last, did not come in time.
    #[error("job {} is at revision {}, which is not yet {}", .0.id, .0.revision, .1)]
    RevisionNotReached(Subject, i64),
    /// A limit is reached.
    #[error("the limit --{} of {} is reached", .0.name(), .0.most())]
    Exhausted(Limit),
    /// A message is larger than this many bytes.
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// Which message.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
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
    /// It is not known who calls.
    #[error("{0}")]
    Unauthenticated(Unauthenticated),
    /// The caller may not do this.
    #[error("{0}")]
    PermissionDenied(Needed),
}

/// Describes the first violation, and counts the others.
fn first_violation(violations: &[Violation]) -> String {
    match violations {
        [] => "the request is not valid".to_owned(),
        [Violation { field, description }] => format!("{field}: {description}"),
        [Violation { field, description }, others @ ..] => {
            format!("{field}: {description} (and {} more)", others.len())
        }
    }
}
