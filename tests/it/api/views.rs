//! Views of a job in responses; and the title, and the time of the last advance.

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, CreateJobRequest, FailJobRequest, Failure, GetJobRequest, Job,
    ListJobsRequest, Progress, UpdateProgressRequest, View, WatchJobRequest, WatchJobsRequest, job::Outcome,
};
use rstest::rstest;

use crate::support::{
    Client, Server, new_job,
    redis::Redis,
    replicas::{in_time, server_on},
    text_document,
    watching::make,
};

/// Creates one job that succeeded and one that failed, each with every field set.
async fn create_whole(client: &mut Client) {
    for id in ["failed", "succeeded"] {
        let metadata = Some(text_document("metadata"));
        make(client, CreateJobRequest { title: format!("Title of {id}"), metadata, ..new_job(id) }).await;
        let progress =
            Some(Progress { percent: Some(50.0), details: Some(text_document("details")), ..Progress::default() });
        let request = UpdateProgressRequest { job_id: id.into(), progress, ..UpdateProgressRequest::default() };
        client.update_progress(request).await.expect("a report");
    }
    let failure = Some(Failure { reason: "X".into(), details: Some(text_document("failure")), ..Failure::default() });
    let fail = FailJobRequest { job_id: "failed".into(), failure, ..FailJobRequest::default() };
    client.fail_job(fail).await.expect("it fails");
    let result = Some(text_document("result"));
    let complete = CompleteJobRequest { job_id: "succeeded".into(), result, ..CompleteJobRequest::default() };
    client.complete_job(complete).await.expect("it succeeds");
}

/// Fails unless these are the two jobs, with their documents or without.
fn assert_jobs(what: &str, jobs: &[Job], whole: bool) {
    assert_eq!(jobs.len(), 2, "{what}");
    for job in jobs {
        let progress = job.progress.as_ref().expect("it was reported on");
        assert_eq!((job.metadata.is_some(), progress.details.is_some()), (whole, whole), "{what}: {job:?}");
        match &job.outcome {
            Some(Outcome::Failure(failure)) => {
                assert_eq!((failure.reason.as_str(), failure.details.is_some()), ("X", whole), "{what}");
            }
            Some(Outcome::Result(_)) => assert!(whole, "{what}: {job:?}"),
            None => assert!(!whole && job.id == "succeeded", "{what}: {job:?}"),
        }
        assert_eq!(job.title, format!("Title of {}", job.id), "{what}");
        assert!(job.progress_time.is_some(), "{what}: {job:?}");
    }
}

/// A watcher with one view is not sent events that were encoded for another view.
#[rstest]
#[tokio::test]
async fn answers_contain_the_requested_view(#[values(false, true)] on_redis: bool) {
    let redis = if on_redis { Some(Redis::start().await) } else { None };
    let server = match &redis {
        Some(redis) => server_on(redis).await,
        None => Server::start().await,
    };
    let mut client = server.client().await;
    create_whole(&mut client).await;
    let ids = || ["failed", "succeeded"].map(str::to_owned).to_vec();
    for (view, whole) in [(View::Full, true), (View::Basic, false), (View::Unspecified, true)] {
        let (what, view) = (format!("{view:?}"), i32::from(view));
        let mut got = Vec::new();
        let mut watched = Vec::new();
        for job_id in ids() {
            let request = GetJobRequest { job_id: job_id.clone(), view, ..GetJobRequest::default() };
            got.extend(client.get_job(request).await.expect("it is there").into_inner().job);
            let request = WatchJobRequest { job_id, view, ..WatchJobRequest::default() };
            let mut stream = client.watch_job(request).await.expect("it is there").into_inner();
            watched
                .extend(in_time("a snapshot", stream.message()).await.expect("an event").and_then(|event| event.job));
        }
        assert_jobs(&format!("GetJob, {what}"), &got, whole);
        assert_jobs(&format!("WatchJob, {what}"), &watched, whole);

        let batch = client.batch_get_jobs(BatchGetJobsRequest { job_ids: ids(), view }).await.expect("a batch");
        assert_jobs(&format!("BatchGetJobs, {what}"), &batch.into_inner().jobs, whole);

        let request = WatchJobsRequest { job_ids: ids(), view, ..WatchJobsRequest::default() };
        let mut stream = client.watch_jobs(request).await.expect("a stream").into_inner();
        let mut watched = Vec::new();
        for _ in 0..2 {
            let event = in_time("a snapshot", stream.message()).await.expect("an event");
            watched.extend(event.and_then(|event| event.job));
        }
        assert_jobs(&format!("WatchJobs, {what}"), &watched, whole);

        // A list without a view is basic.
        let request = ListJobsRequest { view, ..ListJobsRequest::default() };
        let listed = client.list_jobs(request).await.expect("a page").into_inner().jobs;
        assert_jobs(&format!("ListJobs, {what}"), &listed, view == i32::from(View::Full));
    }
    server.stop().await;
}
