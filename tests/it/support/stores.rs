//! Stores without a server.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    clock::{SteeredClock, SystemClock},
    domain::Job,
    store::{
        CommitEvent, Durability, Listener, Presence, RedisStore, Source, Stored,
        redis::{Options, Target},
    },
};

/// A listener that ignores all commits.
pub struct Deaf;

impl Listener for Deaf {
    fn on_commit(&self, _: CommitEvent) {}
}

/// Returns a job as a version that was read from Redis.
pub fn recorded(job: Job) -> Stored {
    Stored { job: Arc::new(job), durability: Durability::Durable, source: Source::Redis }
}

/// Returns options for a store on the Redis at `url`, whose keys begin with `prefix` and a colon.
pub fn redis_options(url: &str, prefix: &str) -> Options {
    Options {
        target: Target::parse(url).expect("a valid address"),
        pool_size: 4,
        timeout: Duration::from_secs(4),
        key_prefix: format!("{prefix}:"),
        replica_grace: Duration::ZERO,
    }
}

/// Opens a store in Redis, by the machine's clock.
pub async fn open_redis(options: Options, listener: Arc<dyn Listener>, presence: Arc<Presence>) -> RedisStore {
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    RedisStore::open(options, listener, clock, presence).await.expect("Redis is usable")
}
