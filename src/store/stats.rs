//! What stores tell of themselves.

use std::time::Duration;

use crate::domain::{JobId, State, Timestamp};

/// Where jobs are kept at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMode {
    /// In this process only.
    Memory,
    /// In Redis.
    Redis,
    /// In this process until Redis is back.
    Degraded,
}

/// How a store is.
#[derive(Clone, Debug)]
pub struct StoreStats {
    /// Jobs by state, in the order of [`State::ALL`]. Tombstones do not count. `None`: they can't be counted now.
    pub counts: Option<[u64; State::ALL.len()]>,
    /// Jobs held in this process.
    pub held: u64,
    /// The link to Redis, if there is to be one.
    pub redis: Option<RedisStats>,
    /// Where reads were answered from, if there are two places.
    pub cache: Option<CacheStats>,
    /// Jobs that were accepted here and that the store of record does not have yet.
    pub dirty: u64,
    /// The last reconciliation with the store of record.
    pub last_reconciliation: Option<ReconcileReport>,
}

/// How often reads were answered from where.
#[derive(Clone, Copy, Debug)]
pub struct CacheStats {
    /// From memory.
    pub hits: u64,
    /// By the store of record.
    pub misses: u64,
    /// Not at all.
    pub errors: u64,
}

/// What a reconciliation did, or several in a short time.
#[derive(Clone, Debug)]
pub struct ReconcileReport {
    /// When it ended; `None`: it is under way, or was cut short.
    pub end_time: Option<Timestamp>,
    /// How many jobs became what, in the order of [`ReconcileOutcome::ALL`].
    pub counts: [u64; ReconcileOutcome::ALL.len()],
    /// What became of the last thousand jobs, and why, for people; the latest first.
    pub jobs: Vec<(JobId, ReconcileOutcome, &'static str)>,
}

/// What can become of a job in a reconciliation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ReconcileOutcome {
    /// It was stored as it was here.
    Merged,
    /// Two sides had changed it, and a change of one gave way.
    Conflicted,
    /// It was not stored.
    Dropped,
}

impl ReconcileOutcome {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Merged, Self::Conflicted, Self::Dropped];
}

/// How the link to Redis is.
#[derive(Clone, Copy, Debug)]
pub struct RedisStats {
    /// How long an answer takes; `None`: there is none.
    pub ping: Option<Duration>,
    /// Connections that carry commands.
    pub in_use: u32,
    /// Connections that don't.
    pub idle: u32,
    /// Callers that wait for a connection.
    pub waiting: u32,
}
