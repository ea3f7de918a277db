//! A Redis that comes back with less data.

use jobtrack::proto::v1::{Event, ListJobsRequest, job::State};
use rstest::rstest;

use super::{assert_gone, assert_stored, job, two_on};
use crate::support::{
    Client, create,
    redis::Redis,
    replicas::{degraded, get, in_time, server_on, stats, whole},
    watching::{Watch, complete, delete, report, try_report, watch},
};

/// Saves a snapshot of Redis, and changes the jobs since.
async fn change_since_snapshot(redis: &Redis, client: &mut Client) -> Watch {
    for id in ["progressed", "ended", "deleted", "same"] {
        create(client, id).await;
    }
    redis.command(&["SAVE"]).await;
    let mut stream = watch(client, "progressed").await;
    stream.expect(Event::Snapshot).await;
    for revision in 2..=5 {
        assert_eq!(report(client, "progressed").await.revision, revision);
    }
    stream.until(|seen| seen.revision() == 5).await;
    complete(client, "ended").await;
    delete(client, "deleted").await;
    create(client, "new").await;
    stream
}

async fn assert_restored(client: &mut Client) {
    for (id, revision) in [("progressed", 5), ("ended", 2), ("same", 1), ("new", 1)] {
        assert_stored(client, id, revision).await;
    }
    assert_eq!(job(client, "ended").await.state(), State::Succeeded);
    assert_gone(client, "deleted").await;
}

/// Nothing was changed during the outage: clean cached jobs are pushed, too.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_snapshot_is_brought_up_to_date() {
    let mut redis = Redis::start().await;
    let [server, other] = two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    let mut stream = change_since_snapshot(&redis, &mut client).await;
    redis.kill();
    degraded(&server).await;
    degraded(&other).await;
    redis.restart().await;
    whole(&server).await;
    whole(&other).await;
    for client in [&mut client, &mut elsewhere] {
        assert_restored(client).await;
    }
    assert_eq!(report(&mut elsewhere, "progressed").await.revision, 6);
    assert_eq!(stream.update().await.revision, 6);
    server.stop().await;
    other.stop().await;
}

/// The first call after the restart.
#[derive(Clone, Copy)]
enum First {
    Get,
    Report,
    List,
    Stats,
}

/// The restart is over before anybody notices it.
#[rstest]
#[case::get(First::Get)]
#[case::report(First::Report)]
#[case::list(First::List)]
#[case::stats(First::Stats)]
#[tokio::test(flavor = "multi_thread")]
async fn quick_restart_from_an_old_snapshot_is_noticed(#[case] first: First) {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    whole(&server).await;
    let mut stream = change_since_snapshot(&redis, &mut client).await;
    redis.restart().await;
    match first {
        First::Get => assert_eq!(job(&mut client, "progressed").await.revision, 5),
        First::Report => assert_eq!(try_report(&mut client, "progressed").await.expect("it is taken").revision, 6),
        First::List => _ = client.list_jobs(ListJobsRequest::default()).await,
        First::Stats => _ = stats(&mut admin).await,
    }
    if matches!(first, First::Report) {
        assert_eq!(stream.update().await.revision, 6);
        in_time("the reconciliation", async { while stats(&mut admin).await.dirty_jobs > 0 {} }).await;
        return;
    }
    assert_eq!(job(&mut client, "progressed").await.revision, 5, "it went back");
    in_time("the reconciliation", async { while stats(&mut admin).await.last_reconciliation.is_none() {} }).await;
    whole(&server).await;
    assert_restored(&mut client).await;
    server.stop().await;
}

/// One replica deletes a job while Redis is unavailable, another has it in its memory; Redis comes back empty.
#[tokio::test(flavor = "multi_thread")]
async fn deletion_survives_an_empty_redis() {
    let mut redis = Redis::start().await;
    let [server, other] = two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["before", "during", "kept"] {
        create(&mut client, id).await;
        get(&mut elsewhere, id).await;
    }
    delete(&mut client, "before").await;
    redis.kill();
    degraded(&server).await;
    degraded(&other).await;
    delete(&mut client, "during").await;
    redis.restart_empty().await;
    whole(&server).await;
    whole(&other).await;
    let third = server_on(&redis).await;
    for server in [&server, &other, &third] {
        let client = &mut server.client().await;
        assert_gone(client, "before").await;
        assert_gone(client, "during").await;
        assert_stored(client, "kept", 1).await;
    }
    // Its revisions continue.
    assert_eq!(create(&mut elsewhere, "during").await.revision, 3);
    for server in [server, other, third] {
        server.stop().await;
    }
}

/// Replicas have different jobs in memory; each restores its own.
#[tokio::test(flavor = "multi_thread")]
async fn empty_redis_gets_the_jobs_of_each_replica() {
    const JOBS: usize = 50;
    let mut redis = Redis::start().await;
    let [server, other] = two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for number in 0..JOBS {
        create(&mut client, &format!("a{number}")).await;
        create(&mut elsewhere, &format!("b{number}")).await;
        create(&mut client, &format!("both{number}")).await;
        report(&mut elsewhere, &format!("both{number}")).await;
    }
    redis.restart_empty().await;
    degraded(&server).await;
    degraded(&other).await;
    whole(&server).await;
    whole(&other).await;
    for number in 0..JOBS {
        for (id, revision) in [("a", 1), ("b", 1), ("both", 2)] {
            for client in [&mut client, &mut elsewhere] {
                assert_stored(client, &format!("{id}{number}"), revision).await;
            }
        }
    }
    server.stop().await;
    other.stop().await;
}
