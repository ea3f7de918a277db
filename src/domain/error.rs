//! The reasons for refusing a call, with the data that a caller needs to react.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use thiserror::Error;

use super::{Job, JobId, Needed, NoTokenKey, State, Timestamp, Unauthenticated, change::Rejected};

/// One invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Path of the field in the request, such as `progress.percent` or `job_ids[3]`.
    pub field: String,
    /// The rule that the field violates.
    pub description: String,
}

/// A limit that was reached, with its value. A retry may succeed later: after some time, or when a job, watch or
/// connection ends or a job is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Jobs in memory, none of which can be evicted.
    MemoryJobs(usize),
    /// Bytes in memory, none of which can be freed.
    MemoryBytes(usize),
    /// Jobs of one owner.
    JobsPerOwner(usize),
    /// Calls per second of one caller.
    CallRate {
        /// Maximum number per second.
        most: u32,
        /// Time until the next call is allowed.
        wait: Duration,
    },
    /// Open watches of all callers.
    Watches(usize),
    /// Open watches of one caller.
    WatchesPerIdentity(usize),
    /// Open watches of one connection.
    WatchesPerConnection(usize),
    /// Open connections.
    Connections(usize),
    /// Open connections without a successful authentication.
    UnauthenticatedConnections(usize),
    /// Open watches of health.
    HealthWatches(usize),
    /// Failed authentications per second from one address.
    FailedAuthentications {
        /// Maximum number per second.
        most: u32,
        /// Time until the next attempt is allowed.
        wait: Duration,
    },
}

impl Limit {
    /// The names of all limits; each is the name of the flag that sets the limit.
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

    /// Returns the index of the limit's name in [`NAMES`](Self::NAMES).
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

    /// Returns the name of the limit.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }

    /// Returns the resource that is limited.
    pub const fn resource(self) -> Resource {
        match self {
            Self::MemoryJobs(_) => Resource::Memory,
            Self::MemoryBytes(_) => Resource::Bytes,
            Self::JobsPerOwner(_) => Resource::Jobs,
            Self::CallRate { wait, .. } | Self::FailedAuthentications { wait, .. } => Resource::Calls { wait },
            Self::Watches(_) | Self::WatchesPerIdentity(_) | Self::WatchesPerConnection(_) | Self::HealthWatches(_) => {
                Resource::Watches
            }
            Self::Connections(_) | Self::UnauthenticatedConnections(_) => Resource::Connections,
        }
    }

    /// Returns the value of the limit.
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

impl Display for Limit {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let (name, most) = (self.name(), self.most());
        match self {
            // The flag sets the sum of two limits.
            Self::MemoryBytes(_) => write!(f, "the limit of {most} bytes, a part of --{name}, is reached"),
            _ => write!(f, "the limit --{name} of {most} is reached"),
        }
    }
}

/// A resource that one or several limits restrict.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    /// Number of jobs in memory.
    Memory,
    /// Bytes in memory.
    Bytes,
    /// Jobs of one owner.
    Jobs,
    /// Calls, or attempts to authenticate, per second.
    Calls {
        /// Time until the next one is allowed.
        wait: Duration,
    },
    /// Open watches.
    Watches,
    /// Open connections.
    Connections,
}

/// The condition of the job that a call was about, at the time of the call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The id.
    pub id: JobId,
    /// The state.
    pub state: State,
    /// The current attempt.
    pub attempt: i32,
    /// The revision.
    pub revision: i64,
    /// The worker that reported last; may be empty.
    pub worker: String,
    /// Time at which the lease expires, if there is one.
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

/// The reason why a call was refused.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum JobError {
    /// Fields of the request are invalid.
    #[error("{}", first_violation(.0))]
    Invalid(Vec<Violation>),
    /// The authoritative store has no such job, or none that the caller may see.
    #[error("there is no job {0}")]
    NotFound(JobId),
    /// The id belongs to a job that was created by a different request.
    #[error("job {} already exists (created by a different request)", .0.id)]
    Exists(Subject),
    /// The id belongs to a job of another owner. Nothing else about that job is disclosed.
    #[error("job {0} already exists (created by a different request)")]
    Taken(JobId),
    /// The job's condition does not allow the change.
    #[error("{1}")]
    Rejected(Subject, Rejected),
    /// The expected revision, given last, was not reached in time.
    #[error("job {} is at revision {}, which is not yet {}", .0.id, .0.revision, .1)]
    RevisionNotReached(Subject, i64),
    /// A limit was reached.
    #[error("{0}")]
    Exhausted(Limit),
    /// A message exceeds the maximum size.
    #[error("the {what} is larger than {limit} bytes")]
    TooLarge {
        /// The kind of message.
        what: &'static str,
        /// The limit in bytes.
        limit: usize,
    },
    /// The store can't serve the call: the primary is unavailable or rejects writes, and memory can't serve it instead.
    #[error("the store is unavailable")]
    StoreUnavailable,
    /// Watch tokens can neither be made nor checked.
    #[error("watch tokens can neither be made nor checked here: {0}")]
    NoTokenKey(NoTokenKey),
    /// The stored record of this job can't be decoded.
    #[error("the record of job {0} can't be decoded")]
    Corrupt(JobId),
    /// The server is shutting down.
    #[error("the server is draining; retry on another replica")]
    Draining,
    /// The caller's deadline has passed.
    #[error("the call's deadline has passed")]
    DeadlineExceeded,
    /// The caller could not be authenticated.
    #[error("{0}")]
    Unauthenticated(Unauthenticated),
    /// The caller lacks a right.
    #[error("{0}")]
    PermissionDenied(Needed),
}

/// Describes the first violation, and the number of others.
fn first_violation(violations: &[Violation]) -> String {
    match violations {
        [] => "the request is not valid".to_owned(),
        [Violation { field, description }] => format!("{field}: {description}"),
        [Violation { field, description }, others @ ..] => {
            format!("{field}: {description} (and {} more)", others.len())
        }
    }
}
