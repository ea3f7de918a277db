//! A cancellation takes effect whatever the worker does.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{CancelJobRequest, CreateJobRequest, Job, Liveness, job::State};
use rstest::rstest;

use super::serve;
use crate::support::{
    Client,
    attempts::{beat, claim},
    create, new_job,
    replicas::in_time,
    watching::{cancel, make, millis, watch},
};

const LEASE_MILLIS: i64 = 2000;

fn leased(id: &str, fail_when_lost: bool) -> CreateJobRequest {
    CreateJobRequest { lease_timeout: millis(LEASE_MILLIS), fail_when_lost, ..new_job(id) }
}

async fn cancel_within(client: &mut Client, id: &str, grace: i64) -> Job {
    let request = CancelJobRequest { job_id: id.into(), grace: millis(grace), ..CancelJobRequest::default() };
    client.cancel_job(request).await.expect("it can be cancelled").into_inner().job.expect("a job")
}

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn job_of_a_lost_worker_is_cancelled_without_it(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    make(&mut client, leased("a", false)).await;
    claim(&mut client, "a", "dead").await;
    let mut stream = watch(&client, "a").await;
    in_time("the loss", stream.until(|seen| seen.job().liveness() == Liveness::Lost && seen.revision() == 3)).await;
    let asked = cancel(&mut client, "a", false).await;
    assert!(asked.cancel.is_some());
    if !with_redis {
        assert_eq!(asked.state(), State::Cancelled, "at once");
    }
    let seen = in_time("the end", stream.rest()).await;
    assert_eq!(seen.last().map(|seen| seen.job().state()), Some(State::Cancelled));
    server.stop().await;
}

/// Holds for a job that fails when its worker is lost, too.
#[rstest]
#[case::in_memory(false, false)]
#[case::in_memory_and_it_would_fail(false, true)]
#[case::with_redis(true, false)]
#[case::with_redis_and_it_would_fail(true, true)]
#[tokio::test]
async fn lease_that_runs_out_after_the_request_cancels(#[case] with_redis: bool, #[case] fail_when_lost: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    make(&mut client, leased("a", fail_when_lost)).await;
    claim(&mut client, "a", "dead").await;
    assert_eq!(cancel(&mut client, "a", false).await.state(), State::Running);
    let seen = in_time("the end", watch(&client, "a").await.rest()).await;
    let job = seen.last().expect("an event").job();
    assert_eq!((job.state(), &job.outcome), (State::Cancelled, &None));
    server.stop().await;
}

/// The worker continues to report, and never confirms.
#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn grace_ends_although_the_worker_reports(#[case] with_redis: bool) {
    const GRACE: Duration = Duration::from_millis(2500);
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    make(&mut client, leased("a", false)).await;
    let claimed = claim(&mut client, "a", "deaf").await;
    let (asked_at, asked) = (Instant::now(), cancel_within(&mut client, "a", 2500).await);
    let [forced, since] = [
        asked.cancel.as_ref().and_then(|cancel| cancel.force_time).expect("it has a grace"),
        asked.cancel.as_ref().and_then(|cancel| cancel.request_time).expect("it was asked for"),
    ]
    .map(|time| i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos));
    assert_eq!((asked.state(), forced - since), (State::Running, 2_500_000_000));
    let refused = in_time("the end", async {
        loop {
            match beat(&mut client, "a", &claimed.claim).await {
                Ok(answer) => assert!(answer.job.is_some_and(|job| job.cancel.is_some())),
                Err(status) => break status,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(asked_at.elapsed() >= GRACE, "it had {:?}", asked_at.elapsed());
    assert_eq!(crate::support::error_info(&refused).metadata["state"], "CANCELLED");
    server.stop().await;
}

#[tokio::test]
async fn grace_of_a_second_request_counts_where_the_first_had_none() {
    let server = serve(false, &[]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    claim(&mut client, "a", "deaf").await;
    let first = cancel(&mut client, "a", false).await;
    let second = cancel_within(&mut client, "a", 3_600_000).await;
    let time = |job: &Job| job.cancel.as_ref().map(|cancel| (cancel.request_time, cancel.force_time.is_some()));
    assert_eq!(time(&second), time(&first).map(|(request_time, _)| (request_time, true)));
    let third = cancel_within(&mut client, "a", 1000).await;
    assert_eq!(third.revision, second.revision, "and then no more");
    server.stop().await;
}
