//! Jobs that no worker starts, and the defaults for jobs without timeouts.

use jobtrack::proto::v1::{
    CreateJobRequest, Job, Liveness,
    job::{Outcome, State},
};
use prost_types::Duration;
use rstest::rstest;

use super::serve;
use crate::support::{
    attempts::{claim, retry},
    create, new_job,
    replicas::in_time,
    watching::{make, millis, watch},
};

const START_MILLIS: i64 = 1500;

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn job_that_no_worker_starts_is_lost_until_one_does(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    let made = make(&mut client, CreateJobRequest { start_timeout: millis(START_MILLIS), ..new_job("a") }).await;
    assert_eq!((made.liveness(), made.start_timeout), (Liveness::Unspecified, millis(START_MILLIS)));
    assert!(made.start_expire_time.is_some() && made.lease_expire_time.is_none());
    let mut stream = watch(&client, "a").await;
    in_time("the loss", stream.until(|seen| seen.job().liveness() == Liveness::Lost && seen.revision() == 2)).await;
    let started = claim(&mut client, "a", "w").await;
    assert_eq!((started.job.liveness(), started.job.start_expire_time), (Liveness::Unspecified, None));
    // After a retry the job waits again.
    let waiting = retry(&mut client, "a", &started.claim, "AGAIN").await.expect("it runs");
    assert!(waiting.start_expire_time.is_some());
    in_time("the loss", stream.until(|seen| seen.job().liveness() == Liveness::Lost && seen.revision() == 5)).await;
    server.stop().await;
}

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn job_that_no_worker_starts_fails_if_it_is_to_fail(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    let request = CreateJobRequest { start_timeout: millis(START_MILLIS), fail_when_lost: true, ..new_job("a") };
    make(&mut client, request).await;
    let mut stream = watch(&client, "a").await;
    let seen = in_time("the failure", stream.rest()).await;
    let job = seen.last().expect("an event").job();
    let Some(Outcome::Failure(failure)) = &job.outcome else { panic!("it failed: {job:?}") };
    assert_eq!((job.state(), failure.reason.as_str(), failure.code), (State::Failed, "NOT_STARTED", Some(4)));
    assert_eq!((job.start_time, job.attempts.len()), (None, 0));
    server.stop().await;
}

#[tokio::test]
async fn defaults_are_for_jobs_that_name_no_time() {
    let server = serve(false, &["--default-lease", "90s", "--default-start-timeout", "2m"]).await;
    let mut client = server.client().await;
    let seconds = |seconds| Some(Duration { seconds, nanos: 0 });
    let times = |job: &Job| (job.lease_timeout, job.start_timeout);
    assert_eq!(times(&create(&mut client, "plain").await), (seconds(90), seconds(120)));
    let own = CreateJobRequest { lease_timeout: seconds(5), start_timeout: seconds(6), ..new_job("own") };
    assert_eq!(times(&make(&mut client, own).await), (seconds(5), seconds(6)));
    let none = CreateJobRequest { lease_timeout: seconds(0), start_timeout: seconds(0), ..new_job("none") };
    assert_eq!(times(&make(&mut client, none).await), (None, None));
    server.stop().await;
}
