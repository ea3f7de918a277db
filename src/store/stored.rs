//! Versions of jobs as a store returns them, and the outcomes of its operations.

use std::sync::Arc;

use thiserror::Error;

use crate::domain::{Cursor, Deadline, Due, Job, JobId, Limit, Timestamp};

/// A version in a store.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The version; a tombstone if its `removal` is set.
    pub job: Arc<Job>,
    /// Durability of the version.
    pub durability: Durability,
    /// Source of the version.
    pub source: Source,
}

/// The durability of a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Stored in the primary.
    Durable,
    /// Only in this process's memory.
    Volatile,
}

/// The source of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The primary.
    Redis,
    /// This process's memory.
    Memory,
}

/// The outcome of a [`JobStore::replace`](super::JobStore::replace).
#[derive(Clone, Debug)]
pub enum Replaced {
    /// The version is stored.
    Stored(Stored),
    /// A different version than the expected one is stored: this one, or none.
    Conflict(Option<Stored>),
}

/// The record of an id.
#[derive(Clone, Debug)]
pub enum Record {
    /// No record.
    Missing,
    /// A record that can't be read.
    Corrupt,
    /// A readable version.
    Found(Stored),
}

impl Record {
    /// Returns the version, if there is a readable one.
    pub fn found(self) -> Option<Stored> {
        if let Self::Found(stored) = self { Some(stored) } else { None }
    }
}

/// A decision by time about an active job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The deadline at which the decision is due.
    pub deadline: Deadline,
    /// The worker's next report reverts the decision: until then the worker counts as lost. Other decisions are final.
    pub is_revertible: bool,
    /// The deadline is the next one of the job, rather than one that a caller asks for. If the decision is too early,
    /// the store postpones the due time of the record.
    pub is_due: bool,
    /// The time of the decision, on this process's clock.
    pub now: Timestamp,
}

/// The outcome of a [`JobStore::decide`](super::JobStore::decide).
#[derive(Clone, Debug)]
pub enum Decided {
    /// The version is stored.
    Stored(Stored),
    /// A different version than the expected one is stored.
    Conflict,
    /// Too early: a worker may have reported. The record becomes due again later.
    Deferred,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs, in the order of the query. May be fewer than requested, even if there is a next page.
    pub jobs: Vec<Stored>,
    /// Position of the next page; `None` on the last page.
    pub next: Option<Cursor>,
    /// Total number of matches, if it is known exactly.
    pub total: Option<u64>,
    /// Jobs may be missing: the primary is unavailable in whole or in part, or does not have all changes accepted here.
    pub partial: bool,
}

/// A record for which an action is due.
#[derive(Clone, Debug)]
pub struct DueRecord {
    /// The record.
    pub stored: Stored,
    /// The action that is due.
    pub due: Due,
}

/// The records that are due now, and the time of the next one.
#[derive(Clone, Debug, Default)]
pub struct DueBatch {
    /// The records, the longest overdue first.
    pub records: Vec<DueRecord>,
    /// Time at which the next record is due; may be in the past if more are due than requested.
    pub next: Option<Timestamp>,
}

/// The reason why a store can't fulfil a request.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// The store is at its capacity, and nothing can be evicted.
    #[error("{0}")]
    Full(Limit),
    /// The primary can't be reached, and memory can't serve the request instead.
    #[error("the store is unavailable")]
    Unavailable,
    /// The store serves reads, and rejects writes.
    #[error("the store rejects writes")]
    ReadOnly,
    /// The record of this job can't be decoded.
    #[error("the record of job {0} can't be decoded")]
    Corrupt(JobId),
}
