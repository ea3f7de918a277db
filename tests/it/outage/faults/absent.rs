//! A Redis that runs and does not serve: it is killed, loads its data, follows another server, or rejects the login.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Durability, Event, StorageMode, reconciled_job::Outcome};
use rstest::rstest;
use tokio::join;
use tonic::Code;
use tonic_health::ServingStatus::{NotServing, Serving};

use super::{assert_stored, job, soon, told};
use crate::support::{
    Client, Server, create, new_job,
    redis::{Redis, ask},
    replicas::{Health, assert_away, degraded, read, server_on, stats, whole},
    watching::{try_report, watch},
};

/// Number of jobs with which the start of Redis takes seconds, with [`SLOW_LOADING`].
const LOADED: usize = 300;

/// Loading takes 5 ms per key, during which Redis answers that it is loading.
const SLOW_LOADING: [&str; 4] = ["--key-load-delay", "5000", "--loading-process-events-interval-bytes", "1024"];

/// Fails unless cached jobs are served and changed, new ones are accepted, and all others are unavailable, each within
/// the limit.
async fn assert_made_up_for(what: &str, client: &mut Client, new: &str) -> i64 {
    let reported = soon(what, try_report(client, "held")).await.expect("it is taken");
    assert_eq!(reported.durability(), Durability::Volatile, "{what}");
    assert_eq!(soon(what, job(client, "held")).await.revision, reported.revision, "{what}");
    let made = soon(what, client.create_job(new_job(new))).await.expect("it is taken").into_inner().job;
    assert_eq!(made.expect("a job").durability(), Durability::Volatile, "{what}");
    assert_away(what, &soon(what, client.get_job(read("elsewhere"))).await.expect_err("it is not held"));
    reported.revision
}

#[rstest]
#[case::at_rest(false)]
#[case::called(true)]
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_redis_is_noticed_within_a_second(#[case] called: bool) {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "held").await;
    whole(&server).await;
    let mut health = Health::watch(&server, "redis").await;
    redis.kill();
    let killed = Instant::now();
    if called {
        assert_made_up_for("killed", &mut client, "new").await;
    }
    health.until(NotServing).await;
    println!("noticed after {:?}", killed.elapsed());
    assert!(killed.elapsed() < Duration::from_secs(1), "{:?}", killed.elapsed());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn loading_redis_counts_as_unavailable() {
    let mut redis = Redis::with(&SLOW_LOADING).await;
    let [server, other] = super::two_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "held").await;
    create(&mut other.client().await, "elsewhere").await;
    for number in 0..LOADED {
        redis.command(&["SET", &format!("other:{number}"), &"x".repeat(1000)]).await;
    }
    redis.command(&["SAVE"]).await;
    redis.kill();
    let begun = Instant::now();
    let url = redis.url();
    let loading = async {
        redis.restart().await;
        begun.elapsed()
    };
    let calls = async {
        let probe = redis::Client::open(url).expect("a valid address");
        let (mut seen, mut revision) = (0, 1);
        while begun.elapsed() < Duration::from_secs(1) || seen == 0 {
            if let Err(error) = ask(&probe, &["GET", "x"]).await
                && error.code() == Some("LOADING")
            {
                seen += 1;
                revision = assert_made_up_for("loading", &mut client, &format!("new-{seen}")).await;
            }
        }
        (seen, revision)
    };
    let (took, (seen, revision)) = join!(loading, calls);
    println!("Redis loaded for {took:?}; {seen} times it said so");
    whole(&server).await;
    whole(&other).await;
    let mut elsewhere = other.client().await;
    assert_stored(&mut elsewhere, "held", revision).await;
    assert_stored(&mut elsewhere, &format!("new-{seen}"), 1).await;
    server.stop().await;
    other.stop().await;
}

#[rstest]
#[case::readonly("yes")]
#[case::masterdown("no")]
#[tokio::test(flavor = "multi_thread")]
async fn redis_that_follows_another_counts_as_unavailable(#[case] serves_stale_data: &str) {
    let redis = Redis::start().await;
    let [server, other] = super::two_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "held").await;
    create(&mut other.client().await, "elsewhere").await;
    let mut stream = watch(&client, "held").await;
    stream.expect(Event::Snapshot).await;
    redis.command(&["CONFIG", "SET", "replica-serve-stale-data", serves_stale_data]).await;
    // No master answers at that address, so Redis keeps its data.
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    // Until the reason of a failed write is known, reads are answered by the replica server, which can answer them.
    let reported = soon("replica", try_report(&mut client, "held")).await.expect("it is taken");
    assert_eq!(reported.durability(), Durability::Volatile);
    assert_eq!(stream.update().await.revision, reported.revision);
    degraded(&server).await;
    let revision = assert_made_up_for("replica", &mut client, "new").await;
    assert_eq!(stats(&mut server.admin().await).await.storage_mode(), StorageMode::Degraded);
    assert_eq!(stream.update().await.revision, revision);
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    whole(&server).await;
    whole(&other).await;
    let mut elsewhere = other.client().await;
    assert_stored(&mut elsewhere, "held", revision).await;
    assert_stored(&mut elsewhere, "new", 1).await;
    server.stop().await;
    other.stop().await;
}

/// The password is changed at run time, and changed back.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_password_at_run_time_counts_as_unavailable() {
    let redis = Redis::start().await;
    let user = |password: &'static str| ["ACL", "SETUSER", "tracker", "reset", "on", password, "~*", "&*", "+@all"];
    redis.command(&user(">right")).await;
    let url = redis.url().replace("redis://", "redis://tracker:right@");
    let server = Server::with(&["--redis-url", &url]).await;
    let other = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "held").await;
    create(&mut other.client().await, "elsewhere").await;
    whole(&server).await;

    redis.command(&user(">other")).await;
    redis.command(&["CLIENT", "KILL", "USER", "tracker"]).await;
    let revision = assert_made_up_for("wrong password", &mut client, "new").await;
    degraded(&server).await;
    assert_eq!(Health::watch(&server, "").await.next().await, Serving as i32);

    redis.command(&user(">right")).await;
    whole(&server).await;
    whole(&other).await;
    let mut elsewhere = other.client().await;
    assert_stored(&mut elsewhere, "held", revision).await;
    assert_stored(&mut elsewhere, "new", 1).await;
    server.stop().await;
    other.stop().await;
}

/// A record that is damaged during the outage affects no other job, and the report names its outcome.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_record_does_not_stop_a_reconciliation() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    for id in ["broken", "held"] {
        create(&mut client, id).await;
    }
    redis.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    for id in ["broken", "held"] {
        let reported = try_report(&mut client, id).await.expect("it is taken");
        assert_eq!(reported.durability(), Durability::Volatile);
    }
    degraded(&server).await;
    redis.command(&["REPLICAOF", "NO", "ONE"]).await;
    for partition in 0..16 {
        let key = format!("job:{{{partition}}}:broken");
        if redis.command(&["EXISTS", &key]).await == redis::Value::Int(1) {
            redis.command(&["HSET", &key, "job", " c"]).await;
        }
    }
    whole(&server).await;
    let outcomes = told(&server, "broken").await;
    assert_stored(&mut client, "held", 2).await;
    if outcomes == [Outcome::Dropped] {
        let lost = client.get_job(read("broken")).await.expect_err("it is lost");
        assert_eq!(lost.code(), Code::DataLoss);
    } else {
        // The job was restored before its record was damaged.
        assert_eq!(outcomes, [Outcome::Merged]);
    }
    server.stop().await;
}
