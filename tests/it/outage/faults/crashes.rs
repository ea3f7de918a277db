//! Our own processes crash, or have a wrong clock.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::{
    clock::{Clock, SystemClock},
    proto::v1::{Durability, Event, Job, Liveness, UpdateProgressRequest},
};
use rstest::rstest;

use super::{LIMIT, job};
use crate::support::{
    Client, Server,
    clocks::WrongClock,
    create,
    process::Process,
    reason,
    redis::Redis,
    replicas::{degraded, in_time, server_on, under_lease, whole},
    watching::{Watch, complete, report, resume, watch},
};

/// Number of open watches at the end.
const WATCHES: usize = 1000;

/// Opens watches of one job on some connections.
async fn watch_often(process: &Process, id: &str) -> Vec<Watch> {
    let mut streams = Vec::new();
    for _ in 0..10 {
        let client = process.client().await;
        let opened = join_all((0..WATCHES / 10).map(|_| async {
            let mut stream = watch(&client, id).await;
            stream.expect(Event::Snapshot).await;
            stream
        }));
        streams.extend(opened.await);
    }
    streams
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_of_a_killed_replica_go_on_at_the_other() {
    const CLIENTS: usize = 20;
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url()];
    let (killed, other) = (Process::start(&flags), Process::start(&flags));
    let (mut client, mut elsewhere) = (killed.client().await, other.client().await);
    let mut streams = Vec::new();
    for number in 0..CLIENTS {
        let id = format!("j{number}");
        create(&mut client, &id).await;
        let mut stream = watch(&client, &id).await;
        stream.expect(Event::Snapshot).await;
        let reported = report(&mut client, &id).await;
        assert_eq!(stream.update().await, reported);
        streams.push((id, stream));
    }
    let mut acknowledged = Vec::new();
    for (id, _) in &streams {
        acknowledged.push(report(&mut client, id).await);
    }
    killed.signal("KILL");
    for ((id, mut stream), acknowledged) in streams.into_iter().zip(acknowledged) {
        let mut last = None;
        while let Some(Ok(seen)) = stream.outcome().await {
            last = Some(seen);
        }
        let token = last.as_ref().map(|seen| seen.token.clone()).unwrap_or_default();
        let mut stream = resume(&elsewhere, &id, &token).await;
        let reported = report(&mut elsewhere, &id).await;
        assert_eq!((reported.revision, reported.durability()), (acknowledged.revision + 1, Durability::Durable));
        let events = stream.until(|seen| seen.job.as_ref() == Some(&reported)).await;
        assert!(events.iter().all(|seen| !seen.reset), "{events:?}");
        complete(&mut elsewhere, &id).await;
        stream.update().await;
        stream.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_watches_end_in_order_while_redis_is_unavailable() {
    let mut redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url()]);
    let mut client = process.client().await;
    create(&mut client, "a").await;
    let mut streams = watch_often(&process, "a").await;
    redis.kill();
    let reported = report(&mut client, "a").await;
    assert_eq!(reported.durability(), Durability::Volatile);
    for stream in &mut streams {
        assert_eq!(stream.update().await, reported);
    }
    let begun = Instant::now();
    process.signal("TERM");
    for stream in &mut streams {
        let end = in_time("the end", stream.outcome()).await.expect("an end that is told").expect_err("no event");
        assert_eq!(reason(&end), "SERVER_DRAINING");
    }
    let (status, log) = process.wait();
    println!("{WATCHES} watches ended, and the process, in {:?}", begun.elapsed());
    // The report is lost, and the log names it.
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(25));
    assert!(!log.contains("panicked"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_completes_while_redis_hangs() {
    let redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url()]);
    let mut client = process.client().await;
    create(&mut client, "a").await;
    redis.signal("STOP");
    let begun = Instant::now();
    assert_eq!(report(&mut client, "a").await.durability(), Durability::Volatile);
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());
    process.signal("TERM");
    let (status, log) = process.wait();
    redis.signal("CONT");
    println!("stopped in {:?}", begun.elapsed());
    // The report is lost, and the log names it.
    assert_eq!(status.code(), Some(1), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(25), "{:?}", begun.elapsed());
}

/// The process continues by Redis's clock, and its changes win where they are newer.
#[rstest]
#[case::ahead(3600)]
#[case::behind(-3600)]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_does_no_harm_while_redis_is_unavailable(#[case] off: i64) {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let right = server_on(&redis).await;
    let wrong = Server::with_clock(&["--redis-url", &redis.url()], Arc::new(WrongClock(off))).await;
    let (mut client, mut elsewhere) = (right.client().await, wrong.client().await);
    create(&mut elsewhere, "a").await;
    elsewhere.update_progress(under_lease("a", 60_000)).await.expect("a report");
    job(&mut client, "a").await;
    redis.kill();
    degraded(&right).await;
    degraded(&wrong).await;
    let timely = |job: &Job| {
        let now = SystemClock.now().as_micros() / 1_000_000;
        let updated = job.update_time.as_ref().expect("a time").seconds;
        assert!(updated.abs_diff(now) < 10, "{job:?}");
    };
    let here = report(&mut elsewhere, "a").await;
    timely(&here);
    assert_eq!(here.liveness(), Liveness::Live);
    timely(&create(&mut elsewhere, "new").await);
    // Two clocks never agree to the microsecond.
    let later = async |client: &mut Client| loop {
        let last = UpdateProgressRequest { worker: "the last".to_owned(), ..under_lease("a", 60_000) };
        let last = client.update_progress(last).await.expect("a report").into_inner().job.expect("a job");
        timely(&last);
        let [last, first] = [last, here.clone()].map(|job| job.update_time.expect("a time"));
        if (last.seconds, last.nanos) > (first.seconds, first.nanos) {
            return;
        }
    };
    in_time("a later time", later(&mut client)).await;
    redis.restart().await;
    whole(&right).await;
    whole(&wrong).await;
    for client in [&mut client, &mut elsewhere] {
        let job = job(client, "a").await;
        assert_eq!((job.worker.as_str(), job.liveness()), ("the last", Liveness::Live));
        timely(&job);
    }
    right.stop().await;
    wrong.stop().await;
}
