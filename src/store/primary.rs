//! What a fallback needs of the store that is authoritative, besides what every store promises.

use std::sync::{
    Arc,
    atomic::{
        AtomicBool, AtomicI64,
        Ordering::{AcqRel, Acquire, Release},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;

use super::{JobStore, Record, Replaced, StoreError};
use crate::domain::{Job, JobId, Timestamp, Version};

/// How ids are spread over the partitions of a primary.
#[derive(Clone, Copy, Debug)]
pub struct Partitioning {
    /// How many partitions there are, at least 1.
    pub count: usize,
    /// The partition of an id, below `count`.
    pub of: fn(&JobId) -> usize,
}

impl Partitioning {
    /// One partition for all ids.
    pub const SINGLE: Self = Self { count: 1, of: |_| 0 };
}

/// One write: the arguments of [`JobStore::replace`].
#[derive(Clone, Debug)]
pub struct Replacement {
    /// What is to be stored.
    pub job: Arc<Job>,
    /// What must be there.
    pub previous: Option<Arc<Job>>,
}

/// How a partition of the primary is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// It serves.
    Serving,
    /// It can be read, and takes no writes.
    ReadOnly,
    /// It does not answer.
    Away,
}

/// The history of the data of a partition: while it stays the same, what was confirmed there is there, or was changed
/// since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// The data set.
    pub epoch: u64,
    /// Changes when any replica notices that something was lost.
    pub lineage: u64,
    /// The process of the server.
    pub run: u64,
    /// How often this replica noticed that something was lost.
    pub losses: u64,
}

impl History {
    /// Whether nothing was lost between the two, as far as anybody noticed.
    pub fn is_continued_by(&self, later: &Self) -> bool {
        (self.epoch, self.lineage, self.losses) == (later.epoch, later.lineage, later.losses)
    }
}

/// The store that is authoritative. It has one or more partitions, each with its own availability and history.
#[async_trait]
pub trait PrimaryStore: JobStore {
    /// Tries, with a write, whether a partition serves.
    async fn probe(&self, partition: usize) -> PartitionState;

    /// Has somebody look soon whether the partitions serve: a command failed.
    fn suspect(&self) {}

    /// How the partitions are, and each change of that.
    fn states(&self) -> watch::Receiver<Vec<PartitionState>>;

    /// The history of a partition's data.
    fn history(&self, partition: usize) -> History;

    /// From now on a primary may be used that was restarted, or took the place of another; or not any more. To be
    /// expected only while no partition is served from.
    fn expect_restart(&self, _expected: bool) {}

    /// Shows that this replica serves from `partition`, with what it has there.
    async fn beat(&self, _partition: usize) -> Result<(), StoreError> {
        Ok(())
    }

    /// Takes this replica out of those that serve from `partition`: everything that it acknowledged is there.
    async fn leave(&self, _partition: usize) -> Result<(), StoreError> {
        Ok(())
    }

    /// The records of `ids`, in their order.
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

    /// The versions of the records of `ids`, in their order; `None` for what is missing or can't be read.
    async fn versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, StoreError> {
        let records = self.get_many(ids).await?;
        Ok(records.into_iter().map(|record| record.found().map(|stored| stored.job.version)).collect())
    }

    /// [`JobStore::replace`] for many, in the order of `writes`; each for itself.
    async fn replace_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        for Replacement { job, previous } in writes {
            outcomes.push(self.replace(job, previous.as_deref()).await);
        }
        outcomes
    }

    /// Notes that the worker of `job` was heard, if this version is there.
    async fn renew(&self, _job: &Job) -> Result<(), StoreError> {
        Ok(())
    }
}

/// What this replica tells the primary of itself, by partition: whether it serves, and up to when all that it
/// acknowledged is there.
#[derive(Debug)]
pub struct Presence(Vec<PartitionPresence>);

#[derive(Debug)]
struct PartitionPresence {
    serving: AtomicBool,
    /// When the last beat was answered, on the primary's clock, in microseconds. 0: there was none since it serves.
    last_beat: AtomicI64,
    /// The last beat before the first report that the primary may not have.
    dirty_since: AtomicI64,
    /// From when on workers are heard, on the primary's clock.
    heard_since: AtomicI64,
}

impl Presence {
    /// Serves from none of so many partitions.
    pub fn new(partitions: usize) -> Self {
        let none = || PartitionPresence {
            serving: false.into(),
            last_beat: 0.into(),
            dirty_since: i64::MAX.into(),
            heard_since: 0.into(),
        };
        Self((0..partitions).map(|_| none()).collect())
    }

    /// This replica serves from a partition, or not any more. What it acknowledges then is known to nobody else.
    pub fn set_serving(&self, partition: usize, serving: bool) {
        let presence = &self.0[partition];
        presence.serving.store(serving, Release);
        if !serving {
            presence.last_beat.store(0, Release);
        }
    }

    /// Whether this replica serves from a partition.
    pub fn is_serving(&self, partition: usize) -> bool {
        self.0[partition].serving.load(Acquire)
    }

    /// A report was acknowledged that the primary may not have. To be called before it is.
    pub fn begin_dirty(&self, partition: usize) {
        let presence = &self.0[partition];
        presence.dirty_since.fetch_min(presence.last_beat.load(Acquire), AcqRel);
    }

    /// The primary has all that was acknowledged.
    pub fn end_dirty(&self, partition: usize) {
        self.0[partition].dirty_since.store(i64::MAX, Release);
    }

    /// The time up to which the primary has all that was acknowledged here; `None`: that can't be said. To be asked
    /// before the beat that says so.
    pub fn mark(&self, partition: usize) -> Option<Timestamp> {
        let presence = &self.0[partition];
        let mark = presence.last_beat.load(Acquire).min(presence.dirty_since.load(Acquire));
        (presence.serving.load(Acquire) && mark > 0).then(|| Timestamp::from_micros(mark))
    }

    /// A beat was answered at this time of the primary's clock, which has workers heard since `heard_since`.
    pub fn beat_answered(&self, partition: usize, time: Timestamp, heard_since: Timestamp) {
        let presence = &self.0[partition];
        presence.last_beat.store(time.as_micros(), Release);
        presence.heard_since.store(heard_since.as_micros(), Release);
    }

    /// From when on workers are heard.
    pub fn heard_since(&self, partition: usize) -> Timestamp {
        Timestamp::from_micros(self.0[partition].heard_since.load(Acquire))
    }
}
