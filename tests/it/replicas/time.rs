//! Time-driven decisions that several servers with different clocks could make.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    clock::{Clock, SystemClock},
    domain::Timestamp,
    proto::v1::{
        CreateJobRequest, Event, GetJobRequest, Job, Liveness, Removal, WatchJobsRequest,
        job::{Outcome, State},
    },
};
use prost_types::Timestamp as WireTime;
use rstest::rstest;

use crate::support::{
    Server,
    clocks::WrongClock,
    create, new_job,
    replicas::{Pair, part_of_shared_redis, read, under_lease, until_lost},
    watching::{complete, make, millis, report, watch, watch_jobs},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_expires_once_although_both_sweep() {
    const JOBS: usize = 20;
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    let mut streams =
        [watch_jobs(&a, WatchJobsRequest::default()).await, watch_jobs(&b, WatchJobsRequest::default()).await];
    for stream in &mut streams {
        stream.until_bookmark().await;
    }
    for number in 0..JOBS {
        let client = if number % 2 == 0 { &mut a } else { &mut b };
        let id = format!("j{number}");
        make(client, CreateJobRequest { retention: millis(1000), ..new_job(&id) }).await;
        complete(client, &id).await;
    }
    for (stream, client) in streams.iter_mut().zip([&mut a, &mut b]) {
        let mut removed = Vec::new();
        while removed.len() < JOBS {
            removed.extend(Some(stream.next().await).filter(|seen| seen.event == Event::Removed));
        }
        assert!(removed.iter().all(|seen| seen.removal == Removal::Expired && seen.revision() == 3), "{removed:?}");
        // The laws of all streams exclude that one of them comes again.
        let fence = create(client, &format!("fence-{}", uuid::Uuid::new_v4())).await.id;
        let rest = stream.until_job(&fence).await;
        assert!(rest.iter().all(|seen| seen.event != Event::Removed), "{rest:?}");
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_worker_is_sent_once_on_both_replicas() {
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    create(&mut a, "a").await;
    let mut streams = [watch(&a, "a").await, watch(&b, "a").await];
    a.update_progress(under_lease("a", 1000)).await.expect("a report");
    for stream in &mut streams {
        let lost = until_lost(stream, "a").await;
        assert_eq!((lost.brief(), lost.state()), ((Event::Update, "a", 3), State::Running));
    }
    // The next report makes the worker live again, in the next revision: it was lost once.
    let live = report(&mut b, "a").await;
    assert_eq!((live.revision, live.liveness()), (4, Liveness::Live));
    for stream in &mut streams {
        assert_eq!(stream.update().await, live);
    }
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_fails_once_with_its_worker() {
    let pair = Pair::start(&[]).await;
    let (mut a, b) = pair.clients().await;
    make(&mut a, CreateJobRequest { fail_when_lost: true, ..new_job("a") }).await;
    let mut streams = [watch(&a, "a").await, watch(&b, "a").await];
    a.update_progress(under_lease("a", 1000)).await.expect("a report");
    let mut ends = Vec::new();
    for stream in &mut streams {
        ends.extend(stream.rest().await.pop());
    }
    for end in &ends {
        assert_eq!((end.brief(), end.state()), ((Event::Update, "a", 3), State::Failed));
        let Some(Outcome::Failure(failure)) = &end.job().outcome else { panic!("no failure in {end:?}") };
        assert_eq!(failure.reason, "WORKER_LOST");
    }
    assert_eq!(ends.len(), 2);
    pair.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_worker_is_sent_although_its_server_is_gone() {
    let Pair { a, b } = Pair::start(&[]).await;
    let (mut client, watching) = (a.client().await, b.client().await);
    create(&mut client, "lost").await;
    make(&mut client, CreateJobRequest { fail_when_lost: true, ..new_job("failed") }).await;
    let (mut lost, mut failed) = (watch(&watching, "lost").await, watch(&watching, "failed").await);
    for id in ["lost", "failed"] {
        client.update_progress(under_lease(id, 2000)).await.expect("a report");
    }
    let mut stats = b.admin().await;
    a.stop().await;
    assert_eq!(until_lost(&mut lost, "lost").await.revision(), 3);
    let end = failed.rest().await.pop().expect("an end");
    assert_eq!((end.brief(), end.state()), ((Event::Update, "failed", 3), State::Failed));
    let stats = stats.get_stats(jobtrack::proto::v1::GetStatsRequest {}).await.expect("it answers").into_inner();
    assert_eq!(stats.jobs_in_redis, Some(2));
    b.stop().await;
}

/// Returns the seconds between two times, in either order.
fn apart(one: Option<&WireTime>, other: Option<&WireTime>) -> u64 {
    one.expect("a time").seconds.abs_diff(other.expect("a time").seconds)
}

/// Fails unless all times of the job are close to the present.
fn assert_timely(job: &Job) {
    let now = SystemClock.now().as_micros() / 1_000_000;
    let now = Some(WireTime { seconds: now, nanos: 0 });
    for time in [&job.create_time, &job.update_time, &job.start_time, &job.end_time, &job.lease_expire_time] {
        assert!(time.is_none() || apart(time.as_ref(), now.as_ref()) < 10, "{job:?}");
    }
}

#[rstest]
#[case::ahead(3600)]
#[case::behind(-3600)]
#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_clock_does_no_harm(#[case] off: i64) {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let right = Server::with(&flags).await;
    let wrong = Server::with_clock(&flags, Arc::new(WrongClock(off))).await;
    let clients = [right.client().await, wrong.client().await];
    for (number, (mut one, mut other)) in
        [(clients[0].clone(), clients[1].clone()), (clients[1].clone(), clients[0].clone())].into_iter().enumerate()
    {
        let id = format!("j{number}");
        assert_timely(&create(&mut one, &id).await);
        let mut streams = [watch(&one, &id).await, watch(&other, &id).await];
        let running = other.update_progress(under_lease(&id, 3000)).await.expect("a report").into_inner();
        let running = running.job.expect("a job");
        assert_timely(&running);
        for client in [&mut one, &mut other] {
            // Only the server that received the report knows of it at once.
            let request = GetJobRequest { min_revision: Some(2), ..read(&id) };
            let read = client.get_job(request).await.expect("it is there").into_inner().job.expect("a job");
            assert_eq!((read.revision, read.liveness()), (2, Liveness::Live));
        }
        for stream in &mut streams {
            let lost = until_lost(stream, &id).await;
            assert_eq!(lost.revision(), 3);
            let expired = lost.job().lease_expire_time.as_ref().expect("it ran out");
            let now = SystemClock.now();
            let expired = Timestamp::from_micros(expired.seconds * 1_000_000);
            assert!(now.since(expired) < Duration::from_secs(10), "{lost:?}");
        }
        let ended = complete(&mut one, &id).await;
        assert_timely(&ended);
        assert!(apart(ended.create_time.as_ref(), ended.update_time.as_ref()) < 20, "{ended:?}");
    }
    right.stop().await;
    wrong.stop().await;
}
