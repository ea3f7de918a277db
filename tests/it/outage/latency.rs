//! The time that calls lose to a Redis that refuses connections or does not answer; our own load must not add to it.

use std::{
    env,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::{
    proto::v1::{Durability, Event, UpdateProgressRequest},
    store::RedisStore,
};
use tokio::{spawn, time::sleep};
use tonic::{Code, Status};
use tonic_health::ServingStatus::Serving;

use crate::support::{
    Client, Server, create,
    http::Scrape,
    pace::scaled,
    redis::{Cluster, Redis, Sentinel},
    relay::{Carrying, Link, Relay},
    replicas::{Health, assert_away, read},
    watching::watch,
};

/// Calls that wait for Redis at the same time.
const CALLERS: usize = 8;

/// The default of `--redis-timeout`.
const REDIS_TIMEOUT: Duration = Duration::from_millis(250);

/// Watches that share a connection.
const WATCHES_PER_CONNECTION: usize = 500;

/// Returns the number of watches to open at once; `JOBTRACK_TEST_WATCHES` overrides it.
fn watch_count() -> usize {
    env::var("JOBTRACK_TEST_WATCHES").ok().and_then(|count| count.parse().ok()).unwrap_or(2000)
}

/// Starts a server on the Redis at `url`, with this timeout of a command. Returns once it serves from there.
async fn server_with(url: &str, timeout: &str) -> Server {
    let server = Server::with(&["--redis-url", url, "--redis-timeout", timeout]).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    server
}

fn held(caller: usize) -> String {
    format!("held-{caller}")
}

fn elsewhere(caller: usize) -> String {
    format!("elsewhere-{caller}")
}

/// Starts two servers with jobs of their own. Returns a client of the first one, which has none of the second one's
/// jobs in memory.
async fn two_with_jobs(url: &str, timeout: &str) -> (Server, Server, Client) {
    let (server, other) = (server_with(url, timeout).await, server_with(url, timeout).await);
    let (mut client, mut others) = (server.client().await, other.client().await);
    for caller in 0..CALLERS {
        create(&mut client, &held(caller)).await;
        create(&mut others, &elsewhere(caller)).await;
    }
    (server, other, client)
}

async fn timed<T>(call: impl Future<Output = T>) -> (Duration, T) {
    let begun = Instant::now();
    let outcome = call.await;
    (begun.elapsed(), outcome)
}

/// Fails unless concurrent calls that need an unavailable Redis are all answered within `limit`. If it is `partly`
/// unavailable, some may succeed.
async fn assert_answered(client: &Client, partly: bool, limit: Duration) {
    let calls = (0..CALLERS).map(|caller| {
        let (mut reader, mut writer) = (client.clone(), client.clone());
        async move {
            let request = UpdateProgressRequest { job_id: held(caller), ..UpdateProgressRequest::default() };
            let (read, written) =
                tokio::join!(timed(reader.get_job(read(&elsewhere(caller)))), timed(writer.update_progress(request)));
            if !partly {
                assert_away("a read", read.1.as_ref().expect_err("it is not held"));
            }
            let job = written.1.expect("it is taken").into_inner().job.expect("a job");
            assert!(partly || job.durability() == Durability::Volatile, "{job:?}");
            [read.0, written.0]
        }
    });
    let took: Vec<_> = join_all(calls).await.into_iter().flatten().collect();
    println!("{took:?}");
    assert!(took.iter().all(|took| *took < limit), "{took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_fail_all_waiting_calls_at_once() {
    let mut redis = Redis::start().await;
    let (server, other, client) = two_with_jobs(&redis.url(), "4s").await;
    redis.kill();
    assert_answered(&client, false, Duration::from_secs(1)).await;
    redis.restart_empty().await;
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_to_the_master_that_sentinels_name_fail_calls_at_once() {
    let mut sentinel = Sentinel::start().await;
    let (server, other, client) = two_with_jobs(&sentinel.url(), "4s").await;
    sentinel.kill_master().await;
    assert_answered(&client, true, Duration::from_secs(1)).await;
    sentinel.elected().await;
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refused_connections_to_a_cluster_node_fail_calls_at_once() {
    let mut cluster = Cluster::start().await;
    let (server, other, client) = two_with_jobs(&cluster.url(), "4s").await;
    cluster.kill_master_of_slot(0).await;
    assert_answered(&client, true, Duration::from_secs(1)).await;
    cluster.elected().await;
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_redis_costs_a_call_one_timeout() {
    let redis = Redis::start().await;
    let (server, other, client) = two_with_jobs(&redis.url(), "2s").await;
    redis.signal("STOP");
    assert_answered(&client, false, Duration::from_millis(3200)).await;
    redis.signal("CONT");
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    server.stop().await;
    other.stop().await;
}

/// Each step is shorter than the limit, and all of them together are longer.
#[tokio::test(flavor = "multi_thread")]
async fn commands_wait_in_a_long_queue_while_answers_keep_coming() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&["--redis-url", &relay.url(), "--redis-timeout", "1s", "--redis-pool-size", "1"]).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    let client = server.client().await;
    // Only the connection that carries these calls is late.
    relay.set_aside("HMGET", usize::MAX);
    relay.set(Carrying::Aside, Link::Pass);
    let steps = async {
        for late in [300, 600, 900, 1200, 1500] {
            relay.set(Carrying::Aside, Link::Late(Duration::from_millis(late)));
            sleep(Duration::from_millis(500)).await;
        }
    };
    let mut steps = std::pin::pin!(steps);
    let mut calls = Vec::new();
    loop {
        let mut client = client.clone();
        let id = format!("missing-{}", calls.len());
        calls.push(spawn(async move { timed(client.get_job(read(&id))).await }));
        tokio::select! {
            () = &mut steps => break,
            () = sleep(Duration::from_millis(20)) => {}
        }
    }
    let mut slowest = Duration::ZERO;
    for call in calls {
        let (took, outcome) = call.await.expect("it ends without a panic");
        slowest = slowest.max(took);
        assert_eq!(outcome.as_ref().map_err(Status::code).err(), Some(Code::NotFound), "{outcome:?} after {took:?}");
    }
    assert!(slowest > Duration::from_secs(1), "no command waited for longer than the limit: {slowest:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_watches_opened_at_once_are_no_failure_of_redis() {
    let redis = Redis::start().await;
    let patient = server_with(&redis.url(), "4s").await;
    let (watches, connections) = (watch_count(), watch_count().div_ceil(WATCHES_PER_CONNECTION));
    let creators = join_all((0..connections).map(|_| patient.client())).await;
    join_all(creators.into_iter().enumerate().map(|(number, mut client)| async move {
        for job in (number..watches).step_by(connections) {
            create(&mut client, &format!("watched-{job}")).await;
        }
    }))
    .await;
    // Redis itself waits for a core on a busy machine: it may be silent for longer than the default limit.
    let limit = scaled(REDIS_TIMEOUT).await;
    let server = server_with(&redis.url(), &format!("{}ms", limit.as_millis())).await;
    let failures = "jobtrack_redis_command_failures_total{reason=\"timeout\"}";
    let before = Scrape::of(server.http).await;

    let clients = join_all((0..connections).map(|_| server.client())).await;
    let begun = Instant::now();
    let opened = join_all((0..watches).map(|job| {
        let client = clients[job % connections].clone();
        spawn(async move {
            let mut stream = watch(&client, &format!("watched-{job}")).await;
            stream.expect(Event::Snapshot).await;
            stream
        })
    }))
    .await;
    println!("{} watches opened in {:?}", opened.len(), begun.elapsed());
    let after = Scrape::of(server.http).await;
    for series in ["jobtrack_breaker_opened_total", failures] {
        assert_eq!(after.count(series), before.count(series), "{series}");
    }
    assert_eq!(after.count("jobtrack_storage_mode{mode=\"redis\"}"), 1);
    drop(opened);
    server.stop().await;
    patient.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn scrapes_that_come_together_ask_redis_once() {
    const SCRAPES: usize = 50;
    let redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    let begun = Instant::now();
    let [before] = redis.calls(["eval"]).await;
    join_all((0..SCRAPES).map(|_| Scrape::of(server.http))).await;
    let [after] = redis.calls(["eval"]).await;
    let reads = usize::try_from(after - before).expect("a count").div_ceil(RedisStore::PARTITIONING.count);
    let most = usize::try_from(begun.elapsed().as_secs()).expect("few") + 2;
    assert!((1..=most).contains(&reads), "{reads} reads in {most} s");
    server.stop().await;
}
