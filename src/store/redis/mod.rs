//! The primary: jobs in Redis, shared by any number of replicas.
//!
//! Every change is one script on one slot, so it is executed completely or not at all. A change is answered as stored
//! only after it is in Redis. Reads are sent to the master. Commits of other replicas arrive as notifications over
//! pub/sub, which tell only that a job should be read again. A lost notification is noticed within seconds, and then
//! all watched jobs are read again. A command fails when Redis has sent nothing on its connection for the time limit;
//! as long as other answers arrive, the command waits longer: up to four times the limit, or 5 s if that is more
//! (`connection/command_wait.rs`). If a command has no answer, it is unknown whether Redis executed it.
//!
//! The store is composed of parts, each of which has its own state: `Client` the connections, `Feed` the commits that
//! are known and announced, `Monitor` the known state of Redis. `Reader`, `Lists`, `DueSets` and `Writer` carry out
//! calls, `Prober` and `Subscriber` run in the background.

mod arguments;
mod client;
mod connection;
mod due;
mod errors;
mod feed;
mod groups;
mod list;
mod mistakes;
mod monitor;
mod outage;
mod preflight;
mod probe;
mod read;
mod recent_counts;
mod replicas;
mod schema;
mod script;
mod secret;
mod subscriber;
mod write;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

pub use connection::{AddressError, Target};
pub use preflight::Unusable;

use self::{
    client::Client,
    connection::Command,
    due::DueSets,
    feed::Feed,
    list::Lists,
    monitor::Monitor,
    preflight::{Checked, Preflight},
    probe::{BEAT_INTERVAL, Prober},
    read::Reader,
    replicas::Replicas,
    schema::keys::{PARTITIONS, Partition},
    secret::SecretState,
    subscriber::Subscriber,
    write::Writer,
};
use super::{
    Decided, Decision, DueBatch, HeldBack, History, JobStore, Listener, Page, PartitionState, Partitioning, Presence,
    PrimaryStore, Record, RedisStats, Replaced, Replacement, ReplicaStats, StorageMode, StoreError, StoreStats, Stored,
};
use crate::{
    clock::SteeredClock,
    domain::{Job, JobId, ListQuery, Timestamp, Version, View},
    telemetry::metrics::{Measured, Metrics},
};

/// Maximum time for each of the two commands that statistics need: together they must end within a second.
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
    /// Maximum time for which a replica may be cut off: decisions by time wait that long for its reports.
    pub replica_grace: Duration,
}

/// A store of jobs in Redis.
pub struct RedisStore {
    client: Arc<Client>,
    feed: Arc<Feed>,
    monitor: Arc<Monitor>,
    reader: Arc<Reader>,
    lists: Lists,
    due: DueSets,
    writer: Writer,
    prober: Arc<Prober>,
    subscriber: Subscriber,
    replicas: Replicas,
    clock: Arc<SteeredClock>,
    /// The checks at the start.
    checked: Checked,
}

impl RedisStore {
    /// The assignment of ids to the partitions of the store.
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
        let client = Client::new(target.clone(), pool_size, timeout, &key_prefix);
        let client = Arc::new(client.map_err(|error| Unusable::new(&target, &error))?);
        let feed = Arc::new(Feed::new(listener.clone(), clock.clone()));
        let monitor = Arc::new(Monitor::new(client.clone()));
        let reader = Arc::new(Reader::new(client.clone()));
        let bound = replica_grace + BEAT_INTERVAL * 2;
        let prober = Arc::new(Prober::new(
            client.clone(),
            feed.clone(),
            monitor.clone(),
            listener.clone(),
            clock.clone(),
            presence.clone(),
            bound,
        ));
        let mut store = Self {
            lists: Lists::new(client.clone(), reader.clone(), listener, presence.clone()),
            due: DueSets::new(client.clone(), reader.clone(), monitor.clone()),
            writer: Writer::new(client.clone(), feed.clone(), monitor.clone(), bound),
            replicas: Replicas::new(client.clone(), presence, bound),
            subscriber: Subscriber::new(client.clone(), feed.clone(), prober.clone(), reader.clone()),
            client,
            feed,
            monitor,
            reader,
            prober,
            clock,
            checked: Checked::Later,
        };
        store.checked = Box::pin(store.preflight().check()).await?;
        Ok(store)
    }

    /// Returns a receiver of a random secret that all replicas share, and of its changes. The first replica that calls
    /// this stores the secret in Redis.
    pub async fn shared_secret(&self) -> watch::Receiver<SecretState> {
        let secret = self.prober.secret().subscribe();
        // If Redis can't be used yet, the prober reads the secret later.
        if self.epoch() != 0 {
            _ = self.prober.secret().learn().await;
        }
        secret
    }

    fn preflight(&self) -> Preflight<'_> {
        let Self { client, monitor, prober, lists, due, clock, .. } = self;
        Preflight { client, monitor, prober, lists, due, clock }
    }

    /// Runs the subscription to the commits of other replicas, the probes, and the maintenance of connections. Never
    /// returns.
    pub async fn run(&self) {
        tokio::join!(
            self.subscriber.run(),
            self.prober.run(),
            async {
                if self.checked == Checked::Later {
                    self.preflight().check_later().await;
                }
            },
            self.client.maintain()
        );
    }

    /// Waits until the first attempt to subscribe has ended, but not long: a stream that begins before the subscription
    /// would soon have to start over.
    pub async fn wait_until_subscribed(&self) {
        self.subscriber.wait_until_subscribed().await;
    }

    /// Measures the duration of an operation. Not itself `async`, because its future would reserve room for `work`
    /// twice.
    fn time<T>(&self, command: Command, work: impl Future<Output = T>) -> impl Future<Output = T> {
        self.client.metrics().time(command, work)
    }
}

impl Measured for RedisStore {
    fn metrics(&self) -> Metrics {
        self.client.metrics().metrics()
    }
}

#[async_trait]
impl JobStore for RedisStore {
    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        self.monitor.check_ready()?;
        self.reader.get(id).await
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.monitor.check_ready()?;
        self.time(Command::Write, self.writer.write(job, previous)).await
    }

    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError> {
        self.monitor.check_ready()?;
        self.time(Command::Write, self.writer.write_decision(job, previous, decision)).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        self.monitor.check_ready()?;
        Ok(self.time(Command::List, self.lists.page(query)).await?)
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        self.monitor.check_ready()?;
        Ok(self.time(Command::Count, self.lists.count(owner)).await?)
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        self.time(Command::Delete, self.writer.remove(job)).await
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        self.monitor.check_ready()?;
        Ok(self.time(Command::Due, self.due.due_batch(now, limit)).await?)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        let states = self.time(Command::Ping, self.prober.probe_now()).await;
        match states.into_iter().find(|state| *state != PartitionState::Serving) {
            None => Ok(()),
            Some(PartitionState::ReadOnly) => Err(StoreError::ReadOnly),
            Some(_) => Err(StoreError::Unavailable),
        }
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let started = Instant::now();
        let ping = timeout(STATS_TIMEOUT, self.prober.steer_clock()).await.is_ok_and(|asked| asked.is_ok());
        let ping = ping.then(|| started.elapsed());
        let pool = self.client.calls().stats();
        let counting = timeout(STATS_TIMEOUT, self.time(Command::Count, self.lists.counts()));
        let counts = if ping.is_some() { counting.await.ok().and_then(Result::ok) } else { None };
        let redis = RedisStats { ping, in_use: pool.in_use, idle: pool.idle, waiting: pool.waiting };
        Ok(StoreStats { counts, redis: Some(redis), ..StoreStats::default() })
    }

    async fn registration(&self) -> (Vec<ReplicaStats>, Option<HeldBack>) {
        let registered = timeout(STATS_TIMEOUT, self.replicas.registered()).await.ok().and_then(Result::ok);
        registered.unwrap_or((Vec::new(), Some(HeldBack::Unavailable)))
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.monitor.mode()
    }

    fn epoch(&self) -> u64 {
        self.monitor.epoch()
    }

    fn position(&self) -> u64 {
        self.feed.position()
    }
}

#[async_trait]
impl PrimaryStore for RedisStore {
    async fn probe(&self, partition: usize) -> PartitionState {
        self.time(Command::Ping, Box::pin(self.prober.probe_partition(Partition::at(partition)))).await
    }

    fn suspect(&self) {
        self.prober.request();
    }

    fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.monitor.states()
    }

    fn history(&self, partition: usize) -> History {
        self.monitor.history(partition)
    }

    fn expect_restart(&self, expected: bool) {
        self.client.connector().accept_any(expected);
    }

    async fn beat(&self, partition: usize) -> Result<(), StoreError> {
        self.prober.beat_in(Partition::at(partition)).await?;
        Ok(())
    }

    async fn leave(&self, partition: usize) -> Result<(), StoreError> {
        Ok(self.prober.leave_partition(Partition::at(partition)).await?)
    }

    async fn get_many(&self, ids: &[JobId]) -> Result<Vec<Record>, StoreError> {
        self.monitor.check_ready()?;
        Ok(self.time(Command::GetMany, self.reader.read_many(ids, View::Full)).await?)
    }

    async fn versions(&self, ids: &[JobId]) -> Result<Vec<Option<Version>>, StoreError> {
        self.monitor.check_ready()?;
        Ok(self.time(Command::GetMany, self.reader.read_versions(ids)).await?)
    }

    async fn replace_many(&self, writes: Vec<Replacement>) -> Vec<Result<Replaced, StoreError>> {
        match self.monitor.check_ready() {
            Ok(()) => self.time(Command::WriteMany, self.writer.write_many(writes)).await,
            Err(error) => vec![Err(error); writes.len()],
        }
    }

    async fn renew(&self, job: &Job) -> Result<(), StoreError> {
        Ok(self.writer.write_heard(job).await?)
    }
}
