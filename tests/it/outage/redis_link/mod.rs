//! Disturbances of the connections to Redis, and their effects on callers and watchers.

mod credentials;
mod large;
mod lost_answers;
mod outage;
mod reasons;
mod records;
mod refused;
mod streams;

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Event, WatchJobsRequest};
use redis::Value;
use serde_json::json;
use tokio::{join, task::JoinSet, time::timeout};

use crate::support::{
    Client, Server, create,
    records::{ask, count_commit, partition, set_version},
    redis::Redis,
    relay::Relay,
    replicas::{read, server_on, use_everything},
    watching::{Seen, report, watch, watch_jobs},
};

/// Maximum time until a watcher receives a commit, even if its notification was lost. Watched jobs are read again a
/// little later in any case.
const SOON: Duration = Duration::from_secs(4);

/// Number of callers who report on a job at once.
const CALLERS: usize = 5;

/// Number of disturbances of one kind.
const ROUNDS: usize = 10;

/// Starts a server that reaches Redis through a relay, and rejects changes during an outage.
async fn behind(relay: &Relay) -> Server {
    Server::with(&["--redis-url", &relay.url(), "--fallback", "reject"]).await
}

/// Counts a commit as a replica does. Returns its notification.
async fn notification_of(redis: &Redis, id: &str, revision: i64) -> String {
    let number = count_commit(redis, id).await;
    let notification = json!({ "id": id, "rev": revision, "state": "RUNNING", "kind": "test.work" });
    format!("{number} {} somebody {notification}", partition(id))
}

/// Reads and reports by several callers at once; each must succeed.
async fn be_busy(client: &Client) {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
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
async fn connections_and_scripts_lost_under_load_fail_no_call() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    for _ in 0..ROUNDS {
        join!(be_busy(&client), redis.command(&["SCRIPT", "FLUSH"]));
    }
    assert_eq!(report(&mut client, "a").await.revision, 252, "no report was stored twice");
    for _ in 0..ROUNDS {
        join!(be_busy(&client), redis.command(&["CLIENT", "KILL", "TYPE", "normal"]));
    }
    // A replica recognizes its own change when the answer to it is lost, unless another report has followed. Those that
    // are on their way when the connections are killed, one of each caller, may then be stored twice.
    let revision = report(&mut client, "a").await.revision;
    let most = 503 + i64::try_from(ROUNDS * CALLERS).expect("a small number");
    assert!((503..=most).contains(&revision), "{revision}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_scripts_lost_at_rest_fail_no_call() {
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

/// Stores the next revision of a job like a replica, but without a notification.
async fn change_in_silence(redis: &Redis, id: &str) -> i64 {
    let next = set_version(redis, id, 1).await;
    assert!(count_commit(redis, id).await > 1, "it counts the commits");
    next
}

#[tokio::test(flavor = "multi_thread")]
async fn change_without_a_notification_is_seen_in_seconds() {
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
        println!("a change without a notification was seen after {:?}", started.elapsed());
    }
    assert_eq!(report(&mut client, "a").await.revision, 4);
    assert_eq!(one.update().await.revision, 4);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_call_scans_all_keys() {
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
