//! Attempts over the wire, in memory and with Redis.

use jobtrack::proto::{
    EncodedStruct,
    v1::{CompleteJobRequest, CreateJobRequest, GetJobRequest, Job, Liveness, UpdateProgressRequest, View, job::State},
};
use prost_types::{Struct, Value, value::Kind};
use rstest::rstest;
use tonic::{Code, Status};

use super::serve;
use crate::support::{
    Client,
    attempts::{beat, by, claim, failed, retry, start},
    create, error_info, new_job,
    replicas::{Pair, in_time},
    violations,
    watching::{delete, make, millis, report, watch},
};

fn refused<T>(outcome: Result<T, Status>) -> (Code, String) {
    let status = outcome.err().expect("it is refused");
    (status.code(), error_info(&status).reason)
}

fn precondition(reason: &str) -> (Code, String) {
    (Code::FailedPrecondition, reason.to_owned())
}

async fn complete_as(client: &mut Client, id: &str, claim: &str) -> Result<Job, Status> {
    let request = CompleteJobRequest { job_id: id.into(), claim: claim.into(), ..CompleteJobRequest::default() };
    Ok(client.complete_job(request).await?.into_inner().job.expect("a job"))
}

fn history(job: &Job) -> Vec<(i32, &str, bool)> {
    job.attempts.iter().map(|one| (one.number, one.worker.as_str(), one.failure.is_some())).collect()
}

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn second_worker_is_told_who_runs_the_job(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { lease_timeout: millis(3_600_000), ..new_job("a") }).await;
    let first = claim(&mut client, "a", "one").await;
    assert_eq!((first.job.state(), first.job.attempt, first.job.worker.as_str()), (State::Running, 1, "one"));
    assert!((1..=128).contains(&first.claim.len()) && first.job.liveness() == Liveness::Live);

    let status = start(&mut client, by("a", "two")).await.err().expect("it runs");
    let info = error_info(&status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::FailedPrecondition, "ATTEMPT_RUNNING"));
    let told = ["job_id", "state", "attempt", "worker"].map(|key| info.metadata[key].as_str());
    assert_eq!(told, ["a", "RUNNING", "1", "one"]);
    assert!(info.metadata["lease_expire_time"].ends_with('Z'), "{info:?}");

    let mut taking = by("a", "two");
    taking.takeover = true;
    let second = start(&mut client, taking).await.unwrap_or_else(|status| panic!("{status:?}"));
    assert_eq!(history(&second.job), [(1, "one", false), (2, "two", false)]);
    for outcome in [
        beat(&mut client, "a", &first.claim).await.map(drop),
        complete_as(&mut client, "a", &first.claim).await.map(drop),
    ] {
        assert_eq!(refused(outcome), precondition("STALE_ATTEMPT"));
    }
    assert!(beat(&mut client, "a", &second.claim).await.expect("it runs").applied);
    let done = complete_as(&mut client, "a", &second.claim).await.expect("it runs");
    assert_eq!((done.state(), done.attempts.len()), (State::Succeeded, 2));
    assert!(done.attempts.iter().all(|attempt| attempt.start_time.is_some() && attempt.end_time.is_some()));
    assert_eq!(refused(start(&mut client, by("a", "three")).await), precondition("JOB_FINISHED"));
    server.stop().await;
}

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn claim_may_be_requested_again_after_a_lost_answer(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let request = || {
        let mut request = by("a", "w");
        request.request_id = "r-1".into();
        request
    };
    let first = start(&mut client, request()).await.unwrap_or_else(|status| panic!("{status:?}"));
    report(&mut client, "a").await;
    let again = start(&mut client, request()).await.unwrap_or_else(|status| panic!("{status:?}"));
    assert_eq!((again.claim == first.claim, again.job.attempt, again.job.revision), (true, 1, 3));
    retry(&mut client, "a", &first.claim, "AGAIN").await.expect("it runs");
    assert_eq!(refused(start(&mut client, request()).await), precondition("STALE_ATTEMPT"));
    server.stop().await;
}

#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn failure_with_retry_leaves_the_job_to_the_next_worker(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch(&client, "a").await;
    let first = claim(&mut client, "a", "one").await;
    let progress = Some(jobtrack::proto::v1::Progress { percent: Some(70.0), ..Default::default() });
    let request = UpdateProgressRequest {
        job_id: "a".into(),
        claim: first.claim.clone(),
        progress,
        ..UpdateProgressRequest::default()
    };
    client.update_progress(request).await.expect("it runs");

    let mut request = failed("a", &first.claim, "OUT_OF_DISK");
    let text = Value { kind: Some(Kind::StringValue("df".into())) };
    let details = EncodedStruct::from(Struct { fields: [("command".to_owned(), text)].into() });
    request.failure.as_mut().expect("it has one").details = Some(details.clone());
    let waiting = client.fail_job(request.clone()).await.expect("it runs").into_inner().job.expect("a job");
    let percent = waiting.progress.as_ref().and_then(|progress| progress.percent);
    assert_eq!((waiting.state(), waiting.attempt, percent), (State::Pending, 1, Some(70.0)));
    let last = waiting.last_failure.clone().expect("it failed");
    assert_eq!((last.reason.as_str(), last.message.as_str()), ("OUT_OF_DISK", "OUT_OF_DISK!"));
    assert_eq!(last.details, Some(details));
    assert_eq!(history(&waiting), [(1, "one", true)]);
    let again = client.fail_job(request).await.expect("it is repeated").into_inner().job.expect("a job");
    assert_eq!(again.revision, waiting.revision);

    let read = GetJobRequest { job_id: "a".into(), view: View::Basic.into(), ..GetJobRequest::default() };
    let basic = client.get_job(read).await.expect("it is there").into_inner().job.expect("a job");
    assert_eq!(basic.last_failure.map(|last| (last.reason, last.details)), Some(("OUT_OF_DISK".into(), None)));

    let second = claim(&mut client, "a", "two").await;
    let percent = second.job.progress.as_ref().and_then(|progress| progress.percent);
    assert_eq!((second.job.attempt, percent, second.job.last_failure.is_some()), (2, None, true));
    complete_as(&mut client, "a", &second.claim).await.expect("it runs");
    // The stream continues after the failed attempt.
    let seen = in_time("the end", stream.rest()).await;
    let states: Vec<_> = seen.iter().map(|seen| (seen.job().state(), seen.job().attempt)).collect();
    assert_eq!(states.last(), Some(&(State::Succeeded, 2)), "{states:?}");
    server.stop().await;
}

/// A worker that outlives its job does not affect the next job under the id.
#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn worker_of_a_deleted_job_does_not_report_on_the_next_one(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let old = claim(&mut client, "a", "old").await;
    delete(&mut client, "a").await;
    create(&mut client, "a").await;
    assert_eq!(refused(beat(&mut client, "a", &old.claim).await), precondition("STALE_ATTEMPT"));
    let new = claim(&mut client, "a", "new").await;
    assert_ne!(new.claim, old.claim);
    assert_eq!(refused(complete_as(&mut client, "a", &old.claim).await), precondition("STALE_ATTEMPT"));
    assert!(beat(&mut client, "a", &new.claim).await.expect("it runs").applied);
    server.stop().await;
}

#[tokio::test]
async fn bad_fields_of_a_claim_are_named() {
    let server = serve(false, &[]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let long = "x".repeat(129);
    let mut request = by("no id!", &long);
    request.request_id.clone_from(&long);
    request.lease_timeout = millis(-1000);
    let status = start(&mut client, request).await.err().expect("it is refused");
    let mut named: Vec<_> = violations(&status).into_keys().collect();
    named.sort();
    assert_eq!(named, ["job_id", "lease_timeout", "request_id", "worker"]);
    let status = beat(&mut client, "a", &long).await.expect_err("it is too long");
    assert_eq!(violations(&status).into_keys().collect::<Vec<_>>(), ["claim"]);
    let status = retry(&mut client, "a", &long, "R").await.expect_err("it is too long");
    assert_eq!(violations(&status).into_keys().collect::<Vec<_>>(), ["claim"]);
    assert_eq!(refused(beat(&mut client, "a", "of nobody").await), precondition("STALE_ATTEMPT"));
    assert_eq!(refused(start(&mut client, by("missing", "w")).await), (Code::NotFound, "JOB_NOT_FOUND".into()));
    server.stop().await;
}

/// Many workers on two replicas repeatedly claim the same job at once.
#[tokio::test(flavor = "multi_thread")]
async fn each_attempt_has_one_worker() {
    const WORKERS: usize = 12;
    let pair = Pair::start(&[]).await;
    let (mut a, b) = pair.clients().await;
    create(&mut a, "a").await;
    for attempt in 1..=8 {
        let race = (0..WORKERS).map(|number| {
            let mut client = if number % 2 == 0 { a.clone() } else { b.clone() };
            tokio::spawn(async move { start(&mut client, by("a", &format!("w{number}"))).await })
        });
        let mut won = Vec::new();
        for worker in race.collect::<Vec<_>>() {
            match worker.await.expect("no worker panics") {
                Ok(claimed) => won.push(claimed),
                Err(status) => assert_eq!(error_info(&status).reason, "ATTEMPT_RUNNING", "{status:?}"),
            }
        }
        let [winner] = &won[..] else { panic!("{} won", won.len()) };
        assert_eq!(winner.job.attempt, attempt);
        retry(&mut a, "a", &winner.claim, "AGAIN").await.expect("its claim holds at both");
    }
    pair.stop().await;
}

/// The worker is dead: the next one gets the job after the end of the lease, and not before.
#[rstest]
#[case::in_memory(false)]
#[case::with_redis(true)]
#[tokio::test]
async fn job_of_a_lost_worker_can_be_claimed(#[case] with_redis: bool) {
    let server = serve(with_redis, &[]).await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { lease_timeout: millis(2000), ..new_job("a") }).await;
    let first = claim(&mut client, "a", "dead").await;
    let claimed_at = std::time::Instant::now();
    let second = in_time("the next attempt", async {
        loop {
            match start(&mut client, by("a", "next")).await {
                Ok(claimed) => break claimed,
                Err(status) => assert_eq!(error_info(&status).reason, "ATTEMPT_RUNNING", "{status:?}"),
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    })
    .await;
    assert!(claimed_at.elapsed().as_millis() >= 2000, "its lease held until then");
    assert_eq!(history(&second.job), [(1, "dead", false), (2, "next", false)]);
    assert_eq!(refused(beat(&mut client, "a", &first.claim).await), precondition("STALE_ATTEMPT"));
    server.stop().await;
}
