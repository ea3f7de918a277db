//! Writes that share a call of the script.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, future::join_all};
use jobtrack::{
    domain::Job,
    store::{JobStore, RedisStore, Replaced, StoreError},
};
use tokio::time::Instant;

use super::open;
use crate::support::{
    jobs::{apply, heartbeat, id, job, success},
    records::ask,
    redis::Redis,
    relay::{Link, Relay},
};

/// Maximum number of writes in a call.
const GROUP: usize = 16;

fn jobs(count: usize) -> Vec<Job> {
    (0..count).map(|number| job(&format!("j{number}"), 1)).collect()
}

/// Creates jobs at the same time.
async fn create_all(store: &RedisStore, jobs: &[Job]) -> Vec<Result<Replaced, StoreError>> {
    join_all(jobs.iter().map(|job| store.replace(Arc::new(job.clone()), None))).await
}

async fn scripts(redis: &Redis) -> usize {
    let [scripts] = redis.calls(["evalsha"]).await;
    usize::try_from(scripts).expect("a count")
}

fn is_stored(outcome: &Result<Replaced, StoreError>) -> bool {
    matches!(outcome, Ok(Replaced::Stored(_)))
}

async fn has(store: &RedisStore, name: &str) -> bool {
    store.get(&id(name)).await.expect("Redis answers").is_some()
}

#[tokio::test]
async fn writes_that_are_under_way_together_share_calls() {
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "shared", Duration::from_secs(4)).await;
    // Redis knows both scripts after these.
    assert!(create_all(&store, &jobs(3)).await.iter().all(is_stored));
    for (count, calls) in [(1, 1), (2, 2), (1 + GROUP, 2), (200, 1 + 199_usize.div_ceil(GROUP))] {
        let prefix = format!("writes-{count}");
        let jobs: Vec<_> = (0..count).map(|number| job(&format!("{prefix}-{number}"), 1)).collect();
        let before = scripts(&redis).await;
        assert!(create_all(&store, &jobs).await.iter().all(is_stored), "{count} creations");
        assert_eq!(scripts(&redis).await - before, calls, "calls for {count} creations");
    }
}

#[tokio::test]
async fn each_write_of_a_group_has_its_own_answer() {
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "own", Duration::from_secs(4)).await;
    let made = jobs(20);
    let taken: Vec<_> = made.iter().step_by(2).cloned().collect();
    assert!(create_all(&store, &taken).await.iter().all(is_stored));
    // A record of another type fails in the script.
    let damaged = made[3].id.clone();
    let partition = (RedisStore::PARTITIONING.of)(&damaged);
    redis.command(&["SET", &format!("own:{{{partition}}}:{damaged}"), "text"]).await;
    let rivals: Vec<_> = made.iter().map(|made| job(made.id.as_str(), 2)).collect();
    for (at, outcome) in create_all(&store, &rivals).await.into_iter().enumerate() {
        match (at, outcome) {
            (3, Err(StoreError::Corrupt(id))) => assert_eq!(id, damaged),
            (at, Ok(Replaced::Conflict(Some(there)))) if at % 2 == 0 => assert_eq!(there.job.version, made[at].version),
            (at, Ok(Replaced::Stored(stored))) if at % 2 == 1 => assert_eq!(stored.job.version, rivals[at].version),
            (at, outcome) => panic!("write {at}: {outcome:?}"),
        }
    }
}

/// The writes that a full Redis refuses do not fail those that it accepts.
#[tokio::test]
async fn full_redis_refuses_only_a_part_of_a_group() {
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "full", Duration::from_secs(4)).await;
    let made = jobs(20);
    assert!(create_all(&store, &made).await.iter().all(is_stored));
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let ended: Vec<_> = made.iter().map(|made| Arc::new(apply(made, &success(), 2))).collect();
    let new: Vec<_> = (0..20).map(|number| Arc::new(job(&format!("new{number}"), 2))).collect();
    let writes = new.iter().map(|job| store.replace(job.clone(), None));
    let ends = made.iter().zip(&ended).map(|(made, ended)| store.replace(ended.clone(), Some(made)));
    let (created, ends) = tokio::join!(join_all(writes), join_all(ends));
    assert!(ends.iter().all(is_stored), "{ends:?}");
    // A script that has written something may go on.
    for outcome in &created {
        assert!(matches!(outcome, Ok(Replaced::Stored(_)) | Err(StoreError::ReadOnly)), "{outcome:?}");
    }
    assert_eq!(created[0].as_ref().err(), Some(&StoreError::ReadOnly), "it was sent alone");
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    for (job, outcome) in new.iter().zip(&created) {
        assert_eq!(has(&store, job.id.as_str()).await, is_stored(outcome), "{}", job.id);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_write_of_a_group_without_an_answer_is_answered() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (store, _) = open(&relay.url(), "lost", Duration::from_secs(1)).await;
    let made = jobs(20);
    assert!(create_all(&store, &made).await.iter().all(is_stored));
    relay.set_all(Link::Hole);
    let next: Vec<_> = made.iter().map(|made| Arc::new(apply(made, &heartbeat(), 2))).collect();
    let writes = made.iter().zip(&next).map(|(made, next)| store.replace(next.clone(), Some(made)));
    for outcome in join_all(writes).await {
        assert_eq!(outcome.expect_err("there is no answer"), StoreError::Unavailable);
    }
    // Repeated writes succeed, whether the first ones were executed or not.
    relay.set_all(Link::Pass);
    let deadline = Instant::now() + Duration::from_secs(60);
    while store.ping().await.is_err() {
        assert!(Instant::now() < deadline, "Redis does not answer again");
    }
    let writes = made.iter().zip(&next).map(|(made, next)| store.replace(next.clone(), Some(made)));
    for (next, outcome) in next.iter().zip(join_all(writes).await) {
        let Ok(Replaced::Stored(stored)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(stored.job.version, next.version);
    }
}

/// The writes of other callers are sent. A write that still waits is not sent any more.
#[tokio::test]
async fn caller_that_leaves_affects_no_other_write() {
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "left", Duration::from_secs(4)).await;
    let made = jobs(6);
    let mut writes: Vec<_> =
        made.iter().map(|job| Some(Box::pin(store.replace(Arc::new(job.clone()), None)))).collect();
    for write in writes.iter_mut().flatten() {
        assert!(write.now_or_never().is_none(), "Redis has not answered yet");
    }
    // The first of those that wait, and another one.
    (writes[1], writes[3]) = (None, None);
    for outcome in join_all(writes.into_iter().flatten()).await {
        assert!(is_stored(&outcome), "{outcome:?}");
    }
    let there: Vec<_> = join_all(made.iter().map(|job| has(&store, job.id.as_str()))).await;
    assert_eq!(there, [true, false, true, false, true, true]);
}

/// A group is one command: a restarted Redis, which has forgotten the scripts, executes all of it or nothing.
#[tokio::test]
async fn group_survives_that_redis_forgets_the_script() {
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "forgotten", Duration::from_secs(4)).await;
    for round in 0..3 {
        let made: Vec<_> = (0..20).map(|number| job(&format!("r{round}-{number}"), 1)).collect();
        assert!(create_all(&store, &made).await.iter().all(is_stored), "round {round}");
        ask::<String>(&redis, &["SCRIPT", "FLUSH"]).await;
    }
}

/// Thousands of writes at once are sent in groups, and each of them is answered. On one thread, so that all writes wait
/// before the first group is sent, however busy the machine is.
#[tokio::test]
async fn overload_is_sent_in_groups_of_limited_size() {
    const WRITES: usize = 5000;
    let redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "overload", Duration::from_secs(10)).await;
    let before = scripts(&redis).await;
    assert!(create_all(&store, &jobs(WRITES)).await.iter().all(is_stored));
    let calls = scripts(&redis).await - before;
    // The first write is alone.
    assert_eq!(calls, 1 + (WRITES - 1).div_ceil(GROUP), "calls for {WRITES} writes");
}
