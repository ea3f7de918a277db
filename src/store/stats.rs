//! Statistics that a store reports about itself.

use std::time::Duration;

use crate::domain::{JobId, State, Timestamp};

/// The place where jobs are stored at the moment.
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
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Number of jobs by state, in the order of [`State::ALL`], without tombstones; `None` if they can't be counted
    /// now.
    pub counts: Option<[u64; State::ALL.len()]>,
    /// Number of jobs in this process's memory.
    pub held: u64,
    /// The connections to Redis, if the store uses it.
    pub redis: Option<RedisStats>,
    /// Reads by the source of their answer, if there is a local cache.
    pub cache: Option<CacheStats>,
    /// Number of jobs that were accepted here and that the primary does not have yet.
    pub dirty: u64,
    /// Report of the last reconciliation with the primary.
    pub last_reconciliation: Option<ReconcileReport>,
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
    /// The last thousand jobs, the latest first, each with its outcome and the reason in plain text.
    pub jobs: Vec<(JobId, ReconcileOutcome, &'static str)>,
}

/// The outcome of a reconciliation for one job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReconcileOutcome {
    /// Stored without discarding a change.
    Merged,
    /// Changed on two sides; one of the changes was discarded.
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
    /// Number of connections that carry none.
    pub idle: u32,
    /// Number of callers that wait for a connection.
    pub waiting: u32,
}
