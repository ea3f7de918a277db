//! Where jobs are kept: what every store promises, whatever it keeps them in.
//!
//! The only write is *compare and set*: [`JobStore::replace`] stores a version if what is there is still the version
//! that it was made from, and otherwise gives back what is there, so that the caller applies its change again. A store
//! knows no rule of a job's life. Whoever commits announces: a store tells its [`Listener`] of each version, in the
//! order in which it stored them.

mod fallback;
mod memory;
pub mod redis;
mod table;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use thiserror::Error;

use tokio::sync::watch;
use uuid::Uuid;

pub use self::{
    fallback::{FallbackPolicy, FallbackStore, LocalCache},
    memory::MemoryStore,
    redis::RedisStore,
};

use crate::domain::{Cursor, Due, Job, JobId, ListQuery, State, Timestamp};

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

/// One write: the arguments of [`JobStore::replace`].
#[derive(Clone, Debug)]
pub struct Replacement {
    /// What is to be stored.
    pub job: Arc<Job>,
    /// What must be there.
    pub previous: Option<Arc<Job>>,
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

/// A version that was stored, and its place in the order of commits.
#[derive(Clone, Debug)]
pub struct CommitEvent {
    /// The version.
    pub stored: Stored,
    /// Its place: rises with each commit of the store, and is at most [`JobStore::position`] from then on.
    pub position: u64,
    /// The state that this life of the job was in before; `None`: it was created since, or what it was is not known.
    pub previous: Option<State>,
}

/// What is known of a version that somebody else stored, before it is read.
#[derive(Clone, Copy, Debug)]
pub struct ChangeNotification<'a> {
    /// Which job.
    pub id: &'a JobId,
    /// Its revision.
    pub revision: i64,
    /// What sort of work it is.
    pub kind: &'a str,
    /// Whom it belongs to; may be empty.
    pub owner: &'a str,
    /// This store stored it, and may not have heard that it did.
    pub own: bool,
}

/// Is told of each version that a store has stored. Of one job it may be told out of order, and more than once, where
/// others write to the same data.
pub trait Listener: Send + Sync + 'static {
    /// A version was stored. Called in the order of commits and under the store's lock: it must be quick, and must not
    /// call the store.
    fn changed(&self, announcement: CommitEvent);

    /// Somebody else stored a version. Says whether to read and to announce it.
    fn hinted(&self, _: &ChangeNotification<'_>) -> bool {
        true
    }

    /// Every commit before `time` has been announced, or hinted at.
    fn heard_until(&self, _: Instant) {}

    /// The jobs to be read again when hints were lost.
    fn watched(&self) -> Vec<JobId> {
        Vec::new()
    }

    /// Hints may have been lost. Those [`watched`](Self::watched) are read again, of other jobs nothing more is heard.
    fn missed(&self) {}
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
    fn recent(&self, _: &JobId) -> Option<Stored> {
        None
    }

    /// The version that is there for `id`, a tombstone too.
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError>;

    /// Whether [`get`](Self::get), which found `instead`, could have told now that nothing is there.
    async fn absence(&self, _instead: &Stored) -> Result<(), StoreError> {
        Ok(())
    }

    /// The same for many, in the order of `ids`.
    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Record>, StoreError> {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            records.push(match self.get(id).await {
                Err(StoreError::Corrupt(_)) => Record::Corrupt,
                found => found?.map_or(Record::Missing, Record::Found),
            });
        }
        Ok(records)
    }

    /// Stores `job`, if what is there is exactly the version `previous`, or nothing for `None`. Where `job` itself is
    /// there already it counts as stored: a write whose answer was lost may be repeated.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError>;

    /// The same for many, in the order of `writes`; each for itself.
    async fn replace_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        for Replacement { job, previous } in writes {
            outcomes.push(self.replace(job, previous.as_deref()).await);
        }
        outcomes
    }

    /// The jobs that a query selects, newest first, without tombstones. Costs the page, not the collection.
    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError>;

    /// How many jobs an owner has, those among them whose time is just over; an empty one: how many have none.
    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError>;

    /// Forgets a record for good, without a tombstone, if it is still this version.
    async fn delete(&self, job: &Job) -> Result<(), StoreError>;

    /// Up to `limit` records for which something is due at `now`.
    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError>;

    /// From now on a store of record may be used that was restarted, or took the place of another: what it has is about
    /// to be reconciled.
    fn accept_any(&self) {}

    /// Whether the store takes writes.
    async fn ping(&self) -> Result<(), StoreError>;

    /// Counts, without reading the collection, and within a second whether or not the store of record answers.
    async fn stats(&self) -> Result<StoreStats, StoreError>;

    /// Where jobs are kept at the moment, and each change of that.
    fn mode(&self) -> watch::Receiver<StorageMode>;

    /// Names this data set: a changed one means that positions and revisions from before say nothing.
    fn epoch(&self) -> u64;

    /// How often something that was stored in this data set is known to have been lost.
    fn losses(&self) -> u64 {
        0
    }

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
