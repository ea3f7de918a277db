//! A Redis that answers, but rejects commands.

use std::time::Duration;

use jobtrack::proto::v1::{
    CreateJobRequest, Event, GetStatsRequest, ListJobsRequest, PurgeJobsRequest, StorageMode, WatchJobsRequest,
    job::State,
};
use rstest::rstest;
use tokio::{join, time::timeout};
use tonic_health::ServingStatus::{NotServing, Serving};

use super::{SOON, behind, notification_of};
use crate::support::{
    Server, create, new_job,
    process::Process,
    records::{ask, partition_key, set_version},
    redis::Redis,
    relay::{Carrying::Commands, Link, Relay},
    replicas::{Health, assert_away, in_time, read, strict_server_on, under_lease, until_lost},
    watching::{complete, delete, make, millis, report, try_report, watch, watch_jobs},
};

/// Maximum time until a server knows whether Redis serves.
const SECONDS: Duration = Duration::from_secs(5);

/// Publishes a notification, and keeps Redis busy.
const BUSY: &str = "redis.call('PUBLISH', ARGV[1], ARGV[2]) while true do end";

async fn health_is(link: &mut Health, status: tonic_health::ServingStatus) {
    timeout(SECONDS, link.until(status)).await.expect("health is known within seconds");
}

async fn mode(server: &Server) -> StorageMode {
    server.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner().storage_mode()
}

/// The test reads the log of the server, which is therefore a process.
#[tokio::test(flavor = "multi_thread")]
async fn busy_redis_loses_no_notification_and_no_lease() {
    let redis = Redis::with(&["--lua-time-limit", "100"]).await;
    let relay = Relay::to(redis.port).await;
    let process = Process::start(&["--redis-url", &relay.url(), "--fallback", "reject"]);
    let observer = strict_server_on(&redis).await;
    let mut client = process.client().await;
    for id in ["a", "leased"] {
        create(&mut client, id).await;
    }
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let mut leased = watch(&client, "leased").await;
    leased.expect(Event::Snapshot).await;
    client.update_progress(under_lease("leased", 1500)).await.expect("a report");
    leased.update().await;
    let mut link = Health::watch(&observer, "redis").await;
    link.until(Serving).await;

    let revision = set_version(&redis, "a", 1).await;
    let notification = notification_of(&redis, "a", revision).await;
    relay.set_at("HMGET", Commands, Link::Pass);
    let channel = partition_key("a", "changes:0");
    let script = ["EVAL", BUSY, "0", &channel, &notification];
    let be_busy = redis.try_command(&script);
    let meanwhile = async {
        in_time("a read of what was announced", relay.said()).await;
        link.until(NotServing).await;
        redis.command(&["SCRIPT", "KILL"]).await;
    };
    let (killed, ()) = join!(be_busy, meanwhile);
    killed.expect_err("it never ends by itself");

    let seen = timeout(SOON, stream.update()).await.expect("it was announced");
    assert_eq!(seen.revision, 2);
    until_lost(&mut leased, "leased").await;
    link.until(Serving).await;
    observer.stop().await;
    process.signal("TERM");
    let (_, log) = process.wait();
    assert!(!log.contains("can't be read"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_may_not_be_read_keeps_its_lease() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = behind(&relay).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    client.update_progress(under_lease("a", 1000)).await.expect("a report");
    redis.command(&["ACL", "SETUSER", "default", "-hmget"]).await;
    relay.set_at("HMGET", Commands, Link::Pass);
    in_time("a read of what is due", relay.said()).await;
    assert_away("get_job", &client.get_job(read("elsewhere")).await.expect_err("it may not be read"));
    redis.command(&["ACL", "SETUSER", "default", "+hmget"]).await;
    let mut stream = watch(&client, "a").await;
    until_lost(&mut stream, "a").await;
    server.stop().await;
}

#[rstest]
#[case::redis(Redis::start())]
#[case::valkey(Redis::valkey())]
#[tokio::test(flavor = "multi_thread")]
async fn full_redis_accepts_changes_that_free_memory(
    #[future]
    #[case]
    redis: Redis,
) {
    let redis = redis.await;
    let server = strict_server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    for id in ["pending", "running", "deleted", "purged", "stays"] {
        create(&mut client, id).await;
    }
    make(&mut client, CreateJobRequest { retention: millis(500), ..new_job("brief") }).await;
    for id in ["running", "stays"] {
        report(&mut client, id).await;
    }
    complete(&mut client, "purged").await;
    let mut brief = watch(&client, "brief").await;
    brief.expect(Event::Snapshot).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_away("create_job", &client.create_job(new_job("new")).await.expect_err("there is no room"));
    assert_away("update_progress", &try_report(&mut client, "stays").await.expect_err("there is no room"));
    let purged = admin.purge_jobs(PurgeJobsRequest::default()).await.expect("it frees room").into_inner();
    assert_eq!(purged.purged_count, 1);
    for id in ["pending", "running", "brief"] {
        complete(&mut client, id).await;
    }
    delete(&mut client, "deleted").await;
    assert_eq!(brief.update().await.state(), State::Succeeded);
    brief.end().await;
    let place = ["ZSCORE", &partition_key("brief", "created"), "brief"];
    in_time("the expiry", async { while ask::<Option<String>>(&redis, &place).await.is_some() {} }).await;

    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    health_is(&mut Health::watch(&server, "redis").await, Serving).await;
    create(&mut client, "new").await;
    assert_eq!(report(&mut client, "stays").await.revision, 3);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_knows_that_redis_is_full() {
    let redis = Redis::start().await;
    let server = strict_server_on(&redis).await;
    let mut link = Health::watch(&server, "redis").await;
    link.until(Serving).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    health_is(&mut link, NotServing).await;
    assert_eq!(mode(&server).await, StorageMode::Degraded);
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    health_is(&mut link, Serving).await;
    assert_eq!(mode(&server).await, StorageMode::Redis);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_demotion_of_the_master_is_survived() {
    let redis = Redis::start().await;
    let server = strict_server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let mut one = watch(&client, "a").await;
    one.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    let mut link = Health::watch(&server, "redis").await;
    link.until(Serving).await;

    // No master answers at that address, so Redis keeps its data.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    assert_away("update_progress", &try_report(&mut client, "a").await.expect_err("it takes no writes"));
    assert_away("create_job", &client.create_job(new_job("b")).await.expect_err("it takes no writes"));
    health_is(&mut link, NotServing).await;
    assert_eq!(mode(&server).await, StorageMode::Degraded);
    assert_away("update_progress", &try_report(&mut client, "a").await.expect_err("it takes no writes"));

    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    health_is(&mut link, Serving).await;
    assert_eq!(mode(&server).await, StorageMode::Redis);
    let other = strict_server_on(&redis).await;
    let reported = report(&mut other.client().await, "a").await;
    assert_eq!(reported.revision, 3, "what failed was not done");
    assert_eq!(one.update().await, reported);
    in_time("the report", all.until(|seen| seen.job.as_ref() == Some(&reported))).await;
    create(&mut client, "b").await;
    let listed = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    assert_eq!(listed.jobs.len(), 2);
    server.stop().await;
    other.stop().await;
}
