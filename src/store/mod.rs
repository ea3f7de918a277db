//! Where jobs are kept: what every store promises, whatever it keeps them in.
//!
//! The only write is *compare and set*: [`JobStore::replace`] stores a version if what is there is still the version
//! that it was made from, and otherwise gives back what is there, so that the caller applies its change again. A store
//! knows no rule of a job's life. Whoever commits announces: a store tells its [`Listener`] of each version, in the
//! order in which it stored them.

mod changes;
mod fallback;
mod memory;
mod primary;
pub mod redis;
mod stats;
mod table;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use thiserror::Error;

use tokio::sync::watch;
use uuid::Uuid;

pub use self::{
    changes::{ChangeNotification, CommitEvent, Listener},
    fallback::{FallbackPolicy, FallbackStore, FreshnessToken, LocalCache, Route},
    memory::MemoryStore,
    primary::{History, PartitionState, Partitioning, Presence, PrimaryStore, Replacement},
    redis::RedisStore,
    stats::{CacheStats, ReconcileOutcome, ReconcileReport, RedisStats, StorageMode, StoreStats},
};

use crate::domain::{Cursor, Due, Job, JobId, ListQuery, Timestamp};

/// A version as a store holds it.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The version; a tombstone if its `removal` is set.
    pub job: Arc<Job>,
    /// How safe it is.
    pub durability: Durability,
    /// Where it came from.
    pub source: Source,
}

/// How safe a version is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// In the store of record.
    Durable,
    /// Only in this process's memory.
    Volatile,
}

/// Where an answer came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The store of record.
    Redis,
    /// This process's memory.
    Memory,
}

/// What became of a [`JobStore::replace`].
#[derive(Clone, Debug)]
pub enum Replaced {
    /// The version is stored.
    Stored(Stored),
    /// Something else is there than was expected: this, or nothing.
    Conflict(Option<Stored>),
}

/// What is there for an id.
#[derive(Clone, Debug)]
pub enum Record {
    /// Nothing.
    Missing,
    /// Something that is no job.
    Corrupt,
    /// This.
    Found(Stored),
}

impl Record {
    /// The version, if there is one that can be read.
    pub fn found(self) -> Option<Stored> {
        if let Self::Found(stored) = self { Some(stored) } else { None }
    }
}

/// A decision about an active job that the passing of time brings about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The worker counts as lost, until it reports again.
    Lost,
    /// The job fails, or expires: nothing undoes that.
    Final,
}

/// What became of a [`JobStore::decide`].
#[derive(Clone, Debug)]
pub enum Decided {
    /// The version is stored.
    Stored(Stored),
    /// Something else is there than was expected.
    Conflict,
    /// It is too early: a worker may have been heard. It comes up again when it is due.
    Deferred,
}

/// A page of a list.
#[derive(Clone, Debug, Default)]
pub struct Page {
    /// The jobs, newest first. May be fewer than asked for, even where there is a next page.
    pub jobs: Vec<Stored>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<Cursor>,
    /// How many match in all, where that is known exactly.
    pub total: Option<u64>,
    /// Only what this process holds: the store of record is away.
    pub partial: bool,
}

/// A record for which time has brought something about.
#[derive(Clone, Debug)]
pub struct DueRecord {
    /// The record.
    pub stored: Stored,
    /// What is to be done.
    pub due: Due,
}

/// What is due now, and when to ask again.
#[derive(Clone, Debug, Default)]
pub struct DueBatch {
    /// The records, the longest overdue first.
    pub records: Vec<DueRecord>,
    /// When the next one will be due; may be past where there are more than were asked for.
    pub next: Option<Timestamp>,
}

/// Why a store can't do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StoreError {
    /// It holds as many records as it may, and none can give way.
    #[error("the store is full at {0} jobs")]
    Full(usize),
    /// It can't be reached, and the answer is not held here.
    #[error("the store can't be reached")]
    Unavailable,
    /// It answers, but takes no writes.
    #[error("the store takes no writes")]
    ReadOnly,
    /// What it holds for this job can't be read.
    #[error("the record of job {0} can't be read")]
    Corrupt(JobId),
}

/// Keeps jobs. Every implementation passes the same suite, `tests/it/store_contract.rs`.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// A version of `id` that is at most a second behind what is there, if one is at hand; nobody is asked. Never a
    /// tombstone.
    fn get_fresh(&self, _: &JobId) -> Option<Stored> {
        None
    }

    /// The version that is there for `id`, a tombstone too.
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError>;

    /// Whether [`get`](Self::get), which found `instead`, could have told now that nothing is there.
    async fn absence(&self, _instead: &Stored) -> Result<(), StoreError> {
        Ok(())
    }

    /// Stores `job`, if what is there is exactly the version `previous`, or nothing for `None`. Where `job` itself is
    /// there already it counts as stored: a write whose answer was lost may be repeated.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError>;

    /// Stores what time alone brings about for the active job `previous`, if no worker can have been heard within the time
    /// that `decision` allows.
    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError>;

    /// The jobs that a query selects, newest first, without tombstones. Costs the page, not the collection.
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// How many jobs an owner has, those among them whose time is just over; an empty one: how many have none.
    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError>;

    /// Forgets a record for good, without a tombstone, if it is still this version.
    async fn delete(&self, job: &Job) -> Result<(), StoreError>;

    /// Up to `limit` records for which something is due at `now`.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError>;

    /// Whether the store takes writes.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Counts, without reading the collection, and within a second whether or not the store of record answers.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Where jobs are kept at the moment, and each change of that.
    fn mode(&self) -> watch::Receiver<StorageMode>;

    /// Names this data set: a changed one means that positions and revisions from before say nothing.
    fn epoch(&self) -> u64;

    /// The place of the last commit.
    fn position(&self) -> u64;

    /// The newest version of each life of a job that changed after `after`, up to `limit` of them in the order of
    /// commits, tombstones too. `previous` is the state at `since`, a place before `after` or the same. `None` where
    /// what changed since `since` can't be told any more.
    async fn changed_since(&self, since: u64, after: u64, limit: usize)
    -> Result<Option<Vec<CommitEvent>>, StoreError>;
}

/// A random part of `most`.
#[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
fn jitter(most: Duration) -> Duration {
    most.mul_f64(f64::from(Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX))
}
