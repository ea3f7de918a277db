//! Invalid fields: the error names the paths of all of them, and nothing is stored.

use jobtrack::proto::{
    EncodedStruct,
    v1::{
        BatchGetJobsRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest, FailJobRequest, Failure,
        GetJobRequest, JobFilter, ListJobsRequest, Liveness, Order, Progress, PurgeJobsRequest, UpdateProgressRequest,
        WatchJobRequest, WatchJobsRequest, job::State,
    },
};
use prost_types::{Duration, Struct, Timestamp, Value, value::Kind};

use super::{all_jobs, job_in};
use crate::support::{
    Server,
    raw::{Call, Raw, assert_invalid, call},
};

/// The job that the calls are about.
const JOB: &str = "a";

fn create(edit: impl FnOnce(&mut CreateJobRequest)) -> Call {
    let mut request = CreateJobRequest { job_id: "new".into(), kind: "test.work".into(), ..Default::default() };
    edit(&mut request);
    call("JobService/CreateJob", &request)
}

fn report(edit: impl FnOnce(&mut UpdateProgressRequest)) -> Call {
    let mut request = UpdateProgressRequest { job_id: JOB.into(), ..Default::default() };
    edit(&mut request);
    call("JobService/UpdateProgress", &request)
}

fn progress(edit: impl FnOnce(&mut Progress)) -> Call {
    report(|request| edit(request.progress.get_or_insert_default()))
}

fn complete(edit: impl FnOnce(&mut CompleteJobRequest)) -> Call {
    let mut request = CompleteJobRequest { job_id: JOB.into(), ..Default::default() };
    edit(&mut request);
    call("JobService/CompleteJob", &request)
}

fn fail(edit: impl FnOnce(&mut Failure)) -> Call {
    let mut failure = Failure::default();
    edit(&mut failure);
    call("JobService/FailJob", &FailJobRequest { job_id: JOB.into(), failure: Some(failure), ..Default::default() })
}

fn filter(edit: impl FnOnce(&mut JobFilter)) -> Call {
    let mut filter = JobFilter::default();
    edit(&mut filter);
    call("JobService/ListJobs", &ListJobsRequest { filter: Some(filter), ..Default::default() })
}

fn watch(edit: impl FnOnce(&mut JobFilter)) -> Call {
    let mut filter = JobFilter::default();
    edit(&mut filter);
    call("JobService/WatchJobs", &WatchJobsRequest { filter: Some(filter), ..Default::default() })
}

fn list(edit: impl FnOnce(&mut ListJobsRequest)) -> Call {
    let mut request = ListJobsRequest::default();
    edit(&mut request);
    call("JobService/ListJobs", &request)
}

fn purge(edit: impl FnOnce(&mut PurgeJobsRequest)) -> Call {
    let mut request = PurgeJobsRequest::default();
    edit(&mut request);
    call("AdminService/PurgeJobs", &request)
}

fn duration(seconds: i64, nanos: i32) -> Duration {
    Duration { seconds, nanos }
}

fn timestamp(seconds: i64, nanos: i32) -> Timestamp {
    Timestamp { seconds, nanos }
}

fn number(number: f64) -> EncodedStruct {
    Struct { fields: [("k".to_owned(), Value { kind: Some(Kind::NumberValue(number)) })].into() }.into()
}

/// Returns calls with invalid fields, and the paths of these.
fn malformed() -> Vec<(Call, &'static [&'static str])> {
    let mut rows: Vec<(Call, &[&str])> = vec![
        (create(|request| request.kind.clear()), &["kind"]),
        (create(|request| _ = request.labels.insert(String::new(), "v".into())), &["labels"]),
        (create(|request| request.metadata = Some(number(f64::NAN))), &["metadata"]),
        (create(|request| request.metadata = Some(number(f64::INFINITY))), &["metadata"]),
        (create(|request| request.lease_timeout = Some(duration(-1, 0))), &["lease_timeout"]),
        (create(|request| request.retention = Some(duration(0, -1))), &["retention"]),
        (create(|request| request.retention = Some(duration(1, 1_000_000_000))), &["retention"]),
        (create(|request| request.retention = Some(duration(i64::MAX, i32::MAX))), &["retention"]),
        (call("JobService/GetJob", &GetJobRequest::default()), &["job_id"]),
        (
            call(
                "JobService/GetJob",
                &GetJobRequest { job_id: JOB.into(), min_revision: Some(-1), ..GetJobRequest::default() },
            ),
            &["min_revision"],
        ),
        (
            call("JobService/BatchGetJobs", &BatchGetJobsRequest { job_ids: ids(), ..BatchGetJobsRequest::default() }),
            &["job_ids[1]", "job_ids[3]"],
        ),
        (list(|request| request.page_size = -1), &["page_size"]),
        (list(|request| request.page_token = "made-up".into()), &["page_token"]),
        (list(|request| request.page_token = "é".repeat(3)), &["page_token"]),
        (list(|request| request.view = 99), &["view"]),
        (call("JobService/GetJob", &GetJobRequest { job_id: JOB.into(), view: 3, ..Default::default() }), &["view"]),
        (call("JobService/BatchGetJobs", &BatchGetJobsRequest { view: -1, ..Default::default() }), &["view"]),
        (
            call("JobService/WatchJob", &WatchJobRequest { job_id: JOB.into(), view: 99, ..Default::default() }),
            &["view"],
        ),
        (call("JobService/WatchJobs", &WatchJobsRequest { view: 99, ..Default::default() }), &["view"]),
        (filter(|filter| filter.states = vec![State::Running.into(), 99]), &["filter.states"]),
        (filter(|filter| filter.states = vec![State::Unspecified.into()]), &["filter.states"]),
        (filter(|filter| _ = filter.labels.insert(String::new(), "v".into())), &["filter.labels"]),
        (filter(|filter| filter.created_after = Some(timestamp(i64::MAX, 0))), &["filter.created_after"]),
        (filter(|filter| filter.created_before = Some(timestamp(0, -1))), &["filter.created_before"]),
        (filter(|filter| filter.updated_after = Some(timestamp(0, -1))), &["filter.updated_after"]),
        (filter(|filter| filter.liveness = vec![Liveness::Unspecified.into()]), &["filter.liveness"]),
        (filter(|filter| filter.liveness = vec![Liveness::Lost.into(), 3]), &["filter.liveness"]),
        (filter(|filter| filter.id_prefix = "a b".into()), &["filter.id_prefix"]),
        (watch(|filter| filter.liveness = vec![Liveness::Unspecified.into()]), &["filter.liveness"]),
        (watch(|filter| filter.id_prefix = "é".into()), &["filter.id_prefix"]),
        (list(|request| request.order = 3), &["order"]),
        (list(|request| request.order = -1), &["order"]),
        (purge(|request| request.page_token = "made-up".into()), &["page_token"]),
        (report(|request| request.job_id.clear()), &["job_id"]),
        (report(|request| request.attempt = Some(0)), &["attempt"]),
        (report(|request| request.attempt = Some(i32::MIN)), &["attempt"]),
        (report(|request| request.sequence = Some(0)), &["sequence"]),
        (report(|request| request.sequence = Some(-1)), &["sequence"]),
        (report(|request| request.expected_revision = Some(-1)), &["expected_revision"]),
        (report(|request| request.lease_timeout = Some(duration(-1, 0))), &["lease_timeout"]),
        (progress(|progress| progress.completed = Some(-1)), &["progress.completed"]),
        (progress(|progress| progress.total = Some(-1)), &["progress.total"]),
        (progress(|progress| progress.stage_index = Some(-1)), &["progress.stage_index"]),
        (progress(|progress| progress.stage_count = Some(-1)), &["progress.stage_count"]),
        (progress(|progress| progress.details = Some(number(f64::NEG_INFINITY))), &["progress.details"]),
        (complete(|request| request.job_id.clear()), &["job_id"]),
        (complete(|request| request.attempt = Some(0)), &["attempt"]),
        (complete(|request| request.expected_revision = Some(-1)), &["expected_revision"]),
        (complete(|request| request.result = Some(number(f64::NAN))), &["result"]),
        (call("JobService/FailJob", &FailJobRequest { job_id: JOB.into(), ..Default::default() }), &["failure"]),
        (fail(|failure| failure.details = Some(number(f64::NAN))), &["failure.details"]),
        (confirm(Some(0)), &["attempt"]),
        (purge(|request| request.states = vec![State::Pending.into()]), &["states"]),
        (purge(|request| request.states = vec![State::Failed.into(), State::Running.into()]), &["states"]),
        (purge(|request| request.states = vec![State::Unspecified.into()]), &["states"]),
        (purge(|request| request.states = vec![99]), &["states"]),
        (purge(|request| request.older_than = Some(duration(-1, 0))), &["older_than"]),
        (call("JobService/WatchJob", &WatchJobRequest::default()), &["job_id"]),
        (
            call("JobService/WatchJobs", &WatchJobsRequest { job_ids: ids(), ..Default::default() }),
            &["job_ids[1]", "job_ids[3]"],
        ),
    ];
    rows.extend(malformed_at_once());
    rows
}

/// Returns four ids, the second and the last of which are invalid.
fn ids() -> Vec<String> {
    ["b", "", "c", "d e"].map(str::to_owned).to_vec()
}

fn confirm(attempt: Option<i32>) -> Call {
    call("JobService/ConfirmCancel", &ConfirmCancelRequest { job_id: JOB.into(), attempt, ..Default::default() })
}

/// Returns calls with several invalid fields.
fn malformed_at_once() -> Vec<(Call, &'static [&'static str])> {
    vec![
        (
            create(|request| {
                request.job_id = "no id".into();
                request.kind.clear();
                request.owner = "o".repeat(129);
                request.labels = (0..33).map(|n| (n.to_string(), "v".repeat(257))).collect();
                request.metadata = Some(number(f64::NAN));
                request.retention = Some(duration(-1, 0));
            }),
            &["job_id", "kind", "owner", "labels", "metadata", "retention"],
        ),
        (
            report(|request| {
                let progress = Progress { percent: Some(101.0), total: Some(-1), ..Default::default() };
                request.progress = Some(progress);
                request.worker = "w".repeat(129);
                request.attempt = Some(0);
            }),
            &["progress.percent", "progress.total", "worker", "attempt"],
        ),
        (
            list(|request| {
                request.filter = Some(JobFilter { states: vec![0, 99], kind: "k".repeat(129), ..Default::default() });
                request.page_size = -1;
                request.view = -1;
            }),
            &["filter.states", "filter.kind", "page_size", "view"],
        ),
    ]
}

#[tokio::test]
async fn malformed_fields_are_named_all_at_once_and_nothing_is_stored() {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    // An active job that every call could change, and one that a purge could remove.
    job_in(&server, JOB, State::Running).await;
    job_in(&server, "ended", State::Failed).await;
    let before = all_jobs(&mut client).await;
    for (row, (call, fields)) in malformed().into_iter().enumerate() {
        let what = format!("row {row}: {} with a bad {fields:?}", call.method);
        let status = raw.call(&call).await.expect_err(&what);
        assert_invalid(&status, fields, &what);
        assert_eq!(all_jobs(&mut client).await, before, "{what}: a refusal stores nothing");
    }
    server.stop().await;
}

#[tokio::test]
async fn a_malformed_request_is_refused_before_the_job_is_looked_for() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let request = UpdateProgressRequest { job_id: "missing".into(), attempt: Some(0), ..Default::default() };
    let status = raw.call(&call("JobService/UpdateProgress", &request)).await.expect_err("the attempt is bad");
    assert_invalid(&status, &["attempt"], "a missing job");
    server.stop().await;
}

#[tokio::test]
async fn a_page_token_of_another_filter_or_order_is_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        job_in(&server, id, State::Pending).await;
    }
    let request = ListJobsRequest { page_size: 1, ..Default::default() };
    let page_token = client.list_jobs(request).await.expect("a page").into_inner().next_page_token;
    assert!(!page_token.is_empty());
    let filter = Some(JobFilter { kind: "other".into(), ..Default::default() });
    let request = ListJobsRequest { filter, page_token: page_token.clone(), ..Default::default() };
    let status = client.list_jobs(request).await.expect_err("the token is of another filter");
    assert_invalid(&status, &["page_token"], "another filter");
    let oldest = Order::Oldest.into();
    let request = ListJobsRequest { page_token: page_token.clone(), order: oldest, ..Default::default() };
    let status = client.list_jobs(request).await.expect_err("the token is of the other order");
    assert_invalid(&status, &["page_token"], "the other order");
    // The token is not bound to the page size or the view; without an order the newest come first.
    let order = Order::Newest.into();
    let request = ListJobsRequest { page_size: 2, page_token, view: 2, order, ..Default::default() };
    assert_eq!(client.list_jobs(request).await.expect("the next page").into_inner().jobs.len(), 1);

    let request = ListJobsRequest { page_size: 1, order: oldest, ..Default::default() };
    let page_token = client.list_jobs(request.clone()).await.expect("a page").into_inner().next_page_token;
    let request = ListJobsRequest { page_token: page_token.clone(), ..request };
    assert_eq!(client.list_jobs(request).await.expect("the next page").into_inner().jobs[0].id, "b");
    let status = client.list_jobs(ListJobsRequest { page_token, ..Default::default() }).await;
    assert_invalid(&status.expect_err("the token is of the oldest first"), &["page_token"], "the other order");
    server.stop().await;
}
