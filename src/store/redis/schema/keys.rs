//! The names of the keys in Redis. A table in docs/redis.md says what each key contains.
//!
//! Ids are spread over a fixed number of partitions. The keys of a partition share a hash tag, so that one script
//! touches one slot of a cluster; a single server has the same keys.

use std::time::Duration;

use crate::domain::{Deadline, Job, JobId, State, Timestamp};

/// Number of partitions: part of the data format, and the maximum number of masters that a cluster can use.
pub const PARTITIONS: usize = 16;

/// Key of the id of the data set; shared by all prefixes of a database.
pub const EPOCH: &str = "jobtrack:epoch";

/// The names of keys under a prefix.
#[derive(Clone, Debug)]
pub struct Keys {
    /// Prefixes of job keys by partition, up to the id: `job:{3}:`.
    jobs: [String; PARTITIONS],
    /// Prefixes of index keys by partition, up to the name of the index: `jobs:{3}:`.
    indexes: [String; PARTITIONS],
    commits: [String; PARTITIONS],
    changes: [String; PARTITIONS],
    beats: [String; PARTITIONS],
    secret: String,
    /// The channels of version 0.1.
    legacy_changes: [String; PARTITIONS],
}

/// A sorted set that contains a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IndexKey<'a> {
    /// All jobs by time of creation.
    Created,
    /// The jobs in a state by time of creation.
    State(State),
    /// The jobs of an owner by time of creation; jobs without an owner are under the empty one.
    Owner(&'a str),
    /// The jobs of a kind by time of creation.
    Kind(&'a str),
    /// Finished jobs by the time at which they expire, and tombstones by the time at which they are forgotten.
    Expire,
    /// Active jobs by the earliest time, on the clock of Redis, at which a decision by time may be due for them.
    Lease,
}

/// The score of an id in a sorted set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Score {
    /// A point in time.
    At(Timestamp),
    /// Delay after the last report of the worker; for a version with a new report, after the write.
    AfterHeard(Duration),
}

impl<'a> IndexKey<'a> {
    /// Returns the index entries of a version of a job.
    pub fn of(job: &'a Job) -> impl Iterator<Item = (Self, Score)> {
        let live = job.removal.is_none();
        let listed = [Self::Created, Self::State(job.state), Self::Owner(&job.owner), Self::Kind(&job.kind)];
        let listed = listed.into_iter().filter(move |_| live).map(|key| (key, Score::At(job.create_time)));
        let expire = if live { job.expire_time.filter(|_| job.state.is_terminal()) } else { job.forget_time };
        let deadline = job.deadline().map(|Deadline { since, wait, .. }| {
            (Self::Lease, since.map_or(Score::AfterHeard(wait), |since| Score::At(since + wait)))
        });
        listed.chain(expire.map(|time| (Self::Expire, Score::At(time)))).chain(deadline)
    }
}

/// Converts a score to a time: a double holds microseconds exactly.
#[expect(clippy::cast_possible_truncation, reason = "scores out of range saturate")]
pub fn time_of(score: f64) -> Timestamp {
    Timestamp::from_micros(score as i64)
}

/// The number of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(usize);

impl Partition {
    /// Returns all partitions.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..PARTITIONS).map(Self)
    }

    /// Returns the partition of `id`, by FNV-1a: the same in every release.
    pub fn of(id: &JobId) -> Self {
        let hash =
            id.as_str().bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
        Self((hash >> 16 ^ hash) as usize % PARTITIONS)
    }

    /// Returns the partition with this number, which must be below [`PARTITIONS`].
    pub const fn at(index: usize) -> Self {
        debug_assert!(index < PARTITIONS);
        Self(index)
    }

    /// Returns the number of the partition.
    pub const fn index(self) -> usize {
        self.0
    }
}

impl Keys {
    /// Creates the keys under `prefix`, such as `job:`, in `database`; indexes are then under `jobs:`. The names of
    /// channels contain the database, because all databases of a server share them. A prefix ends with exactly one
    /// colon, and never with `s:`, the end of the prefixes of indexes, so no two prefixes have a key in common.
    pub fn new(prefix: &str, database: i64) -> Self {
        debug_assert!(prefix.ends_with(':') && !prefix.ends_with("::") && !prefix.ends_with("s:"), "{prefix}");
        let plural = format!("{}s:", prefix.strip_suffix(':').unwrap_or(prefix));
        let under = |prefix: &str| std::array::from_fn(|partition| format!("{prefix}{{{partition}}}:"));
        let indexes = under(&plural);
        let each = |name: &str| std::array::from_fn(|partition: usize| format!("{}{name}", indexes[partition]));
        Self {
            jobs: under(prefix),
            commits: each("commits"),
            changes: each(&format!("changes:{database}")),
            beats: each("beat"),
            // Named like an index, so that a user with rights to the keys of jobs needs no other right.
            secret: format!("{}token-key", indexes[0]),
            legacy_changes: each("changes"),
            indexes,
        }
    }

    /// Returns the key of a job, a hash.
    pub fn job(&self, id: &JobId) -> String {
        self.parts_of_job(id).concat()
    }

    /// Returns the parts of the key of a job.
    pub fn parts_of_job<'a>(&'a self, id: &'a JobId) -> [&'a str; 2] {
        [&self.jobs[Partition::of(id).0], id.as_str()]
    }

    /// Returns the key of an index, a sorted set of ids.
    pub fn index(&self, partition: Partition, key: IndexKey<'_>) -> String {
        self.parts_of_index(partition, key).concat()
    }

    /// Returns the parts of the key of an index.
    pub fn parts_of_index<'a>(&'a self, partition: Partition, key: IndexKey<'a>) -> [&'a str; 3] {
        let (set, member) = match key {
            IndexKey::Created => ("created", ""),
            IndexKey::State(state) => ("state:", state.name()),
            IndexKey::Owner(owner) => ("owner:", owner),
            IndexKey::Kind(kind) => ("kind:", kind),
            IndexKey::Expire => ("expire", ""),
            IndexKey::Lease => ("lease", ""),
        };
        [&self.indexes[partition.0], set, member]
    }

    /// Returns the key of the counter of announced commits.
    pub fn commits(&self, partition: Partition) -> &str {
        &self.commits[partition.0]
    }

    /// Returns the pub/sub channel of the notifications of commits.
    pub fn changes(&self, partition: Partition) -> &str {
        &self.changes[partition.0]
    }

    /// Returns the key of the beats, a hash: the last beat and the marks of the replicas that serve, and the history of
    /// the data.
    pub fn beat(&self, partition: Partition) -> &str {
        &self.beats[partition.0]
    }

    /// Returns the key of the secret that the replicas share.
    pub fn secret(&self) -> &str {
        &self.secret
    }

    /// Returns the pub/sub channel of version 0.1.
    pub fn legacy_changes(&self, partition: Partition) -> &str {
        &self.legacy_changes[partition.0]
    }
}
