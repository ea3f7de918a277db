//! Every limit of the contract: the maximum is accepted, one more is rejected.

use std::collections::HashMap;

use jobtrack::proto::{
    EncodedStruct,
    v1::{
        BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, CreateJobRequest, FailJobRequest, Failure,
        GetJobRequest, JobFilter, ListJobsRequest, Progress, PurgeJobsRequest, UpdateProgressRequest, WatchJobRequest,
        WatchJobsRequest, job::State,
    },
};
use prost::Message;
use prost_types::{Duration, ListValue, Struct, Value, value::Kind};
use tonic::Code;

use super::{all_jobs, cancel, job_in};
use crate::support::{
    Server,
    raw::{Call, Raw, assert_invalid, call},
};

/// A limit: the field, the maximum, and a call for a job with a field of a given size.
struct Limit(&'static str, usize, fn(&str, usize) -> Call);

const LIMITS: &[Limit] = &[
    Limit("job_id", 128, |_, n| create(&CreateJobRequest { job_id: "i".repeat(n), ..plain("") })),
    Limit("request_id", 128, |id, n| create(&CreateJobRequest { request_id: text(n), ..plain(id) })),
    Limit("kind", 128, |id, n| create(&CreateJobRequest { kind: text(n), ..plain(id) })),
    Limit("owner", 128, |id, n| create(&CreateJobRequest { owner: text(n), ..plain(id) })),
    Limit("title", 256, |id, n| create(&CreateJobRequest { title: text(n), ..plain(id) })),
    Limit("labels", 32, |id, n| create(&CreateJobRequest { labels: pairs(n), ..plain(id) })),
    Limit("labels", 63, |id, n| create(&CreateJobRequest { labels: pair(text(n), "v".into()), ..plain(id) })),
    Limit("labels", 256, |id, n| create(&CreateJobRequest { labels: pair("k".into(), text(n)), ..plain(id) })),
    Limit("metadata", 16 * 1024, |id, n| create(&CreateJobRequest { metadata: Some(document(n)), ..plain(id) })),
    Limit("metadata", 16, |id, n| create(&CreateJobRequest { metadata: Some(objects(n)), ..plain(id) })),
    Limit("metadata", 16, |id, n| create(&CreateJobRequest { metadata: Some(lists(n)), ..plain(id) })),
    Limit("lease_timeout", 3650, |id, n| create(&CreateJobRequest { lease_timeout: days(n), ..plain(id) })),
    Limit("retention", 3650, |id, n| create(&CreateJobRequest { retention: days(n), ..plain(id) })),
    Limit("worker", 128, |id, n| report(id, |request| request.worker = text(n))),
    Limit("lease_timeout", 3650, |id, n| report(id, |request| request.lease_timeout = days(n))),
    Limit("progress.percent", 100, |id, n| progress(id, |progress| progress.percent = Some(float(n)))),
    Limit("progress.unit", 32, |id, n| progress(id, |progress| progress.unit = Some(text(n)))),
    Limit("progress.stage", 256, |id, n| progress(id, |progress| progress.stage = Some(text(n)))),
    Limit("progress.details", 4 * 1024, |id, n| progress(id, |progress| progress.details = Some(document(n)))),
    Limit("progress.details", 16, |id, n| progress(id, |progress| progress.details = Some(objects(n)))),
    Limit("progress.details", 16, |id, n| progress(id, |progress| progress.details = Some(lists(n)))),
    Limit("result", 1024 * 1024, |id, n| complete(id, document(n))),
    Limit("result", 16, |id, n| complete(id, objects(n))),
    Limit("result", 16, |id, n| complete(id, lists(n))),
    Limit("failure.details", 16 * 1024, |id, n| fail(id, |failure| failure.details = Some(document(n)))),
    Limit("failure.details", 16, |id, n| fail(id, |failure| failure.details = Some(objects(n)))),
    Limit("requester", 128, |id, n| {
        call("JobService/CancelJob", &CancelJobRequest { job_id: id.into(), requester: text(n), ..Default::default() })
    }),
    Limit("job_ids", 100, |id, n| {
        call(
            "JobService/BatchGetJobs",
            &BatchGetJobsRequest { job_ids: vec![id.into(); n], ..BatchGetJobsRequest::default() },
        )
    }),
    Limit("filter.kind", 128, |_, n| list(JobFilter { kind: text(n), ..Default::default() })),
    Limit("filter.owner", 128, |_, n| list(JobFilter { owner: text(n), ..Default::default() })),
    Limit("filter.labels", 32, |_, n| list(JobFilter { labels: pairs(n), ..Default::default() })),
    Limit("filter.labels", 63, |_, n| list(JobFilter { labels: pair(text(n), "v".into()), ..Default::default() })),
    Limit("filter.labels", 256, |_, n| list(JobFilter { labels: pair("k".into(), text(n)), ..Default::default() })),
    Limit("filter.worker", 128, |_, n| list(JobFilter { worker: text(n), ..Default::default() })),
    Limit("filter.id_prefix", 128, |_, n| list(JobFilter { id_prefix: "a".repeat(n), ..Default::default() })),
    Limit("kind", 128, |_, n| purge(&PurgeJobsRequest { kind: text(n), ..Default::default() })),
    Limit("owner", 128, |_, n| purge(&PurgeJobsRequest { owner: text(n), ..Default::default() })),
    Limit("older_than", 3650, |_, n| purge(&PurgeJobsRequest { older_than: days(n), ..Default::default() })),
];

fn plain(id: &str) -> CreateJobRequest {
    CreateJobRequest { job_id: format!("new-{id}"), kind: "test.work".into(), ..Default::default() }
}

fn create(request: &CreateJobRequest) -> Call {
    call("JobService/CreateJob", request)
}

fn report(id: &str, edit: impl FnOnce(&mut UpdateProgressRequest)) -> Call {
    let mut request = UpdateProgressRequest { job_id: id.into(), ..Default::default() };
    edit(&mut request);
    call("JobService/UpdateProgress", &request)
}

fn progress(id: &str, edit: impl FnOnce(&mut Progress)) -> Call {
    report(id, |request| edit(request.progress.get_or_insert_default()))
}

fn complete(id: &str, result: EncodedStruct) -> Call {
    let request = CompleteJobRequest { job_id: id.into(), result: Some(result), ..Default::default() };
    call("JobService/CompleteJob", &request)
}

fn fail(id: &str, edit: impl FnOnce(&mut Failure)) -> Call {
    let mut failure = Failure::default();
    edit(&mut failure);
    call("JobService/FailJob", &FailJobRequest { job_id: id.into(), failure: Some(failure), ..Default::default() })
}

fn list(filter: JobFilter) -> Call {
    call("JobService/ListJobs", &ListJobsRequest { filter: Some(filter), ..Default::default() })
}

fn purge(request: &PurgeJobsRequest) -> Call {
    call("AdminService/PurgeJobs", request)
}

/// Returns a text of `bytes` bytes, with about half as many characters.
fn text(bytes: usize) -> String {
    "é".repeat(bytes / 2) + &"e".repeat(bytes % 2)
}

fn pair(key: String, value: String) -> HashMap<String, String> {
    HashMap::from([(key, value)])
}

fn pairs(count: usize) -> HashMap<String, String> {
    (0..count).map(|n| (format!("key-{n}"), String::new())).collect()
}

/// Returns whole days, plus a nanosecond for each one over the limit: the limit is exact.
fn days(count: usize) -> Option<Duration> {
    let (whole, over) = (count.min(3650), count.saturating_sub(3650));
    let (whole, nanos) = (i64::try_from(whole).ok()?, i32::try_from(over).ok()?);
    Some(Duration { seconds: whole * 86_400, nanos })
}

/// Returns `n`, or the smallest float above 100 for 101.
fn float(n: usize) -> f64 {
    if n > 100 { 100.01_f64.next_up() } else { f64::from(u32::try_from(n).unwrap_or(u32::MAX)) }
}

fn object(key: &str, kind: Kind) -> Struct {
    Struct { fields: [(key.to_owned(), Value { kind: Some(kind) })].into() }
}

/// Returns a Struct of `size` encoded bytes.
pub fn document(size: usize) -> EncodedStruct {
    let candidates = ["k", "kk", "kkk"].into_iter().flat_map(|key| (8..32).map(move |rest| (key, size - rest)));
    let mut documents = candidates.map(|(key, length)| object(key, Kind::StringValue(text(length))));
    documents.find(|document| document.encoded_len() == size).expect("some text fills it").into()
}

/// Returns Structs nested `depth` deep.
fn objects(depth: usize) -> EncodedStruct {
    let innermost = object("k", Kind::NumberValue(1.0));
    (1..depth).fold(innermost, |inner, _| object("k", Kind::StructValue(inner))).into()
}

/// Returns a Struct that contains nested lists, `depth` deep in all.
fn lists(depth: usize) -> EncodedStruct {
    let list = |values| Kind::ListValue(ListValue { values });
    let innermost = list(vec![Value { kind: Some(Kind::NumberValue(1.0)) }]);
    let nested = (2..depth).fold(innermost, |inner, _| list(vec![Value { kind: Some(inner) }]));
    object("k", nested).into()
}

#[tokio::test]
async fn each_limit_is_exact_and_a_refusal_stores_nothing() {
    let server = Server::start().await;
    let (raw, mut client) = (Raw::connect(server.address).await, server.client().await);
    for (row, Limit(field, max, make)) in LIMITS.iter().enumerate() {
        let id = format!("row-{row}");
        // A job that accepts any change.
        job_in(&server, &id, State::Running).await;
        raw.call(&cancel(&id, None, None)).await.expect("cancellation can be asked for");
        let before = all_jobs(&mut client).await;

        let over = make(&id, max + 1);
        let what = format!("row {row}: {} with {} of {field}", over.method, max + 1);
        let status = raw.call(&over).await.expect_err(&what);
        assert_invalid(&status, &[field], &what);
        assert_eq!(all_jobs(&mut client).await, before, "{what}: a refusal stores nothing");
        let new = GetJobRequest { job_id: format!("new-{id}"), ..Default::default() };
        let status = client.get_job(new).await.expect_err(&what);
        assert_eq!(status.code(), Code::NotFound, "{what}");

        let most = make(&id, *max);
        raw.call(&most).await.unwrap_or_else(|status| panic!("row {row}: {field} of {max} is allowed: {status:?}"));
        raw.call(&purge(&PurgeJobsRequest::default())).await.expect("what has ended can be purged");
    }
    server.stop().await;
}

#[tokio::test]
async fn documents_beyond_the_maximum_depth_are_rejected() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for depth in [34, 60, 500] {
        for metadata in [objects(depth), lists(depth)] {
            let call = create(&CreateJobRequest { metadata: Some(metadata), ..plain("a") });
            let status = raw.call(&call).await.expect_err("it is too deep");
            assert_eq!(status.code(), Code::InvalidArgument);
            assert_eq!(crate::support::reason(&status), "INVALID_FIELD");
            assert_eq!(status.message(), "metadata: nests more than 16 deep");
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn a_watch_has_exact_limits_too() {
    let server = Server::start().await;
    let mut client = server.client().await;
    job_in(&server, "a", State::Running).await;
    let pace = |milliseconds: i32| Some(Duration { seconds: 0, nanos: milliseconds * 1_000_000 });
    let second = Some(Duration { seconds: 1, nanos: 0 });

    let mut watch = async |field: &str, request: WatchJobRequest, accepted: bool| {
        let answer = client.watch_job(WatchJobRequest { job_id: "a".into(), ..request }).await;
        match answer.map(drop) {
            Ok(()) => assert!(accepted, "{field} is refused"),
            Err(status) if !accepted => assert_invalid(&status, &[field], field),
            Err(status) => panic!("{field} is accepted: {status:?}"),
        }
    };
    let request = WatchJobRequest::default;
    watch("bookmark_interval", WatchJobRequest { bookmark_interval: pace(999), ..request() }, false).await;
    watch("bookmark_interval", WatchJobRequest { bookmark_interval: second, ..request() }, true).await;
    watch("bookmark_interval", WatchJobRequest { bookmark_interval: pace(0), ..request() }, true).await;
    watch("min_interval", WatchJobRequest { min_interval: pace(-1), ..request() }, false).await;
    watch("min_interval", WatchJobRequest { min_interval: pace(0), ..request() }, true).await;

    let ids = |count: usize| WatchJobsRequest { job_ids: vec!["a".into(); count], ..Default::default() };
    let status = client.watch_jobs(ids(1001)).await.expect_err("1001 ids are too many");
    assert_invalid(&status, &["job_ids"], "1001 ids");
    client.watch_jobs(ids(1000)).await.expect("1000 ids are accepted");
    let owned = |n| Some(JobFilter { owner: text(n), ..Default::default() });
    let request = WatchJobsRequest { filter: owned(129), bookmark_interval: pace(999), ..Default::default() };
    let status = client.watch_jobs(request).await.expect_err("both fields are bad");
    assert_invalid(&status, &["filter.owner", "bookmark_interval"], "WatchJobs");
    server.stop().await;
}

#[tokio::test]
async fn page_size_is_capped_at_a_thousand() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for page_size in [0, 1, 1000, 1001, i32::MAX] {
        let call = call("JobService/ListJobs", &ListJobsRequest { page_size, ..Default::default() });
        raw.call(&call).await.unwrap_or_else(|status| panic!("{page_size}: {status:?}"));
    }
    server.stop().await;
}
