//! The primary: jobs in Redis, shared by any number of replicas.
//!
//! Every change is one script on one slot, so it happens as a whole or not at all; what is answered as stored was in
//! Redis before. Reads go to the master. Commits of other replicas arrive as notifications over pub/sub, which only say
//! that it is worth reading a job again; a lost notification is noticed within seconds, and then all watched jobs are
//! read again. A command fails when Redis has sent nothing on its connection for the time limit; while other answers
//! arrive it waits on, up to four times the limit or 5 s (`connection/command_wait.rs`). After a command without an
//! answer it is unknown whether Redis executed it.

mod connection;
mod due;
mod list;
mod mistakes;
mod monitor;
mod outage;
mod preflight;
mod probe;
mod read;
mod replicas;
mod schema;
mod script;
mod subscriber;
mod write;

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Acquire},
    },
    time::Duration,
};

use async_trait::async_trait;
use redis::cmd;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};
use tracing::debug;
use uuid::Uuid;

pub use connection::{AddressError, Target};
pub use preflight::Unusable;

use self::{
    connection::{Command, ConnectionMetrics, Connector, Fault, Pool},
    monitor::Monitor,
    read::{PartSize, corrupt},
    schema::{
        codec::{READ_FULL, decode},
        keys::{Keys, PARTITIONS, Partition},
    },
    script::Write,
    subscriber::Feed,
};
use super::{
    CommitEvent, Decided, Decision, DueBatch, HeldBack, History, JobStore, Listener, Page, PartitionState,
    Partitioning, Presence, PrimaryStore, Record, RedisStats, Replaced, Replacement, ReplicaStats, StorageMode,
    StoreError, StoreStats, Stored,
};
use crate::{
    clock::SteeredClock,
    domain::{Job, JobId, ListQuery, State, Timestamp, Version, View},
    telemetry::metrics::{Measured, Metrics},
};

/// Number of connections that lists, sweeps, re-reads and reconciliations share, so that a large answer does not delay
/// other calls.
const BULK_CONNECTIONS: u32 = 2;

/// Maximum time for each of the two answers that statistics need: their callers expect them soon.
const STATS_TIMEOUT: Duration = Duration::from_millis(400);

/// The address of Redis, and settings of its use.
#[derive(Clone, Debug)]
pub struct Options {
    /// Address of Redis.
    pub target: Target,
    /// Maximum number of connections that carry calls.
    pub pool_size: u32,
    /// Maximum silence of Redis while an answer is due.
    pub timeout: Duration,
    /// Prefix of the keys of jobs.
    pub key_prefix: String,
    /// Time within which a replica that is cut off promises to come back: decisions by time wait for it that long.
    pub replica_grace: Duration,
}

/// A store of jobs in Redis.
pub struct RedisStore {
    target: Target,
    connector: Arc<Connector>,
    keys: Keys,
    pool: Pool,
    bulk: Pool,
    /// Connection for health checks and beats, unaffected by other traffic.
    pulse: Pool,
    feed: Feed,
    listener: Arc<dyn Listener>,
    clock: Arc<SteeredClock>,
    /// Id of this store among those that share the data.
    by: String,
    epoch: AtomicU64,
    /// Number of commits announced here.
    announced: Mutex<u64>,
    monitor: Monitor,
    /// The state that this replica reports to Redis.
    presence: Arc<Presence>,
    replica_grace: Duration,
    part_size: PartSize,
    /// A replica of version 0.1 uses this Redis.
    older_is_there: AtomicBool,
    /// Redis could not be checked at the start.
    is_unchecked: AtomicBool,
    metrics: Arc<ConnectionMetrics>,
}

impl RedisStore {
    /// The assignment of ids to its partitions.
    pub const PARTITIONING: Partitioning = Partitioning { count: PARTITIONS, of: |id| Partition::of(id).index() };

    /// Opens the store, which reports commits to `listener` and steers `clock` by that of Redis. If Redis can't be
    /// reached yet, the store keeps trying; an error is a problem that time alone does not solve.
    pub async fn open(
        options: Options,
        listener: Arc<dyn Listener>,
        clock: Arc<SteeredClock>,
        presence: Arc<Presence>,
    ) -> Result<Self, Unusable> {
        let Options { target, pool_size, timeout, key_prefix, replica_grace } = options;
        let process = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let connector = Arc::new(Connector::new(&target, timeout).map_err(|error| Unusable::new(&target, &error))?);
        let metrics = Arc::new(ConnectionMetrics::default());
        let pool = |size| Pool::new(connector.clone(), size, timeout, metrics.clone());
        let store = Self {
            pool: pool(pool_size),
            bulk: pool(BULK_CONNECTIONS),
            pulse: pool(1),
            connector: connector.clone(),
            keys: Keys::new(&key_prefix, target.database()),
            feed: Feed::default(),
            listener,
            clock,
            monitor: Monitor::new(process.clone()),
            by: process,
            presence,
            replica_grace,
            part_size: PartSize::default(),
            older_is_there: AtomicBool::new(false),
            is_unchecked: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            announced: Mutex::new(0),
            target,
            metrics,
        };
        Box::pin(store.check()).await?;
        Ok(store)
    }

    /// Fails before the clock and the data set of Redis are known.
    fn is_ready(&self) -> Result<(), StoreError> {
        if self.epoch() == 0 { Err(StoreError::Unavailable) } else { Ok(()) }
    }

    fn announced(&self) -> MutexGuard<'_, u64> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Announces a version that is in Redis. `previous` is the state before, if it is known.
    fn announce(&self, stored: Stored, previous: Option<State>) {
        let mut announced = self.announced();
        *announced += 1;
        self.listener.on_commit(CommitEvent { stored, position: *announced, previous });
    }

    /// Converts a fault with the record of `id` to the error that the caller receives.
    fn error(fault: Fault, id: &JobId) -> StoreError {
        match fault {
            Fault::Refused(error) if error.code() == Some("WRONGTYPE") => corrupt(id),
            fault => fault.into(),
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> Self {
        let Fault::Refused(error) = fault else { return Self::Unavailable };
        debug!(%error, "Redis refused a command");
        match error.code() {
            // Redis is full, can't save, or has lost its replicas.
            Some("OOM" | "MISCONF" | "NOREPLICAS") => Self::ReadOnly,
            _ => Self::Unavailable,
        }
    }
}

impl Measured for RedisStore {
    fn metrics(&self) -> Metrics {
        self.metrics.metrics()
    }
}

#[async_trait]
impl JobStore for RedisStore {
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        self.is_ready()?;
        let mut command = cmd("HMGET");
        command.arg(self.keys.job(id)).arg(&READ_FULL);
        let fields = self.metrics.time(Command::Get, self.pool.query(&command)).await;
        let fields = fields.map_err(|fault| Self::error(fault, id))?;
        match decode(id, fields).await {
            Record::Missing => Ok(None),
            Record::Found(stored) => Ok(Some(stored)),
            Record::Corrupt => Err(corrupt(id)),
        }
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.is_ready()?;
        self.metrics.time(Command::Write, self.write(job, previous)).await
    }

    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError> {
        self.is_ready()?;
        self.metrics.time(Command::Write, self.write_decision(job, previous, decision)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.is_ready()?;
        Ok(self.metrics.time(Command::List, self.page(query)).await?)
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        self.is_ready()?;
        Ok(self.metrics.time(Command::Count, self.count(owner)).await?)
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        let removal = Write::removal(&job.id, Some(job), &[]);
        let forgotten = self.metrics.time(Command::Delete, removal.run(None, &self.pool, &self.keys)).await;
        forgotten.map_err(|fault| Self::error(fault, &job.id))?;
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        self.is_ready()?;
        Ok(self.metrics.time(Command::Due, self.due_batch(now, limit)).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let states = self.metrics.time(Command::Ping, self.probe_now()).await;
        match states.into_iter().find(|state| *state != PartitionState::Serving) {
            None => Ok(()),
            Some(PartitionState::ReadOnly) => Err(StoreError::ReadOnly),
            Some(_) => Err(StoreError::Unavailable),
        }
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let started = Instant::now();
        let ping = timeout(STATS_TIMEOUT, self.set_clock()).await.is_ok_and(|asked| asked.is_ok());
        let ping = ping.then(|| started.elapsed());
        let pool = self.pool.stats();
        let counting = timeout(STATS_TIMEOUT, self.metrics.time(Command::Count, self.counts()));
        let counts = if ping.is_some() { counting.await.ok().and_then(Result::ok) } else { None };
        let redis = RedisStats { ping, in_use: pool.in_use, idle: pool.idle, waiting: pool.waiting };
        Ok(StoreStats { counts, redis: Some(redis), ..StoreStats::default() })
    }

    async fn registration(&self) -> (Vec<ReplicaStats>, Option<HeldBack>) {
        let registered = timeout(STATS_TIMEOUT, self.registered()).await.ok().and_then(Result::ok);
        registered.unwrap_or((Vec::new(), Some(HeldBack::Unavailable)))
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.monitor.mode()
    }

    fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    fn position(&self) -> u64 {
        *self.announced()
    }

    async fn changed_since(&self, _: u64, _: u64, _: usize, _: usize) -> Result<Option<Vec<CommitEvent>>, StoreError> {
        // Positions count the commits that this process has announced, and it keeps none of them.
        Ok(None)
    }
}

#[async_trait]
impl PrimaryStore for RedisStore {
    async fn probe(&self, partition: usize) -> PartitionState {
        self.metrics.time(Command::Ping, Box::pin(self.probe_partition(Partition::at(partition)))).await
    }

    fn suspect(&self) {
        self.feed.probe_requested.notify_one();
    }

    fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.monitor.states()
    }

    fn history(&self, partition: usize) -> History {
        self.monitor.history(partition, self.epoch())
    }

    fn expect_restart(&self, expected: bool) {
        self.connector.accept_any(expected);
    }

    async fn beat(&self, partition: usize) -> Result<(), StoreError> {
        self.beat_in(Partition::at(partition)).await?;
        Ok(())
    }

    async fn leave(&self, partition: usize) -> Result<(), StoreError> {
        Ok(self.leave_partition(Partition::at(partition)).await?)
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Record>, StoreError> {
        self.is_ready()?;
        Ok(self.metrics.time(Command::GetMany, self.read_many(ids, View::Full)).await?)
    }

    async fn versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, StoreError> {
        self.is_ready()?;
        Ok(self.metrics.time(Command::GetMany, self.read_versions(ids)).await?)
    }

    async fn replace_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        match self.is_ready() {
            Ok(()) => self.metrics.time(Command::WriteMany, self.write_many(writes)).await,
            Err(error) => vec![Err(error); writes.len()],
        }
    }

    async fn renew(&self, job: &Job) -> Result<(), StoreError> {
        Ok(self.write_heard(job).await?)
    }
}
