//! Metrics while Redis is unavailable, and afterwards.

use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tonic_health::ServingStatus::{NotServing, Serving};
use uuid::Uuid;

use crate::support::{
    Server, create,
    http::{Scrape, get},
    redis::{Cluster, Redis},
    relay::{Link, Relay},
    replicas::{Health, read, server_on},
};

#[tokio::test(flavor = "multi_thread")]
async fn metrics_show_each_step_of_an_outage() {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    let from_redis = |scrape: &Scrape| scrape.count("jobtrack_storage_mode{mode=\"redis\"}") == 1;
    let scrape = Scrape::until(server.http, "Redis", from_redis).await;
    let opened = scrape.count("jobtrack_breaker_opened_total");
    create(&mut client, "held").await;
    for _ in 0..2 {
        client.get_job(read("held")).await.expect("it is there");
    }
    client.get_job(read("missing")).await.expect_err("it is not there");

    // Statistics are read once a second.
    let pending = "jobtrack_jobs{state=\"PENDING\"}";
    let counts = |count| move |scrape: &Scrape| scrape.has(pending) && scrape.count(pending) == count;
    let scrape = Scrape::until(server.http, "the job", counts(1)).await;
    assert_eq!(scrape.count("jobtrack_redis_up"), 1);
    assert!(scrape.value("jobtrack_redis_ping_seconds") > 0.0);
    assert!(scrape.count("jobtrack_redis_command_seconds_count{command=\"write\"}") >= 1);
    assert!(scrape.count("jobtrack_redis_command_seconds_count{command=\"get\"}") >= 1);
    let read_ones: u64 =
        ["hit", "miss"].map(|it| scrape.count(&format!("jobtrack_cache_reads_total{{result=\"{it}\"}}"))).iter().sum();
    assert!(read_ones >= 3, "{}", scrape.text);
    assert!(scrape.count("jobtrack_redis_pool_connections{state=\"idle\"}") >= 1);
    let failures = |scrape: &Scrape| {
        let of = |reason| scrape.count(&format!("jobtrack_redis_command_failures_total{{reason=\"{reason}\"}}"));
        of("refused") + of("lost")
    };
    let failed_before = failures(&scrape);

    redis.kill();
    Health::watch(&server, "redis").await.until(NotServing).await;
    create(&mut client, "new").await;
    let is_down = |scrape: &Scrape| scrape.count("jobtrack_redis_up") == 0;
    let scrape = Scrape::until(server.http, "the outage", is_down).await;
    assert_eq!(scrape.count("jobtrack_storage_mode{mode=\"degraded\"}"), 1);
    assert_eq!(scrape.count("jobtrack_storage_mode{mode=\"redis\"}"), 0);
    assert!(!scrape.has("jobtrack_redis_ping_seconds"));
    assert_eq!(scrape.count("jobtrack_dirty_jobs"), 1);
    assert_eq!(scrape.count("jobtrack_breaker_opened_total"), opened + 1);
    assert!(failures(&scrape) > failed_before);
    assert_eq!(
        get(server.http, "/readyz").await,
        (200, "ready: Redis is unavailable, calls are answered from memory\n".into())
    );

    redis.restart_empty().await;
    Scrape::until(server.http, "Redis again", from_redis).await;
    let scrape = Scrape::until(server.http, "both jobs in Redis", |scrape| {
        counts(2)(scrape) && scrape.count("jobtrack_dirty_jobs") == 0
    })
    .await;
    assert!(scrape.count("jobtrack_reconciled_jobs_total{outcome=\"merged\"}") >= 1);
    assert!(scrape.count("jobtrack_reconciliation_seconds_count") >= 1);
    server.stop().await;
}

/// Metrics are served even with the maximum timeout for an answer of Redis.
#[tokio::test(flavor = "multi_thread")]
async fn silent_redis_does_not_delay_metrics() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&["--redis-url", &relay.url(), "--redis-timeout", "4s"]).await;
    create(&mut server.client().await, "held").await;
    relay.set_all(Link::Hole);
    let begun = Instant::now();
    let scrape = Scrape::of(server.http).await;
    assert!(begun.elapsed() < Duration::from_millis(3500), "{:?}", begun.elapsed());
    assert_eq!(scrape.count("jobtrack_redis_up"), 0);
    // The number is unknown, and zero would be wrong.
    assert!(!scrape.has("jobtrack_jobs{state=\"PENDING\"}"));
    assert_eq!(scrape.count("jobtrack_jobs_created_total"), 1);
    relay.set_all(Link::Pass);
    server.stop().await;
}

/// In a cluster a connection carries few commands at a time, which is what the alert on an exhausted pool is about.
#[tokio::test(flavor = "multi_thread")]
async fn callers_that_wait_for_a_connection_are_counted() {
    let cluster = Cluster::with(Duration::from_secs(60), &[]).await;
    let flags = ["--redis-url", &cluster.url(), "--redis-pool-size", "1", "--redis-timeout", "4s"];
    let server = Server::with(&flags).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    let idle = Scrape::of(server.http).await;
    assert_eq!(idle.count("jobtrack_redis_pool_waiting"), 0);
    let master = cluster.master_of_slot(0).await;
    master.signal("STOP");
    let client = server.client().await;
    let mut reads = JoinSet::new();
    for _ in 0..200 {
        let mut client = client.clone();
        reads.spawn(async move { client.get_job(read(&Uuid::new_v4().to_string())).await });
    }
    let wait = |scrape: &Scrape| scrape.count("jobtrack_redis_pool_waiting") > 0;
    Scrape::until(server.http, "callers that wait", wait).await;
    master.signal("CONT");
    for read in reads.join_all().await {
        read.expect_err("there is no such job");
    }
    server.stop().await;
}
