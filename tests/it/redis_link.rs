//! The link to Redis: what disturbs it, and what callers and watchers notice of that.

mod credentials;
mod outage;
mod reasons;
mod records;

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Event, WatchJobsRequest};
use redis::{FromRedisValue, Value, from_redis_value};
use tokio::{join, task::JoinSet, time::timeout};

use crate::support::{
    Client, create,
    redis::Redis,
    replicas::{read, server_on, use_everything},
    watching::{Seen, report, watch, watch_jobs},
};

/// What Redis answers to a command.
async fn ask<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    from_redis_value(redis.command(words).await).expect("an answer of this type")
}

/// The key of a job, whatever partition it is in.
pub async fn key_of(redis: &Redis, id: &str) -> String {
    for partition in 0..16 {
        let key = format!("job:{{{partition}}}:{id}");
        if ask(redis, &["EXISTS", &key]).await {
            return key;
        }
    }
    panic!("Redis has no job {id}")
}

/// Reads and reports by several callers at once; each must succeed.
async fn be_busy(client: &Client) {
    let mut callers = JoinSet::new();
    for _ in 0..5 {
        let mut client = client.clone();
        callers.spawn(async move {
            for _ in 0..5 {
                report(&mut client, "a").await;
                client.get_job(read("a")).await.expect("it can be read");
            }
        });
    }
    callers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_scripts_that_are_lost_under_load_are_not_noticed() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    for disturbance in [&["SCRIPT", "FLUSH"][..], &["CLIENT", "KILL", "TYPE", "normal"]] {
        for _ in 0..10 {
            join!(be_busy(&client), redis.command(disturbance));
        }
    }
    assert_eq!(report(&mut client, "a").await.revision, 502, "no report was stored twice");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_scripts_that_are_lost_at_rest_are_not_noticed() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    for _ in 0..10 {
        be_busy(&client).await;
        let killed: i64 = ask(&redis, &["CLIENT", "KILL", "TYPE", "normal"]).await;
        assert!(killed > 0);
        redis.command(&["SCRIPT", "FLUSH"]).await;
        report(&mut client, "a").await;
        client.get_job(read("a")).await.expect("it can be read");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watcher_misses_nothing_when_subscriptions_are_lost() {
    let redis = Redis::start().await;
    let (one, other) = (server_on(&redis).await, server_on(&redis).await);
    let (mut client, watching) = (one.client().await, other.client().await);
    create(&mut client, "a").await;
    let mut stream = watch(&watching, "a").await;
    stream.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&watching, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    for revision in 2..=21 {
        let kill = redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        let (reported, _) = join!(report(&mut client, "a"), kill);
        assert_eq!(reported.revision, revision);
        let seen = stream.until(|seen| seen.revision() == revision).await;
        assert_eq!(seen.last().map(Seen::job), Some(&reported));
        all.until(|seen| seen.job.as_ref().is_some_and(|job| job.revision == revision)).await;
    }
    one.stop().await;
    other.stop().await;
}

/// Gives the record at `key` a version of another change, `step` revisions later. Returns its revision.
pub async fn set_version(redis: &Redis, key: &str, step: i64) -> i64 {
    let version: String = ask(redis, &["HGET", key, "v"]).await;
    let parts: Vec<_> = version.split(' ').collect();
    let next = parts[0].parse::<i64>().expect("a number") + step;
    // Of two changes of one time, this one stands.
    let version = format!("{next} {:x}.{next:x} {} {}", u64::MAX, parts[2], parts[3]);
    redis.command(&["HSET", key, "v", &version]).await;
    next
}

/// Stores the next revision of a job as a replica does, but tells nobody.
async fn change_in_silence(redis: &Redis, id: &str) -> i64 {
    let key = key_of(redis, id).await;
    let next = set_version(redis, &key, 1).await;
    let under = key.strip_suffix(id).expect("a key ends with the id").replacen("job:", "jobs:", 1);
    let commits: i64 = ask(redis, &["INCR", &format!("{under}commits")]).await;
    assert!(commits > 1, "it counts the commits");
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_hint_came_of_is_seen_in_seconds() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut one = watch(&client, "a").await;
    one.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    for _ in 0..2 {
        let started = Instant::now();
        let revision = change_in_silence(&redis, "a").await;
        for stream in [&mut one, &mut all] {
            let seen = stream.until(|seen| seen.job.as_ref().is_some_and(|job| job.revision == revision));
            timeout(Duration::from_secs(10), seen).await.expect("it is missed within seconds");
        }
        println!("what no hint came of was seen after {:?}", started.elapsed());
    }
    assert_eq!(report(&mut client, "a").await.revision, 4);
    assert_eq!(one.update().await.revision, 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_walks_through_all_keys() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    use_everything(&server).await;
    let statistics = redis.info("commandstats").await;
    assert!(statistics.contains("cmdstat_evalsha:"), "{statistics}");
    for command in ["keys", "scan", "hscan", "sscan", "zscan"] {
        assert!(!statistics.contains(&format!("cmdstat_{command}:")), "{statistics}");
    }
    assert_eq!(redis.command(&["PING"]).await, Value::SimpleString("PONG".to_owned()));
    server.stop().await;
}
