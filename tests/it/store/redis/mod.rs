//! The Redis store alone. Nothing runs in the background unless a test starts it.

mod beats;
mod connections;
mod decisions;
mod due;
mod groups;

use std::{collections::HashMap, sync::Arc, time::Duration};

use jobtrack::{
    domain::{Change, Job, JobId, NewJob},
    store::{Decided, Decision, JobStore, Presence, PrimaryStore, RedisStore, Replaced, redis::Options},
};
use redis::{FromRedisValue, from_redis_value};
use uuid::Uuid;

use crate::support::{
    jobs::{apply, at, heartbeat, id, make, plain},
    redis::{Redis, shared_redis},
    stores::{Deaf, open_redis, redis_options},
};

/// The partition of the job.
pub const PARTITION: usize = 3;

/// The promised time of return. A final decision waits for two beats longer.
const REPLICA_GRACE: Duration = Duration::from_secs(60);

/// Time that Redis has for an answer.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Longer than any wait.
const HOUR: i64 = 3600;

/// A store whose replica sends beats only on demand.
pub struct Bench {
    pub redis: &'static Redis,
    pub prefix: String,
    pub store: RedisStore,
    pub presence: Arc<Presence>,
}

impl Bench {
    /// Starts a store that serves, in a separate part of the shared Redis.
    pub async fn start() -> Self {
        Self::on(shared_redis().await).await
    }

    /// Starts a store that serves, on this Redis.
    pub async fn on(redis: &'static Redis) -> Self {
        let prefix = Uuid::new_v4().simple().to_string();
        let (store, presence) = open(&redis.url(), &prefix, COMMAND_TIMEOUT).await;
        Self { redis, prefix, store, presence }
    }

    /// The store of another replica on the same data.
    pub async fn another(&self) -> RedisStore {
        open(&self.redis.url(), &self.prefix, COMMAND_TIMEOUT).await.0
    }

    pub async fn ask<T: FromRedisValue>(&self, words: &[&str]) -> T {
        from_redis_value(self.redis.command(words).await).expect("an answer of this type")
    }

    /// Returns the time on the clock of Redis, in microseconds.
    pub async fn now(&self) -> i64 {
        let (seconds, micros): (i64, i64) = self.ask(&["TIME"]).await;
        seconds * 1_000_000 + micros
    }

    pub fn beat_key(&self) -> String {
        format!("{}s:{{{PARTITION}}}:beat", self.prefix)
    }

    fn job_key(&self, job: &Job) -> String {
        format!("{}:{{{PARTITION}}}:{}", self.prefix, job.id)
    }

    /// Writes the time this many seconds ago into a field.
    pub async fn set_ago(&self, key: &str, field: &str, seconds: i64) {
        let moment = self.now().await - seconds * 1_000_000;
        let _: i64 = self.ask(&["HSET", key, field, &moment.to_string()]).await;
    }

    pub async fn beat(&self) -> Beat {
        let begun = self.now().await;
        self.store.beat(PARTITION).await.expect("Redis answers");
        let ended = self.now().await;
        Beat { fields: self.ask(&["HGETALL", &self.beat_key()]).await, begun, ended }
    }

    /// Stores a running job with a lease.
    pub async fn run(&self, lease: Duration, fail_when_lost: bool) -> Job {
        let new = NewJob { lease_timeout: lease, fail_when_lost, ..plain() };
        let made = make(id_of_partition().as_str(), 0, new);
        self.put(&made, None).await;
        let running = apply(&made, &heartbeat(), 1);
        self.put(&running, Some(&made)).await
    }

    pub async fn put(&self, job: &Job, previous: Option<&Job>) -> Job {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("Redis answers") {
            Replaced::Stored(stored) => Job::clone(&stored.job),
            Replaced::Conflict(there) => panic!("a conflict with {there:?}"),
        }
    }

    /// Makes the store decide that the worker of `job` is lost.
    async fn lose_worker(&self, job: &Job) -> Decided {
        let lost = apply(job, &Change::LoseWorker, 2);
        let deadline = job.silence_deadline().expect("it runs under a lease");
        let decision = Decision { deadline, is_revertible: !job.lease.fail_when_lost, is_due: true, now: at(2) };
        self.store.decide(Arc::new(lost), job, decision).await.expect("Redis answers")
    }
}

/// Opens the store of a replica that serves.
pub async fn open(url: &str, prefix: &str, timeout: Duration) -> (RedisStore, Arc<Presence>) {
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let options = Options { pool_size: 2, timeout, replica_grace: REPLICA_GRACE, ..redis_options(url, prefix) };
    let store = open_redis(options, Arc::new(Deaf), presence.clone()).await;
    presence.set_serving(PARTITION, true);
    (store, presence)
}

pub fn ids_of_partition() -> impl Iterator<Item = JobId> {
    let ids = (0..).map(|number| id(&format!("j{number}")));
    ids.filter(|id| (RedisStore::PARTITIONING.of)(id) == PARTITION)
}

pub fn id_of_partition() -> JobId {
    ids_of_partition().next().expect("one of many")
}

/// The records of a beat, and the times of its request and answer.
pub struct Beat {
    pub fields: HashMap<String, String>,
    begun: i64,
    ended: i64,
}

impl Beat {
    fn time(&self, field: &str) -> Option<i64> {
        self.fields.get(field).map(|time| time.parse().expect("a time"))
    }

    /// Returns whether a field was set to the present.
    fn is_now(&self, field: &str) -> bool {
        self.time(field).is_some_and(|time| (self.begun..=self.ended).contains(&time))
    }

    fn heard_since(&self) -> i64 {
        self.time("heard_since").expect("every beat notes it")
    }

    /// The name of the replica's mark, and its time.
    fn mark(&self) -> Option<(&str, i64)> {
        let name = self.fields.keys().find(|field| field.starts_with("mark:"))?;
        Some((name, self.time(name).expect("it is there")))
    }
}
