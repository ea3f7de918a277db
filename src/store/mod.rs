//! Storage of jobs: the contract of every store.
//!
//! The only write is *compare and set*: [`JobStore::replace`] stores a version if the current version is still the one
//! that it was derived from, and otherwise returns the current one, so that the caller applies its change again. A
//! store does not know the rules of the state machine. The store that commits a version also announces it: it passes
//! each version to its [`Listener`], in the order of commits.

mod capacity;
mod changes;
mod fallback;
mod memory;
mod primary;
pub mod redis;
mod stats;
mod stored;
mod table;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

pub use self::{
    capacity::Capacity,
    changes::{ChangeNotification, CommitEvent, CommitPosition, Listener},
    fallback::{FallbackPolicy, FallbackStore, FreshnessToken, LocalCache, Route},
    memory::MemoryStore,
    primary::{History, PartitionState, Partitioning, Presence, PrimaryStore, Replacement, new_branch_id},
    redis::RedisStore,
    stats::{
        CacheStats, HeldBack, ReconcileOutcome, ReconcileReport, RedisStats, ReplicaStats, StorageMode, StoreStats,
    },
    stored::{Decided, Decision, DueBatch, DueRecord, Durability, Page, Record, Replaced, Source, StoreError, Stored},
};

use crate::domain::{Job, JobId, ListQuery, Timestamp};

/// A store of jobs. Every implementation passes the same suite, `tests/it/store_contract`.
#[async_trait]
pub trait JobStore: Send + Sync + 'static {
    /// Returns a version of `id` that is at most a second behind the current one, if this process has one in memory.
    /// Asks no other process, and never returns a tombstone.
    fn get_fresh(&self, _: &JobId) -> Option<Stored> {
        None
    }

    /// Returns whether another process executes the writes, so that reports of one job may arrive faster than they can
    /// be stored.
    fn is_remote(&self) -> bool {
        true
    }

    /// Returns the current version of `id`, which may be a tombstone.
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError>;

    /// Confirms that a `NOT_FOUND` answer would be authoritative now; fails otherwise. A hidden job must have the same
    /// answer as a missing one, so this is called when `get` returned a record that the caller has no right to see:
    /// `_instead`.
    async fn confirm_absence(&self, _instead: &Stored) -> Result<(), StoreError> {
        Ok(())
    }

    /// Stores `job`, if the current version is exactly `previous` or, for `None`, if there is no version. Succeeds,
    /// too, if `job` itself is stored already: a write whose response was lost may be repeated.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError>;

    /// Stores a change of the active job `previous` that became due by time alone, if no worker can have reported
    /// within the time that `decision` allows.
    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError>;

    /// Returns the jobs that a query selects, in its order, without tombstones. The cost depends on the page, not on
    /// the collection.
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// Returns the number of jobs of an owner, including those whose retention has just ended; for an empty owner, the
    /// number of jobs without one.
    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError>;

    /// Removes a record without leaving a tombstone, if it is still this version.
    async fn delete(&self, job: &Job) -> Result<(), StoreError>;

    /// Returns up to `limit` records for which an action is due at `now`.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError>;

    /// Checks that the store accepts writes.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Returns statistics without reading the collection, within a second even if the primary does not answer.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Returns the replicas that are registered with the primary, and the reason for which decisions by time are held
    /// back, if they are. Returns within a second even if the primary does not answer.
    async fn registration(&self) -> (Vec<ReplicaStats>, Option<HeldBack>) {
        (Vec::new(), None)
    }

    /// Returns a receiver of the storage mode and of its changes.
    fn mode(&self) -> watch::Receiver<StorageMode>;

    /// Returns the id of the data set. When it changes, earlier positions and revisions lose their meaning.
    fn epoch(&self) -> u64;

    /// Returns the position of the last commit.
    fn position(&self) -> CommitPosition;

    /// Returns the newest version of each incarnation of a job that changed after the position `after`, tombstones
    /// included, in the order of commits: at most `limit` versions, and none after the one that brings their size to
    /// `max_bytes`. Their `previous` is the state at the position `since`, which is at most `after`; a job that was
    /// between two attempts at that position counts as RUNNING, because retries are not recorded. Returns `None` if the
    /// changes since `since` are not known, as in a store that keeps no commits.
    async fn changed_since(
        &self,
        _since: u64,
        _after: u64,
        _limit: usize,
        _max_bytes: usize,
    ) -> Result<Option<Vec<CommitEvent>>, StoreError> {
        Ok(None)
    }
}

/// Returns a random duration of at most `most`.
#[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
fn jitter(most: Duration) -> Duration {
    most.mul_f64(f64::from(Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX))
}
