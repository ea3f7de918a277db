//! The replicas and the held-back decisions in `GetStats`.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    proto::v1::{GetStatsResponse, Replica},
    store::{JobStore, Presence, RedisStore},
};
use redis::from_redis_value;
use tokio::time::sleep;
use uuid::Uuid;

use crate::support::{
    Admin, Server,
    process::Process,
    redis::{Redis, shared_cluster, shared_redis},
    replicas::{in_time, part_of_shared_redis, server_on, stats},
    stores::{Deaf, open_redis, redis_options},
};

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Pause between two reads.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Waits until the statistics are as `expected`.
async fn until(admin: &mut Admin, what: &str, expected: impl Fn(&GetStatsResponse) -> bool) -> GetStatsResponse {
    in_time(what, async {
        loop {
            let stats = stats(admin).await;
            if expected(&stats) {
                return stats;
            }
            sleep(POLL_INTERVAL).await;
        }
    })
    .await
}

fn ids(stats: &GetStatsResponse) -> Vec<&str> {
    stats.replicas.iter().map(|replica| replica.id.as_str()).collect()
}

fn seen(replica: &Replica) -> (i64, i32) {
    let time = replica.last_seen_time.as_ref().expect("every replica was seen");
    (time.seconds, time.nanos)
}

/// Checks that two servers on the Redis of these flags are registered once each, and that a stop ends that.
async fn assert_registered(flags: &[&str]) {
    let (a, b) = (Server::with(flags).await, Server::with(flags).await);
    let (mut one, mut other) = (a.admin().await, b.admin().await);
    let both = until(&mut one, "both replicas", |stats| stats.replicas.len() == 2).await;
    assert_eq!(ids(&stats(&mut other).await), ids(&both), "both replicas tell the same");
    for replica in &both.replicas {
        assert_eq!((replica.version.as_str(), replica.dirty_jobs), (VERSION, 0));
    }
    let before = both.replicas.iter().map(seen).max();
    until(&mut one, "a later beat of both", |stats| stats.replicas.iter().map(seen).min() > before).await;
    b.stop().await;
    let left = stats(&mut one).await;
    assert!(left.replicas.len() == 1 && ids(&both).contains(&ids(&left)[0]), "{left:?}");
    a.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_replica_is_listed_until_it_stops() {
    let flags = part_of_shared_redis().await;
    assert_registered(&flags.each_ref().map(String::as_str)).await;
}

/// A replica sends beats to each partition, and is listed once.
#[tokio::test(flavor = "multi_thread")]
async fn replica_is_listed_once_in_a_cluster() {
    let (url, prefix) = (shared_cluster().await.url(), format!("{}:", Uuid::new_v4().simple()));
    assert_registered(&["--redis-url", &url, "--key-prefix", &prefix, "--redis-timeout", "4s"]).await;
}

/// Decisions wait for a replica that disappeared, and it stays registered for twice as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_replica_holds_decisions_back_for_a_while() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url(), "--replica-grace", "6s"];
    let alive = Process::start(&flags);
    let mut admin = alive.admin().await;
    let reason = "workers have been able to report for";
    let held = until(&mut admin, "a start", |stats| stats.decisions_held_back_reason.starts_with(reason)).await;
    assert!(held.decisions_held_back, "nobody could report before");
    let (killed, _other) = (Process::start(&flags), Process::start(&flags));
    until(&mut admin, "three replicas", |stats| stats.replicas.len() == 3).await;
    let free = until(&mut admin, "decisions", |stats| !stats.decisions_held_back).await;
    assert_eq!(free.decisions_held_back_reason, "");

    killed.signal("KILL");
    killed.wait();
    let is_silent = |stats: &GetStatsResponse| stats.decisions_held_back_reason.contains("was last seen");
    let held = until(&mut admin, "a silent replica", is_silent).await;
    let silent = held.replicas.iter().min_by_key(|replica| seen(replica)).expect("there are three");
    assert_eq!((held.replicas.len(), held.decisions_held_back), (3, true));
    assert!(held.decisions_held_back_reason.contains(&silent.id), "{}", held.decisions_held_back_reason);
    until(&mut admin, "decisions", |stats| !stats.decisions_held_back).await;
    let left = until(&mut admin, "two replicas", |stats| stats.replicas.len() == 2).await;
    assert!(!ids(&left).contains(&silent.id.as_str()), "{left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_redis_decisions_are_held_back_and_no_replica_is_listed() {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut admin = server.admin().await;
    until(&mut admin, "this replica", |stats| stats.replicas.len() == 1 && !stats.decisions_held_back).await;
    redis.kill();
    let away = until(&mut admin, "the loss of Redis", |stats| stats.replicas.is_empty()).await;
    assert!(away.decisions_held_back);
    assert_eq!(away.decisions_held_back_reason, "Redis does not answer this replica");
    redis.restart().await;
    until(&mut admin, "this replica", |stats| stats.replicas.len() == 1 && !stats.decisions_held_back).await;
    server.stop().await;
}

/// The beats of a replica of an earlier version contain neither its version nor its number of dirty jobs.
#[tokio::test(flavor = "multi_thread")]
async fn replica_of_an_earlier_version_is_listed() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut admin = server.admin().await;
    until(&mut admin, "this replica", |stats| stats.replicas.len() == 1).await;
    let (seconds, _): (String, String) = from_redis_value(redis.command(&["TIME"]).await).expect("a time");
    let mark = format!("{seconds}000000");
    for beat in ["jobs:{0}:beat", "jobs:{5}:beat"] {
        redis.command(&["HSET", beat, "mark:earlier", &mark, "unknown", "1", "unknown:x", "y"]).await;
    }
    redis.command(&["HSET", "jobs:{5}:beat", "about:earlier", "unreadable"]).await;
    let both = until(&mut admin, "both replicas", |stats| stats.replicas.len() == 2).await;
    let earlier = both.replicas.iter().find(|replica| replica.id == "earlier").expect("it has a mark");
    assert_eq!((earlier.version.as_str(), earlier.dirty_jobs), ("", 0));
    assert_eq!(seen(earlier).0.to_string(), seconds);
    server.stop().await;
}

#[tokio::test]
async fn dirty_jobs_are_summed_over_the_partitions() {
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let options = redis_options(&shared_redis().await.url(), &Uuid::new_v4().simple().to_string());
    let store = open_redis(options, Arc::new(Deaf), presence.clone()).await;
    (0..RedisStore::PARTITIONING.count).for_each(|partition| presence.set_serving(partition, true));
    for (partition, dirty) in [(0, 2), (5, 3), (15, 1)] {
        presence.set_dirty_jobs(partition, dirty);
    }
    store.ping().await.expect("Redis answers");
    let (replicas, _) = store.registration().await;
    assert_eq!(replicas.iter().map(|replica| replica.dirty).collect::<Vec<_>>(), [6]);
    presence.set_dirty_jobs(5, 0);
    store.ping().await.expect("Redis answers");
    let (replicas, _) = store.registration().await;
    assert_eq!(replicas.iter().map(|replica| replica.dirty).collect::<Vec<_>>(), [3]);
}
