//! Every key, and what is in it. docs/redis.md has the same table for operators.
//!
//! Ids are spread over a fixed number of partitions. A partition's keys share a hash tag, so that one script touches
//! one slot of a cluster; a single server keeps the same keys.

use std::time::Duration;

use crate::domain::{Job, JobId, State, Timestamp};

/// How many partitions there are: part of the format of the data, and the most masters that a cluster can use.
pub const PARTITIONS: usize = 16;

/// Names the data set; shared by all prefixes of a database.
pub const EPOCH: &str = "jobtrack:epoch";

/// The names of keys under a prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    /// By partition, up to the id: `job:{3}:`.
    jobs: [String; PARTITIONS],
    /// By partition, up to the name of an index: `jobs:{3}:`.
    indexes: [String; PARTITIONS],
    commits: [String; PARTITIONS],
    changes: [String; PARTITIONS],
    beats: [String; PARTITIONS],
    /// The channels of version 0.1.
    legacy_changes: [String; PARTITIONS],
}

/// A sorted set in which a job has a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKey<'a> {
    /// All jobs by time of creation.
    Created,
    /// The jobs in a state by time of creation.
    State(State),
    /// The jobs of an owner by time of creation; those without one are of an empty one.
    Owner(&'a str),
    /// The jobs of a kind by time of creation.
    Kind(&'a str),
    /// Ended jobs by the time at which they expire, tombstones by that at which they are forgotten.
    Expire,
    /// Active jobs by the time, on the clock of Redis, from which on the passing of time may decide about them.
    Lease,
}

/// The place of an id in a sorted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// A point in time.
    At(Timestamp),
    /// So long after the worker was last heard: where the version has a new report, that is now.
    AfterHeard(Duration),
}

impl<'a> IndexKey<'a> {
    /// The places of a version of a job.
    pub fn of(job: &'a Job) -> impl Iterator<Item = (Self, Score)> {
        let live = job.removal.is_none();
        let listed = [Self::Created, Self::State(job.state), Self::Owner(&job.owner), Self::Kind(&job.kind)];
        let listed = listed.into_iter().filter(move |_| live).map(|key| (key, Score::At(job.create_time)));
        let expire = if live { job.expire_time.filter(|_| job.state.is_terminal()) } else { job.forget_time };
        let deadline = job.deadline().map(|(after, _)| (Self::Lease, Score::AfterHeard(after)));
        listed.chain(expire.map(|time| (Self::Expire, Score::At(time)))).chain(deadline)
    }
}

/// A partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(usize);

impl Partition {
    /// All of them.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// The one that `id` belongs to, by FNV-1a: the same in every release.
    pub fn of(id: &JobId) -> Self {
        let hash =
            id.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self((hash >> 16 ^ hash) as usize % PARTITIONS)
    }

    /// The one of this number, which must be below [`PARTITIONS`].
    pub const fn at(index: usize) -> Self {
        debug_assert!(index < PARTITIONS);
        Self(index)
    }

    /// Its number.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Keys {
    /// The keys under `prefix`, such as `job:`, in `database`; indexes are then under `jobs:`. Channels name the database:
    /// a server has one set of them for all its databases.
    pub fn new(prefix: &str, database: i64) -> Self {
        let plural = format!("{}s:", prefix.trim_end_matches(':'));
        let under = |prefix: &str| std::array::from_fn(|partition| format!("{prefix}{{{partition}}}:"));
        let indexes = under(&plural);
        let each = |name: &str| std::array::from_fn(|partition: usize| format!("{}{name}", indexes[partition]));
        Self {
            jobs: under(prefix),
            commits: each("commits"),
            changes: each(&format!("changes:{database}")),
            beats: each("beat"),
            legacy_changes: each("changes"),
            indexes,
        }
    }

    /// A hash: the job.
    pub fn job(&self, id: &JobId) -> String {
        format!("{}{id}", self.jobs[Partition::of(id).0])
    }

    /// A sorted set of ids.
    pub fn index(&self, partition: Partition, key: IndexKey<'_>) -> String {
        let under = &self.indexes[partition.0];
        match key {
            IndexKey::Created => format!("{under}created"),
            IndexKey::State(state) => format!("{under}state:{}", state.name()),
            IndexKey::Owner(owner) => format!("{under}owner:{owner}"),
            IndexKey::Kind(kind) => format!("{under}kind:{kind}"),
            IndexKey::Expire => format!("{under}expire"),
            IndexKey::Lease => format!("{under}lease"),
        }
    }

    /// A counter: the commits that were announced.
    pub fn commits(&self, partition: Partition) -> &str {
        &self.commits[partition.0]
    }

    /// A pub/sub channel: a hint of each commit.
    pub fn changes(&self, partition: Partition) -> &str {
        &self.changes[partition.0]
    }

    /// A hash: when replicas last showed that they serve, with their marks, and the history of the data.
    pub fn beat(&self, partition: Partition) -> &str {
        &self.beats[partition.0]
    }

    /// The pub/sub channel of version 0.1.
    pub fn legacy_changes(&self, partition: Partition) -> &str {
        &self.legacy_changes[partition.0]
    }

    /// The partition that a channel belongs to.
    pub fn partition_of_channel(&self, channel: &str) -> Option<Partition> {
        let (_, named) = channel.rsplit_once('{')?;
        let index: usize = named.split_once('}')?.0.parse().ok()?;
        (self.changes.get(index)? == channel).then_some(Partition(index))
    }
}
