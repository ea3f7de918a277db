//! Every error of the contract's error table, as a caller receives it, without any effect on the store.

mod calls;
mod fields;
mod limits;

use std::collections::HashMap;

use jobtrack::proto::v1::{
    self, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest, DeleteJobRequest,
    FailJobRequest, Failure, GetJobRequest, Job, ListJobsRequest, UpdateProgressRequest, View, WatchJobRequest,
    job::State,
};
use rstest::rstest;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::support::{
    Client, Server, create, error_info, new_job,
    raw::{Call, Raw, call},
};

/// A revision that no job of these tests has.
const OTHER: Option<i64> = Some(99);

fn report(id: &str, attempt: Option<i32>, expected_revision: Option<i64>) -> Call {
    let request = UpdateProgressRequest { job_id: id.into(), attempt, expected_revision, ..Default::default() };
    call("JobService/UpdateProgress", &request)
}

fn complete(id: &str, attempt: Option<i32>, expected_revision: Option<i64>) -> Call {
    let request = CompleteJobRequest { job_id: id.into(), attempt, expected_revision, ..Default::default() };
    call("JobService/CompleteJob", &request)
}

fn fail(id: &str, attempt: Option<i32>, expected_revision: Option<i64>) -> Call {
    let failure = Some(Failure { message: "it broke".into(), ..Default::default() });
    let request = FailJobRequest { job_id: id.into(), failure, attempt, expected_revision, ..Default::default() };
    call("JobService/FailJob", &request)
}

/// Of the three optional parts this call has only the first.
fn confirm(id: &str, attempt: Option<i32>, _: Option<i64>) -> Call {
    call("JobService/ConfirmCancel", &ConfirmCancelRequest { job_id: id.into(), attempt, ..Default::default() })
}

fn cancel(id: &str, _: Option<i32>, _: Option<i64>) -> Call {
    call("JobService/CancelJob", &CancelJobRequest { job_id: id.into(), ..Default::default() })
}

fn delete(id: &str, _: Option<i32>, _: Option<i64>) -> Call {
    call("JobService/DeleteJob", &DeleteJobRequest { job_id: id.into(), force: false })
}

fn get(id: &str, min_revision: Option<i64>) -> Call {
    call("JobService/GetJob", &GetJobRequest { job_id: id.into(), min_revision, ..GetJobRequest::default() })
}

/// Makes a call for a job, with an attempt and an expected revision if the method accepts them.
type Make = fn(&str, Option<i32>, Option<i64>) -> Call;

/// Creates a job in `state`, at attempt 2 unless it is PENDING.
async fn job_in(server: &Server, id: &str, state: State) -> Job {
    let mut client = server.client().await;
    create(&mut client, id).await;
    let raw = Raw::connect(server.address).await;
    let mut calls = vec![report(id, Some(2), None)];
    match state {
        State::Unspecified | State::Pending => calls.clear(),
        State::Running => {}
        State::Succeeded => calls.push(complete(id, None, None)),
        State::Failed => calls.push(fail(id, None, None)),
        State::Cancelled => calls.extend([cancel(id, None, None), confirm(id, None, None)]),
    }
    for call in calls {
        raw.call(&call).await.expect("the job can be brought to its state");
    }
    let job = read(&mut client, id).await;
    assert_eq!(job.state(), state);
    job
}

async fn read(client: &mut Client, id: &str) -> Job {
    let request = GetJobRequest { job_id: id.into(), ..GetJobRequest::default() };
    client.get_job(request).await.expect("the job is there").into_inner().job.expect("a job")
}

/// Returns all stored jobs.
async fn all_jobs(client: &mut Client) -> Vec<Job> {
    let request = ListJobsRequest { view: View::Full.into(), page_size: 1000, ..Default::default() };
    client.list_jobs(request).await.expect("jobs can be listed").into_inner().jobs
}

/// Fails unless `status` has this code, reason and job, in its details, too.
fn assert_refusal(status: &Status, code: Code, reason: &str, job: Option<&Job>, what: &str) {
    assert_eq!(status.code(), code, "{what}: {status:?}");
    let info = error_info(status);
    assert_eq!(info.reason, reason, "{what}");
    let details: tonic_types::pb::Status = prost::Message::decode(status.details()).expect("details of google.rpc");
    assert_eq!((details.code, details.message.as_str()), (code.into(), status.message()), "{what}");

    let Some(job) = job else { return };
    let state = job.state().as_str_name().trim_start_matches("STATE_").to_owned();
    let (attempt, revision) = (job.attempt.to_string(), job.revision.to_string());
    let known = [("job_id", job.id.clone()), ("state", state), ("attempt", attempt), ("revision", revision)];
    let expected: HashMap<_, _> = known.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let mut metadata = info.metadata;
    metadata.retain(|key, _| expected.contains_key(key));
    assert_eq!(metadata, expected, "{what}");
    assert_resource(status, &job.id, what);
}

fn assert_resource(status: &Status, id: &str, what: &str) {
    let details = status.get_error_details();
    let resource = details.resource_info().unwrap_or_else(|| panic!("{what}: no ResourceInfo"));
    assert_eq!((resource.resource_type.as_str(), resource.resource_name.as_str()), ("jobtrack.v1.Job", id), "{what}");
}

fn assert_retry(status: &Status, what: &str) {
    let delay = status.get_error_details().retry_info().and_then(|retry| retry.retry_delay);
    assert!(delay.is_some_and(|delay| !delay.is_zero()), "{what}: no RetryInfo");
}

#[rstest]
#[case::report(report, &[State::Succeeded, State::Failed, State::Cancelled])]
#[case::complete(complete, &[State::Failed, State::Cancelled])]
#[case::fail(fail, &[State::Succeeded, State::Cancelled])]
#[case::cancel(cancel, &[State::Succeeded, State::Failed])]
#[case::confirm(confirm, &[State::Succeeded, State::Failed])]
#[tokio::test]
async fn a_change_after_another_end_is_refused(#[case] make: Make, #[case] ends: &[State]) {
    refuses(make, ends, None, None, Code::FailedPrecondition, "JOB_FINISHED").await;
    // The state is checked before the revision.
    refuses(make, ends, Some(2), OTHER, Code::FailedPrecondition, "JOB_FINISHED").await;
}

#[rstest]
#[case::report(report)]
#[case::complete(complete)]
#[case::fail(fail)]
#[case::confirm(confirm)]
#[tokio::test]
async fn a_stale_attempt_is_refused_before_all_else(#[case] make: Make) {
    let begun = [State::Running, State::Succeeded, State::Failed, State::Cancelled];
    refuses(make, &begun, Some(1), None, Code::FailedPrecondition, "STALE_ATTEMPT").await;
    refuses(make, &begun, Some(1), OTHER, Code::FailedPrecondition, "STALE_ATTEMPT").await;
}

#[rstest]
#[case::report(report)]
#[case::complete(complete)]
#[case::fail(fail)]
#[tokio::test]
async fn another_revision_than_expected_is_refused(#[case] make: Make) {
    refuses(make, &[State::Pending, State::Running], None, OTHER, Code::Aborted, "REVISION_MISMATCH").await;
    refuses(make, &[State::Running], Some(3), OTHER, Code::Aborted, "REVISION_MISMATCH").await;
}

#[tokio::test]
async fn a_confirmed_cancel_that_nobody_asked_for_is_refused() {
    let active = [State::Pending, State::Running];
    refuses(confirm, &active, None, None, Code::FailedPrecondition, "CANCEL_NOT_REQUESTED").await;
    refuses(confirm, &active, Some(3), None, Code::FailedPrecondition, "CANCEL_NOT_REQUESTED").await;
}

#[tokio::test]
async fn deleting_an_active_job_is_refused() {
    refuses(delete, &[State::Pending, State::Running], None, None, Code::FailedPrecondition, "JOB_ACTIVE").await;
}

/// Fails unless a job in each of these states rejects the call and is unchanged.
async fn refuses(make: Make, jobs_in: &[State], attempt: Option<i32>, revision: Option<i64>, code: Code, reason: &str) {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    for state in jobs_in {
        let id = state.as_str_name();
        let job = job_in(&server, id, *state).await;
        let call = make(id, attempt, revision);
        let what = format!("{} {id}, attempt {attempt:?}, revision {revision:?}", call.method);

        let refusal = raw.call(&call).await.expect_err(&what);
        assert_refusal(&refusal, code, reason, Some(&job), &what);
        let details = refusal.get_error_details();
        if code == Code::FailedPrecondition {
            let failed = &details.precondition_failure().unwrap_or_else(|| panic!("{what}: which?")).violations;
            assert_eq!((failed.len(), failed[0].r#type.as_str()), (1, reason), "{what}");
            assert!(failed[0].subject.contains(id) && !failed[0].description.is_empty(), "{what}");
        }
        assert!(details.bad_request().is_none(), "{what}: no field is malformed");
        assert_eq!(read(&mut client, id).await, job, "{what}: a refusal stores nothing");
    }
    server.stop().await;
}

#[rstest]
#[case::complete(complete, State::Succeeded)]
#[case::fail(fail, State::Failed)]
#[case::cancel(cancel, State::Cancelled)]
#[case::confirm(confirm, State::Cancelled)]
#[tokio::test]
async fn the_same_end_again_is_no_error(#[case] make: Make, #[case] end: State) {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    let job = job_in(&server, "a", end).await;
    for (attempt, revision) in [(None, None), (Some(2), None), (Some(3), None), (None, OTHER)] {
        raw.call(&make("a", attempt, revision)).await.expect("the stored job");
        assert_eq!(read(&mut client, "a").await, job, "{attempt:?} {revision:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_missing_job_is_not_found_by_any_method() {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    create(&mut client, "deleted").await;
    let gone = DeleteJobRequest { job_id: "deleted".into(), force: true };
    client.delete_job(gone).await.expect("a job can be deleted");

    for id in ["never", "deleted"] {
        let watch = WatchJobRequest { job_id: id.into(), ..Default::default() };
        let calls = [
            get(id, None),
            get(id, Some(1)),
            report(id, Some(1), OTHER),
            complete(id, None, None),
            fail(id, None, None),
            cancel(id, None, None),
            confirm(id, None, None),
            delete(id, None, None),
            call("JobService/WatchJob", &watch),
        ];
        for call in calls {
            let what = format!("{} {id}", call.method);
            let status = raw.call(&call).await.expect_err(&what);
            assert_refusal(&status, Code::NotFound, "JOB_NOT_FOUND", None, &what);
            assert_eq!(error_info(&status).metadata.get("job_id").map(String::as_str), Some(id), "{what}");
            assert_resource(&status, id, &what);
        }
    }
    assert!(all_jobs(&mut client).await.is_empty());
    server.stop().await;
}

#[tokio::test]
async fn a_taken_id_is_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for state in [State::Pending, State::Running, State::Succeeded] {
        let id = state.as_str_name();
        let job = job_in(&server, id, state).await;
        for request_id in ["", "another"] {
            let request = CreateJobRequest { request_id: request_id.into(), ..new_job(id) };
            let status = client.create_job(request).await.expect_err("the id is taken");
            assert_refusal(&status, Code::AlreadyExists, "JOB_EXISTS", Some(&job), id);
            assert_eq!(read(&mut client, id).await, job);
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn unreached_min_revision_is_unavailable() {
    let server = Server::start().await;
    let job = job_in(&server, "a", State::Running).await;
    let raw = Raw::connect(server.address).await;
    raw.call(&get("a", Some(job.revision))).await.expect("this revision is there");
    let status = raw.call(&get("a", Some(job.revision + 1))).await.expect_err("nobody changes the job");
    assert_refusal(&status, Code::Unavailable, "REVISION_NOT_REACHED", Some(&job), "min_revision");
    assert_retry(&status, "min_revision");
    server.stop().await;
}

#[tokio::test]
async fn a_full_memory_refuses_new_jobs_until_one_ends() {
    let server = Server::with(&["--max-memory-jobs", "2"]).await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    create(&mut client, "a").await;
    create(&mut client, "b").await;
    let before = all_jobs(&mut client).await;

    let status = client.create_job(new_job("c")).await.expect_err("memory is full");
    assert_refusal(&status, Code::ResourceExhausted, "MEMORY_FULL", None, "full");
    assert_eq!(error_info(&status).metadata.get("limit").map(String::as_str), Some("2"));
    assert_retry(&status, "full");
    assert_eq!(all_jobs(&mut client).await, before, "a refusal stores nothing");
    let status = raw.call(&get("c", None)).await.expect_err("it was refused");
    assert_refusal(&status, Code::NotFound, "JOB_NOT_FOUND", None, "refused");

    raw.call(&complete("a", None, None)).await.expect("what is there can go on");
    create(&mut client, "c").await;
    let left: Vec<_> = all_jobs(&mut client).await.into_iter().map(|job| job.id).collect();
    assert_eq!(left, ["c", "b"], "the ended job was evicted");
    server.stop().await;
}

#[tokio::test]
async fn draining_ends_watches_with_a_reason() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let request = WatchJobRequest { job_id: "a".into(), ..Default::default() };
    let mut one = client.watch_job(request).await.expect("the job is there").into_inner();
    let many = client.watch_jobs(v1::WatchJobsRequest::default()).await;
    let mut many = many.expect("jobs can be watched").into_inner();
    assert!(one.message().await.expect("an event").is_some());
    assert!(many.message().await.expect("an event").is_some());
    server.begin_stop();

    let one = one.message().await.expect_err("the server drains");
    assert_refusal(&one, Code::Unavailable, "SERVER_DRAINING", None, "WatchJob");
    let many = loop {
        // Events from before the drain may still arrive.
        match many.message().await {
            Ok(event) => assert!(event.is_some(), "the stream ends with a reason"),
            Err(status) => break status,
        }
    };
    assert_refusal(&many, Code::Unavailable, "SERVER_DRAINING", None, "WatchJobs");
    server.stop().await;
}
