//! Statistics that a store reports about itself.

use std::{
    fmt::{self, Display, Formatter},
    time::Duration,
};

use crate::domain::{JobId, State, Timestamp};

/// The place where jobs are stored at present.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMode {
    /// In this process only.
    Memory,
    /// In Redis.
    Redis,
    /// In this process, until Redis is available again.
    Degraded,
}

/// Statistics of a store.
#[derive(Clone, Debug, Default)]
pub struct StoreStats {
    /// Number of jobs by state, in the order of [`State::ALL`], without tombstones; `None` if they can't be counted
    /// now.
    pub counts: Option<[u64; State::ALL.len()]>,
    /// Number of jobs in this process's memory.
    pub held: u64,
    /// Estimated size of these jobs and of their tombstones, in bytes.
    pub bytes: u64,
    /// The connections to Redis, if the store uses it.
    pub redis: Option<RedisStats>,
    /// Reads by the source of their answer, if there is a local cache.
    pub cache: Option<CacheStats>,
    /// Number of jobs that were accepted here and that the primary does not have yet.
    pub dirty: u64,
    /// Report of the last reconciliation with the primary.
    pub last_reconciliation: Option<ReconcileReport>,
    /// The replicas that are registered with the primary; empty if the primary does not answer.
    pub replicas: Vec<ReplicaStats>,
    /// The reason for which decisions by time about active jobs are held back at present, if they are.
    pub held_back: Option<HeldBack>,
}

/// A replica that is registered with the primary.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplicaStats {
    /// Id of the process.
    pub id: String,
    /// Version of the process; empty if it does not report one.
    pub version: String,
    /// Time of the replica's last beat, on the primary's clock.
    pub last_seen: Timestamp,
    /// Number of jobs that the replica had accepted and the primary did not have, as of the last beat.
    pub dirty: u64,
}

/// The reason for which decisions by time about active jobs are held back: a worker may have reported without the
/// primary knowing of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeldBack {
    /// The primary does not answer.
    Unavailable,
    /// This replica does not serve from the primary.
    NotServing,
    /// Workers have been able to report for only `heard_for`; decisions wait for `bound`.
    JustBack {
        /// Time for which workers have been able to report.
        heard_for: Duration,
        /// Maximum time for which replicas may be cut off.
        bound: Duration,
    },
    /// No replica has sent a beat for some seconds.
    NobodyServes,
    /// Beats have times in the future.
    ClockSetBack,
    /// A replica may have acknowledged reports that the primary does not have.
    Replica {
        /// Id of the replica.
        id: String,
        /// Time since the replica's last beat, if that is long.
        silence: Option<Duration>,
        /// Number of the replica's jobs that the primary does not have, as of its last beat.
        dirty: u64,
    },
}

impl Display for HeldBack {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable => f.write_str("Redis does not answer this replica"),
            Self::NotServing => f.write_str("this replica does not serve from Redis"),
            Self::JustBack { heard_for, bound } => {
                let (heard_for, bound) = (heard_for.as_secs(), bound.as_secs());
                write!(f, "workers have been able to report for {heard_for} s only; decisions wait for {bound} s")
            }
            Self::NobodyServes => f.write_str("no replica has served from Redis for some seconds"),
            Self::ClockSetBack => f.write_str("the clock of Redis was set back"),
            Self::Replica { id, silence: Some(silence), dirty: 0 } => {
                write!(f, "replica {id} was last seen {} s ago", silence.as_secs())
            }
            Self::Replica { id, silence: Some(silence), dirty } => {
                let silence = silence.as_secs();
                write!(f, "replica {id} was last seen {silence} s ago with {dirty} jobs that Redis does not have")
            }
            Self::Replica { id, silence: None, dirty: 0 } => write!(f, "replica {id} does not serve from Redis"),
            Self::Replica { id, silence: None, dirty } => {
                write!(f, "replica {id} has {dirty} jobs that Redis does not have")
            }
        }
    }
}

/// Number of reads by the source of their answer.
#[derive(Clone, Copy, Debug)]
pub struct CacheStats {
    /// Answered from memory.
    pub hits: u64,
    /// Answered by the primary.
    pub misses: u64,
    /// Not answered.
    pub errors: u64,
}

/// The report of a reconciliation, or of several within a short time.
#[derive(Clone, Debug)]
pub struct ReconcileReport {
    /// End of the reconciliation; `None` while it is running, or if it was interrupted.
    pub end_time: Option<Timestamp>,
    /// Number of jobs by outcome, in the order of [`ReconcileOutcome::ALL`].
    pub counts: [u64; ReconcileOutcome::ALL.len()],
    /// The last thousand jobs, the latest first, each with its outcome and the reason as text.
    pub jobs: Vec<(JobId, ReconcileOutcome, &'static str)>,
}

/// The outcome of a reconciliation for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReconcileOutcome {
    /// Stored without discarding a change.
    Merged,
    /// Changed by two replicas; one of the changes was discarded.
    Conflicted,
    /// Not stored.
    Dropped,
}

impl ReconcileOutcome {
    /// All outcomes.
    pub const ALL: [Self; 3] = [Self::Merged, Self::Conflicted, Self::Dropped];
}

/// The state of the connections to Redis.
#[derive(Clone, Copy, Debug)]
pub struct RedisStats {
    /// Round-trip time; `None` if there was no answer.
    pub ping: Option<Duration>,
    /// Number of connections that carry commands.
    pub in_use: u32,
    /// Number of connections that carry no command.
    pub idle: u32,
    /// Number of callers that wait for a connection.
    pub waiting: u32,
}
