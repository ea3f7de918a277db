//! The authoritative store: the contract that a fallback needs in addition to [`JobStore`].

use std::sync::{
    Arc, LazyLock,
    atomic::{
        AtomicBool, AtomicI64, AtomicU64, AtomicUsize,
        Ordering::{AcqRel, Acquire, Relaxed, Release},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;
use uuid::Uuid;

use super::{JobStore, Record, Replaced, StoreError};
use crate::domain::{Job, JobId, Timestamp, Version};

/// The assignment of ids to the partitions of a primary.
#[derive(Clone, Copy, Debug)]
pub struct Partitioning {
    /// Number of partitions, at least 1.
    pub count: usize,
    /// Function that returns the partition of an id, below `count`.
    pub of: fn(&JobId) -> usize,
}

impl Partitioning {
    /// One partition for all ids.
    pub const SINGLE: Self = Self { count: 1, of: |_| 0 };
}

/// One write: the arguments of [`JobStore::replace`].
#[derive(Clone, Debug)]
pub struct Replacement {
    /// The version to store.
    pub job: Arc<Job>,
    /// The version that must be stored at present; `None`: there must be none.
    pub previous: Option<Arc<Job>>,
}

/// Returns an id for a branch of a job's history, which no other branch of any replica has.
pub fn new_branch_id() -> u64 {
    static NEXT: LazyLock<AtomicU64> = LazyLock::new(|| AtomicU64::new(Uuid::new_v4().as_u64_pair().0));
    NEXT.fetch_add(1, Relaxed)
}

/// The availability of a partition of the primary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartitionState {
    /// Serves reads and writes.
    Serving,
    /// Serves reads, and rejects writes.
    ReadOnly,
    /// Does not answer.
    Unavailable,
}

/// The identity of the data in a partition. As long as it is unchanged, every version that was confirmed there is still
/// there, or was changed since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Id of the data set.
    pub epoch: u64,
    /// Id of the lineage, which changes when any replica notices a loss of data.
    pub lineage: u64,
    /// Id of the server's process.
    pub run: u64,
    /// Number of losses of data that this replica noticed.
    pub losses: u64,
}

impl History {
    /// Returns whether no loss of data was noticed between the two.
    pub fn is_continued_by(&self, later: &Self) -> bool {
        (self.epoch, self.lineage, self.losses) == (later.epoch, later.lineage, later.losses)
    }
}

/// The authoritative store. It has one or more partitions, each with its own availability and history.
#[async_trait]
pub trait PrimaryStore: JobStore {
    /// Probes a partition with a write.
    async fn probe(&self, partition: usize) -> PartitionState;

    /// Requests a health check of the partitions after a failed command, without waiting for it.
    fn suspect(&self) {}

    /// Returns a receiver of the states of the partitions and of their changes.
    fn states(&self) -> watch::Receiver<Vec<PartitionState>>;

    /// Returns the history of a partition's data.
    fn history(&self, partition: usize) -> History;

    /// Sets whether a restarted or replaced primary may be used. Set to `true` only while no partition serves.
    fn expect_restart(&self, _expected: bool) {}

    /// Sends a heartbeat: this replica serves from `partition`, and the primary has everything that the replica
    /// acknowledged up to its mark (a time; see [`Presence::mark`]).
    async fn beat(&self, _partition: usize) -> Result<(), StoreError> {
        Ok(())
    }

    /// Removes this replica from those that serve from `partition`. Called once the primary has everything that the
    /// replica acknowledged.
    async fn leave(&self, _partition: usize) -> Result<(), StoreError> {
        Ok(())
    }

    /// Returns the records of `ids`, in their order.
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

    /// Returns the versions of the records of `ids`, in their order; `None` for records that are missing or unreadable.
    async fn versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, StoreError> {
        let records = self.get_many(ids).await?;
        Ok(records.into_iter().map(|record| record.found().map(|stored| stored.job.version)).collect())
    }

    /// Performs several [`JobStore::replace`] writes, in the order of `writes` and independently of each other.
    async fn replace_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        let mut outcomes = Vec::with_capacity(writes.len());
        for Replacement { job, previous } in writes {
            outcomes.push(self.replace(job, previous.as_deref()).await);
        }
        outcomes
    }

    /// Records a report of the worker of `job`, if this version is stored.
    async fn renew(&self, _job: &Job) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The data that this replica reports about itself to the primary, by partition: whether it serves, and the time up to
/// which the primary has everything that it acknowledged.
#[derive(Debug)]
pub struct Presence(Vec<PartitionPresence>);

#[derive(Debug)]
struct PartitionPresence {
    serving: AtomicBool,
    /// Time of the last answered beat, on the primary's clock, in microseconds; 0 if there was none since the replica
    /// began to serve.
    last_beat: AtomicI64,
    /// Time of the last beat before the first acknowledged report that the primary may lack; `i64::MAX` if the primary
    /// lacks none.
    dirty_since: AtomicI64,
    /// Time since which workers have been able to report, on the primary's clock, in microseconds.
    heard_since: AtomicI64,
    /// Number of jobs that the primary lacks, or has in an earlier version.
    dirty_jobs: AtomicUsize,
}

impl Presence {
    /// Creates the presence of a replica that serves from none of its partitions.
    pub fn new(partitions: usize) -> Self {
        let none = || PartitionPresence {
            serving: false.into(),
            last_beat: 0.into(),
            dirty_since: i64::MAX.into(),
            heard_since: 0.into(),
            dirty_jobs: 0.into(),
        };
        Self((0..partitions).map(|_| none()).collect())
    }

    /// Sets whether this replica serves from a partition. While it does not serve, it sends no mark, and no other
    /// replica knows what it acknowledges.
    pub fn set_serving(&self, partition: usize, serving: bool) {
        let presence = &self.0[partition];
        presence.serving.store(serving, Release);
        if !serving {
            presence.last_beat.store(0, Release);
        }
    }

    /// Returns whether this replica serves from a partition.
    pub fn is_serving(&self, partition: usize) -> bool {
        self.0[partition].serving.load(Acquire)
    }

    /// Records that this replica is about to acknowledge a report that the primary may lack. Must be called before the
    /// acknowledgement.
    pub fn begin_dirty(&self, partition: usize) {
        let presence = &self.0[partition];
        presence.dirty_since.fetch_min(presence.last_beat.load(Acquire), AcqRel);
    }

    /// Records the number of jobs that the primary lacks. At zero, the primary has everything that was acknowledged.
    pub fn set_dirty_jobs(&self, partition: usize, count: usize) {
        let presence = &self.0[partition];
        presence.dirty_jobs.store(count, Release);
        if count == 0 {
            presence.dirty_since.store(i64::MAX, Release);
        }
    }

    /// Returns the number of jobs that the primary lacks.
    pub fn dirty_jobs(&self, partition: usize) -> usize {
        self.0[partition].dirty_jobs.load(Acquire)
    }

    /// Returns the mark: the time up to which the primary has everything that was acknowledged here; `None` if it is
    /// unknown. Must be called before the beat that carries it.
    pub fn mark(&self, partition: usize) -> Option<Timestamp> {
        let presence = &self.0[partition];
        let mark = presence.last_beat.load(Acquire).min(presence.dirty_since.load(Acquire));
        (presence.serving.load(Acquire) && mark > 0).then(|| Timestamp::from_micros(mark))
    }

    /// Records that a beat was answered at `time`, and that workers have been able to report since `heard_since`, both
    /// on the primary's clock.
    pub fn beat_answered(&self, partition: usize, time: Timestamp, heard_since: Timestamp) {
        let presence = &self.0[partition];
        presence.last_beat.store(time.as_micros(), Release);
        presence.heard_since.store(heard_since.as_micros(), Release);
    }

    /// Returns the time since which workers have been able to report, on the primary's clock.
    pub fn heard_since(&self, partition: usize) -> Timestamp {
        Timestamp::from_micros(self.0[partition].heard_since.load(Acquire))
    }

    /// Returns `job`, a version that the primary has, with the expiry of its lease as of `now`: counted from the last
    /// report, or from the time since which workers have been able to report, whichever is later. Time in which no
    /// worker could report does not count.
    pub fn with_running_lease(&self, partition: usize, job: &Arc<Job>, now: Timestamp) -> Arc<Job> {
        match job.lease.expire_time {
            Some(expires) if expires <= now && !job.lease.lost => {
                let from = job.heard.max(Some(self.heard_since(partition))).unwrap_or(now);
                let mut seen = Job::clone(job);
                seen.lease.expire_time = Some(expires.max(from + job.silence_allowed()));
                Arc::new(seen)
            }
            _ => job.clone(),
        }
    }
}
