//! Records that a version without attempts wrote.

use std::sync::Arc;

use jobtrack::{
    clock::{SteeredClock, SystemClock},
    domain::{Job, State},
    store::{
        JobStore, Listener, Presence, RedisStore, Replaced,
        redis::{Options, Target},
    },
};

use crate::support::{
    jobs::{apply, at, heartbeat, job, start},
    redis::shared_redis,
};

struct Deaf;

impl Listener for Deaf {
    fn changed(&self, _: jobtrack::store::CommitEvent) {}
}

async fn store() -> RedisStore {
    let options = Options {
        target: Target::parse(&shared_redis().await.url()).expect("a valid address"),
        pool_size: 1,
        timeout: std::time::Duration::from_secs(4),
        key_prefix: format!("{}:", uuid::Uuid::new_v4().simple()),
        replica_grace: std::time::Duration::ZERO,
    };
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    RedisStore::open(options, Arc::new(Deaf), clock, presence).await.expect("Redis is usable")
}

#[tokio::test]
async fn running_job_of_an_older_version_is_in_its_first_attempt() {
    let store = store().await;
    let running = apply(&job("a", 0), &heartbeat(), 1);
    let older = Job { attempt_start_time: None, ..running };
    assert!(matches!(store.replace(Arc::new(older), None).await, Ok(Replaced::Stored(_))));
    let read = store.get(&crate::support::jobs::id("a")).await.expect("Redis answers").expect("it is there").job;
    assert_eq!((read.attempt, read.attempt_start_time, read.state), (1, Some(at(1)), State::Running));
    assert_eq!((read.claim, read.past_attempts().count()), (None, 0));
    let taken = apply(
        &read,
        &jobtrack::domain::Change::Start(jobtrack::domain::Start { takeover: true, ..Default::default() }),
        2,
    );
    assert_eq!((taken.attempt, taken.past_attempts().count()), (2, 1));
    let waiting = job("b", 0);
    assert!(matches!(store.replace(Arc::new(waiting), None).await, Ok(Replaced::Stored(_))));
    let read = store.get(&crate::support::jobs::id("b")).await.expect("Redis answers").expect("it is there").job;
    assert_eq!(apply(&read, &start("w"), 1).attempt, 1);
}
