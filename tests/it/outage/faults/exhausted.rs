//! A Redis that serves, behind connections that do not.

use futures_util::future::join_all;
use jobtrack::proto::v1::{Durability, StorageMode};
use tonic_health::ServingStatus::Serving;

use super::{job, soon};
use crate::support::{
    Client, Server, create,
    redis::Redis,
    relay::Relay,
    replicas::{Health, assert_away, get, in_time, read, server_on, stats, whole},
    watching::try_report,
};

/// Number of concurrent calls.
const CALLERS: usize = 64;

/// Starts a server with a single connection for calls.
async fn behind(relay: &Relay) -> Server {
    let server = Server::with(&["--redis-url", &relay.url(), "--redis-pool-size", "1"]).await;
    whole(&server).await;
    server
}

/// Fails unless the server's health has always been serving.
async fn assert_serves(server: &Server, link: &mut Health) {
    assert_eq!(stats(&mut server.admin().await).await.storage_mode(), StorageMode::Redis);
    assert_eq!(link.next().await, Serving as i32, "what health said first");
    assert_eq!(link.unread(), Vec::<i32>::new(), "health changed its mind");
}

/// All connections for calls hang.
#[tokio::test(flavor = "multi_thread")]
async fn exhausted_pool_delays_no_caller_while_redis_serves() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (server, other) = (behind(&relay).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "held").await;
    create(&mut elsewhere, "elsewhere").await;
    let mut link = Health::watch(&server, "redis").await;

    relay.set_aside("HMGET", usize::MAX);
    let ask = |mut client: Client| async move {
        let missed = soon("a job elsewhere", client.get_job(read("elsewhere"))).await;
        assert_away("get_job", &missed.expect_err("nobody can tell"));
    };
    join_all((0..CALLERS).map(|_| ask(client.clone()))).await;
    let held = soon("a job that is held", get(&mut client, "held")).await;
    assert_eq!(held.job.expect("a job").revision, 1);
    // Statistics use other connections than calls.
    assert_eq!(stats(&mut server.admin().await).await.jobs_in_redis, Some(2));

    relay.release();
    in_time("an answer", async { while client.get_job(read("elsewhere")).await.is_err() {} }).await;
    assert_serves(&server, &mut link).await;
    server.stop().await;
    other.stop().await;
}

/// The write may be carried out at any time, even after its job has changed.
#[tokio::test(flavor = "multi_thread")]
async fn unanswered_write_is_accepted_locally_while_redis_serves() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (server, other) = (behind(&relay).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    create(&mut client, "b").await;
    let mut link = Health::watch(&server, "redis").await;

    relay.set_aside("EVALSHA", 1);
    let unanswered = soon("a report", try_report(&mut client, "a")).await.expect("it is taken");
    assert_eq!((unanswered.revision, unanswered.durability()), (2, Durability::Volatile));
    // Other jobs are not affected.
    let report = try_report(&mut client, "b").await.expect("it is taken");
    assert_eq!((report.revision, report.durability()), (2, Durability::Durable));
    in_time("the report in Redis", async { while job(&mut elsewhere, "a").await.revision < 2 {} }).await;
    let next = try_report(&mut client, "a").await.expect("it is taken");
    assert_eq!(next.revision, 3);

    relay.release();
    in_time("all in Redis", async {
        while job(&mut elsewhere, "a").await.revision < 3 || stats(&mut server.admin().await).await.dirty_jobs > 0 {}
    })
    .await;
    assert_eq!(job(&mut client, "a").await.revision, 3, "a write that comes late does no harm");
    assert_serves(&server, &mut link).await;
    server.stop().await;
    other.stop().await;
}
