//! Signals: SIGHUP reloads files, and a second SIGTERM or SIGINT ends a drain at once.

use std::time::{Duration, Instant};

use rstest::rstest;
use serde_json::json;
use tonic::Code;

use crate::support::{
    create,
    credentials::{Folder, bearer, holder, identities},
    process::{Process, count_left},
    raw::Raw,
    redis::Redis,
    replicas::read,
};

/// Shorter than a complete drain and flush, and far longer than the end of a process takes.
const SOON: Duration = Duration::from_secs(15);

async fn wait(process: Process) -> (Option<i32>, String) {
    let (status, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    (status.code(), log)
}

#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_files_again_and_ends_nothing() {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("ann", "reader", &json!("*"))]));
    let process = Process::start(&["--auth-tokens", &file]);
    let mut client = process.client().await;
    let both = [holder("ann", "reader", &json!("*")), holder("bob", "reader", &json!("*"))];
    folder.write("identities.json", &identities(&both));
    process.signal("HUP");
    process.logged(&["INFO", "jobtrack::audit", "SIGHUP"]).await;
    process.logged(&["INFO", "jobtrack::audit", "reloaded", "identities.json"]).await;
    let status = client.get_job(bearer("bob", read("missing"))).await.expect_err("there is no such job");
    assert_eq!(status.code(), Code::NotFound);
    process.signal("HUP");
    process.signal("TERM");
    let (code, log) = wait(process).await;
    assert_eq!(code, Some(0), "{log}");
}

#[rstest]
#[case("TERM", "TERM")]
#[case("INT", "INT")]
#[case("TERM", "INT")]
#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_a_drain(#[case] first: &str, #[case] second: &str) {
    let process = Process::start(&[]);
    // A call whose request never ends delays the drain.
    let raw = Raw::connect(process.address).await;
    let _held = raw.open("JobService/CreateJob", &[("grpc-timeout", "1H")]).await;
    create(&mut process.client().await, "a").await;
    process.signal(first);
    process.logged(&["draining"]).await;
    let begun = Instant::now();
    process.signal(second);
    let (code, log) = wait(process).await;
    assert!(begun.elapsed() < SOON, "{log}");
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("WARN") && log.contains("drain aborted") && log.contains("stopped"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_second_signal_ends_a_flush_and_names_the_jobs_that_are_left() {
    let mut redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url()]);
    process.logged(&["Redis serves"]).await;
    redis.kill();
    process.logged(&["Redis is unavailable"]).await;
    create(&mut process.client().await, "dirty").await;
    process.signal("TERM");
    process.logged(&["draining"]).await;
    let begun = Instant::now();
    process.signal("TERM");
    let (code, log) = wait(process).await;
    assert!(begun.elapsed() < SOON, "{log}");
    assert_eq!((code, count_left(&log)), (Some(1), Some(1)), "{log}");
    assert!(log.contains("jobs=\"dirty\"") && log.contains("error: changes of 1 jobs"), "{log}");
}
