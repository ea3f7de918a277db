//! A Redis that answers nothing, or too late.

use std::{
    env,
    time::{Duration, Instant},
};

use tokio::{select, time::sleep};
use tonic_health::ServingStatus::{NotServing, Serving};

use super::{LIMIT, load::Load};
use crate::support::{
    Server,
    pace::scaled,
    process::Process,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{Health, whole},
};

/// Number of concurrent calls.
const CALLERS: usize = 64;

/// Returns the time for which Redis is stopped; `JOBTRACK_TEST_STOP_SECONDS` overrides it.
fn stop_time() -> Duration {
    let said = env::var("JOBTRACK_TEST_STOP_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(said.unwrap_or(6))
}

/// Uses the real binary: its memory, files and threads stay the same.
#[tokio::test(flavor = "multi_thread")]
async fn stopped_redis_delays_none_of_64_callers() {
    let redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url()]);
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(process.client().await);
    }
    let load = Load::start(&clients, CALLERS).await;
    let before = (process.resident(), process.files(), process.threads());

    redis.signal("STOP");
    load.go_on(stop_time()).await;
    let during = (process.resident(), process.files(), process.threads());
    redis.signal("CONT");
    let resumed = Instant::now();
    load.durable_since(resumed).await;
    println!("durable for all {:?} after SIGCONT", resumed.elapsed());
    let tally = load.stop(&mut clients[0]).await;
    let after = (process.resident(), process.files(), process.threads());

    println!("memory, files, threads: {before:?} before, {during:?} at the end of the stop, {after:?} after it");
    tally.assert_good("stopped Redis", scaled(LIMIT).await);
    assert!(tally.volatile > CALLERS, "nobody noticed");
    for (memory, files, threads) in [during, after] {
        assert!(memory < before.0 + (32 << 20), "memory grows");
        assert!(files <= before.1 + 16, "connections pile up");
        assert!(threads <= before.2 + 2, "threads pile up");
    }
}

/// Counts the health statuses until `end`.
async fn count_changes(server: &Server, end: impl Future<Output = ()>) -> [usize; 2] {
    let mut health = Health::watch(server, "redis").await;
    let mut counts = [0, 0];
    tokio::pin!(end);
    loop {
        select! {
            status = health.next() => {
                counts[0] += usize::from(status == NotServing as i32);
                counts[1] += usize::from(status == Serving as i32);
            }
            () = &mut end => return counts,
        }
    }
}

/// Puts callers behind a link that is bad for some seconds and then good again. Fails if the health flaps.
async fn assert_got_over(what: &str, link: Link) {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&["--redis-url", &relay.url()]).await;
    whole(&server).await;
    let mut client = server.client().await;
    let load = Load::start(&[client.clone()], 16).await;

    let bad = async {
        relay.set_all(link);
        sleep(Duration::from_secs(6)).await;
    };
    let counts = count_changes(&server, bad).await;
    relay.set_all(Link::Pass);
    let mended = Instant::now();
    load.durable_since(mended).await;
    println!("{what}: durable for all {:?} after the link is good again", mended.elapsed());
    let tally = load.stop(&mut client).await;
    tally.assert_good(what, scaled(LIMIT).await);
    assert!(tally.volatile > 0, "{what}: nobody noticed");
    // The first status is that of the beginning of the watch.
    assert_eq!(counts, [1, 1], "{what}: it flaps");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn black_hole_delays_no_caller() {
    assert_got_over("black hole", Link::Hole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_after_500_ms_do_not_flap_health() {
    assert_got_over("500 ms late", Link::Late(Duration::from_millis(500))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn network_delay_of_500_ms_does_not_flap_health() {
    assert_got_over("500 ms far", Link::Far(Duration::from_millis(250))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cut_connections_count_as_unavailable() {
    assert_got_over("cut", Link::Cut).await;
}
