//! A Redis whose memory is full, and that still answers.

use jobtrack::{
    proto::v1::{CreateJobRequest, Durability, Event, ListJobsRequest},
    store::RedisStore,
};
use redis::Value;
use tonic::Code;
use tonic_types::StatusExt;

use super::{assert_stored, job};
use crate::support::{
    Server, create,
    jobs::id,
    new_job, reason,
    redis::Redis,
    replicas::{degraded, get, in_time, read, server_on, stats, whole},
    watching::{complete, make, millis, try_report, watch},
};

/// Capacity of the server's memory, in jobs.
const HELD: usize = 20;

/// Makes Redis reject writes.
async fn fill(redis: &Redis) {
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
}

/// Makes Redis accept writes again.
async fn empty(redis: &Redis) {
    redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
}

/// Returns whether Redis has a job of this id in the index of all jobs.
async fn is_listed(redis: &Redis, id: &str) -> bool {
    for partition in 0..16 {
        let index = format!("jobs:{{{partition}}}:created");
        if redis.command(&["ZSCORE", &index, id]).await != Value::Nil {
            return true;
        }
    }
    false
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_replaces_a_full_redis_up_to_its_capacity() {
    let redis = Redis::start().await;
    let most = HELD.to_string();
    let server = Server::with(&["--redis-url", &redis.url(), "--max-memory-jobs", &most]).await;
    let other = server_on(&redis).await;
    let mut client = server.client().await;
    for number in 0..5 {
        let id = format!("held-{number}");
        create(&mut client, &id).await;
        try_report(&mut client, &id).await.expect("it is taken");
    }
    whole(&server).await;

    fill(&redis).await;
    for number in 0..5 {
        let reported = try_report(&mut client, &format!("held-{number}")).await.expect("it is taken");
        assert_eq!((reported.revision, reported.durability()), (3, Durability::Volatile));
    }
    for number in 5..HELD {
        assert_eq!(create(&mut client, &format!("held-{number}")).await.durability(), Durability::Volatile);
    }
    let full = client.create_job(new_job("one-more")).await.expect_err("there is no room");
    assert_eq!((full.code(), reason(&full).as_str()), (Code::ResourceExhausted, "MEMORY_FULL"));
    assert!(full.get_details_retry_info().is_some(), "{full:?}");
    // Known jobs can be changed.
    assert_eq!(try_report(&mut client, "held-19").await.expect("it is taken").revision, 2);
    assert_eq!(job(&mut client, "held-0").await.revision, 3);
    let stats = stats(&mut server.admin().await).await;
    assert_eq!((stats.dirty_jobs, stats.jobs_in_memory), (20, 20));

    empty(&redis).await;
    whole(&server).await;
    let mut elsewhere = other.client().await;
    for number in 0..HELD {
        let revision = if number < 5 { 3 } else { 1 + i64::from(number == 19) };
        assert_stored(&mut elsewhere, &format!("held-{number}"), revision).await;
    }
    create(&mut client, "one-more").await;
    server.stop().await;
    other.stop().await;
}

/// Redis answers reads as before.
#[tokio::test(flavor = "multi_thread")]
async fn full_redis_serves_reads() {
    let redis = Redis::start().await;
    let [server, other] = super::two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "held").await;
    create(&mut elsewhere, "elsewhere").await;
    try_report(&mut client, "held").await.expect("it is taken");
    fill(&redis).await;
    let reported = try_report(&mut client, "held").await.expect("it is taken");
    assert_eq!(reported.durability(), Durability::Volatile);
    degraded(&server).await;
    assert_eq!(job(&mut client, "elsewhere").await.revision, 1);
    assert_eq!(client.get_job(read("nowhere")).await.expect_err("there is none").code(), Code::NotFound);
    let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    assert_eq!(page.jobs.len(), 2);
    server.stop().await;
    other.stop().await;
}

/// No replica needs to have the job in memory for that.
#[tokio::test(flavor = "multi_thread")]
async fn full_redis_protects_taken_ids_and_lists_include_accepted_jobs() {
    let redis = Redis::start().await;
    let [server, other] = super::two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "held").await;
    // Accepting a change of this partition has shown that it is full.
    let partition = |name: &str| (RedisStore::PARTITIONING.of)(&id(name));
    let ids = (0..).map(|number| format!("elsewhere-{number}"));
    let other_id = ids.into_iter().find(|id| partition(id) == partition("held")).expect("one of many");
    create(&mut elsewhere, &other_id).await;
    try_report(&mut client, "held").await.expect("it is taken");
    fill(&redis).await;
    let reported = try_report(&mut client, "held").await.expect("it is taken");
    degraded(&server).await;
    let taken = client.create_job(new_job(&other_id)).await.expect_err("another replica made it");
    assert_eq!(taken.code(), Code::AlreadyExists, "{taken:?}");
    let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    let listed = page.jobs.iter().find(|job| job.id == "held").expect("it is listed");
    assert_eq!((listed.revision, listed.durability()), (reported.revision, Durability::Volatile));
    assert!(page.partial, "{page:?}");
    server.stop().await;
    other.stop().await;
}

/// Ends, expiries and deletions make room, although nothing else is accepted.
#[tokio::test(flavor = "multi_thread")]
async fn ends_expiries_and_deletions_free_a_full_redis() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { retention: millis(2000), ..new_job("brief") }).await;
    complete(&mut client, "brief").await;
    let mut stream = watch(&client, "brief").await;
    stream.expect(Event::Snapshot).await;
    fill(&redis).await;
    // A write makes the server notice.
    create(&mut client, "volatile").await;
    in_time("the expiry", async { while is_listed(&redis, "brief").await {} }).await;
    empty(&redis).await;
    whole(&server).await;
    assert_eq!(get(&mut client, "volatile").await.job.expect("a job").durability(), Durability::Durable);
    server.stop().await;
}
