//! Input that no proper client sends: the server refuses it, and goes on serving everybody else.

mod arbitrary;
mod connections;
mod costs;
mod floods;
mod latency;
mod mix;
mod readers;

use std::collections::BTreeSet;

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest,
    DeleteJobRequest, FailJobRequest, Failure, GetJobRequest, JobFilter, ListJobsRequest, Progress, PurgeJobsRequest,
    StartAttemptRequest, UpdateProgressRequest, View, WatchJobRequest, WatchJobsRequest,
};
use tonic::Code;

use crate::support::{
    Client, Server, create, error_info, new_job,
    raw::{Call, Raw, assert_invalid, call, frame, frame_as, methods},
};

/// Fails unless the server takes a normal call on a new connection, and holds only `known` jobs besides its own.
async fn assert_serves(server: &Server, known: &[&str]) {
    let mut client = server.client().await;
    create(&mut client, "normal").await;
    let jobs = ids(&mut client).await;
    assert_eq!(jobs, known.iter().copied().chain(["normal"]).map(str::to_owned).collect());
    let gone = DeleteJobRequest { job_id: "normal".into(), force: true };
    client.delete_job(gone).await.expect("a job can be deleted");
}

async fn ids(client: &mut Client) -> BTreeSet<String> {
    let request = ListJobsRequest { page_size: 1000, ..Default::default() };
    let jobs = client.list_jobs(request).await.expect("jobs can be listed").into_inner().jobs;
    jobs.into_iter().map(|job| job.id).collect()
}

#[tokio::test]
async fn numbers_that_are_no_percentage_are_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let job = create(&mut server.client().await, "a").await;
    let wild = [
        f64::NAN,
        -f64::NAN,
        f64::INFINITY,
        f64::NEG_INFINITY,
        -1.0,
        -f64::MIN_POSITIVE,
        101.0,
        100.01_f64.next_up(),
        f64::MAX,
        f64::MIN,
    ];
    for percent in wild {
        let progress = Some(Progress { percent: Some(percent), ..Default::default() });
        let request = UpdateProgressRequest { job_id: "a".into(), progress, ..Default::default() };
        let status = raw.call(&call("JobService/UpdateProgress", &request)).await.expect_err("it is no percentage");
        assert_invalid(&status, &["progress.percent"], &percent.to_string());
    }
    let request = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() };
    let now = server.client().await.get_job(request).await.expect("the job is there").into_inner().job;
    assert_eq!(now, Some(job), "a refusal stores nothing");
    assert_serves(&server, &["a"]).await;
    server.stop().await;
}

/// A call of every method that takes an id, and the field that the id is in.
fn with_id(id: &str) -> Vec<(Call, &'static str)> {
    let job_id = id.to_owned();
    let job_ids = vec![job_id.clone()];
    let failure = Some(Failure::default());
    vec![
        (call("JobService/CreateJob", &CreateJobRequest { job_id: job_id.clone(), ..new_job("") }), "job_id"),
        (call("JobService/GetJob", &GetJobRequest { job_id: job_id.clone(), ..GetJobRequest::default() }), "job_id"),
        (
            call(
                "JobService/BatchGetJobs",
                &BatchGetJobsRequest { job_ids: job_ids.clone(), ..BatchGetJobsRequest::default() },
            ),
            "job_ids[0]",
        ),
        (
            call("JobService/UpdateProgress", &UpdateProgressRequest { job_id: job_id.clone(), ..Default::default() }),
            "job_id",
        ),
        (
            call("JobService/CompleteJob", &CompleteJobRequest { job_id: job_id.clone(), ..Default::default() }),
            "job_id",
        ),
        (
            call("JobService/FailJob", &FailJobRequest { job_id: job_id.clone(), failure, ..Default::default() }),
            "job_id",
        ),
        (
            call("JobService/StartAttempt", &StartAttemptRequest { job_id: job_id.clone(), ..Default::default() }),
            "job_id",
        ),
        (call("JobService/CancelJob", &CancelJobRequest { job_id: job_id.clone(), ..Default::default() }), "job_id"),
        (
            call("JobService/ConfirmCancel", &ConfirmCancelRequest { job_id: job_id.clone(), ..Default::default() }),
            "job_id",
        ),
        (call("JobService/DeleteJob", &DeleteJobRequest { job_id: job_id.clone(), force: true }), "job_id"),
        (call("JobService/WatchJob", &WatchJobRequest { job_id, ..Default::default() }), "job_id"),
        (call("JobService/WatchJobs", &WatchJobsRequest { job_ids, ..Default::default() }), "job_ids[0]"),
    ]
}

#[tokio::test]
async fn ids_that_could_mean_something_elsewhere_are_refused_by_every_method() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let long = "i".repeat(129);
    let wild = [
        "{a}",
        "a}b",
        "a\r\nDEL b",
        "a\nb",
        "a\0",
        "\0",
        "*",
        "a*",
        "a?",
        "[a-z]",
        "a b",
        " a",
        "a/b",
        "../a",
        "a\\b",
        "é",
        "ａ",
        "a\u{200b}",
        "a\u{7f}",
        "a%20",
        "a\"b",
        "a'b",
        "$(a)",
        "a;b",
        "a,b",
        "a@b",
        "a#b",
        &long,
    ];
    for id in wild {
        for (call, field) in with_id(id) {
            let what = format!("{} {id:?}", call.method);
            assert_invalid(&raw.call(&call).await.expect_err(&what), &[field], &what);
        }
    }
    for id in ["a", "0", ".", "..", "-", "_", ":", "a.b_c:d-E9", &"i".repeat(128)] {
        raw.call(&with_id(id)[0].0).await.unwrap_or_else(|status| panic!("{id:?} is an id: {status:?}"));
        raw.call(&with_id(id)[9].0).await.unwrap_or_else(|status| panic!("{id:?} was created: {status:?}"));
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn enum_numbers_that_nobody_knows_are_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for number in [-1, 6, 99, i32::MAX, i32::MIN] {
        let filter = Some(JobFilter { states: vec![number], ..Default::default() });
        let listed = ListJobsRequest { filter: filter.clone(), ..Default::default() };
        let watched = WatchJobsRequest { filter, ..Default::default() };
        let purged = PurgeJobsRequest { states: vec![number], ..Default::default() };
        let calls = [
            (call("JobService/ListJobs", &listed), "filter.states"),
            (call("JobService/ListJobs", &ListJobsRequest { view: number, ..Default::default() }), "view"),
            (call("JobService/WatchJobs", &watched), "filter.states"),
            (call("AdminService/PurgeJobs", &purged), "states"),
        ];
        for (call, field) in calls {
            let what = format!("{} {field} {number}", call.method);
            assert_invalid(&raw.call(&call).await.expect_err(&what), &[field], &what);
        }
    }
    for view in [View::Unspecified, View::Basic, View::Full] {
        let listed = ListJobsRequest { view: view.into(), ..Default::default() };
        raw.call(&call("JobService/ListJobs", &listed)).await.expect("this is a view");
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn text_that_is_not_utf8_is_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for method in methods(false).iter().chain(&methods(true)) {
        let field = match method.as_str() {
            "AdminService/GetStats" => continue,
            "AdminService/PurgeJobs" | "JobService/ListJobs" => 3,
            _ => 1,
        };
        for text in [&[0xff, 0xfe][..], &[0xc3], &[0xed, 0xa0, 0x80], &[b'a', 0xc0, 0x80]] {
            let length = u8::try_from(text.len()).expect("it is short");
            let message = [&[field << 3 | 2, length], text].concat();
            let status = raw.send(method, &[], frame(&message)).await.outcome().expect_err(method);
            assert_invalid(&status, &["request"], method);
        }
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn broken_frames_are_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let broken = [
        ("nothing at all", &[][..], vec![]),
        ("half a frame's head", &[], vec![0, 0, 0]),
        ("a frame's head alone", &[], frame_as(0, 100, b"")),
        ("less than announced", &[], frame_as(0, 100, b"abc")),
        ("a message and half another", &[], [frame(b""), vec![0, 0]].concat()),
        ("an unknown flag", &[], frame_as(7, 3, b"abc")),
        ("the last flag", &[], frame_as(255, 3, b"abc")),
        ("compressed by nobody", &[], frame_as(1, 3, b"abc")),
        ("not what gzip makes", &[("grpc-encoding", "gzip")], frame_as(1, 3, b"abc")),
        ("not what zstd makes", &[("grpc-encoding", "zstd")], frame_as(1, 3, b"abc")),
    ];
    for method in methods(false).iter().chain(&methods(true)) {
        for (what, headers, body) in &broken {
            let what = format!("{method}: {what}");
            let status = raw.send(method, headers, body.clone()).await.outcome().expect_err(&what);
            assert_invalid(&status, &["request"], &what);
        }
        let announced = raw.send(method, &[], frame_as(0, u32::MAX as usize, b"")).await.outcome().expect_err(method);
        assert_eq!(announced.code(), Code::ResourceExhausted, "{method}");
        assert_eq!(error_info(&announced).reason, "MESSAGE_TOO_LARGE", "{method}");
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn an_unknown_encoding_is_unimplemented_and_names_the_known_ones() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let answer = raw.send("JobService/GetJob", &[("grpc-encoding", "snappy")], frame_as(1, 3, b"abc")).await;
    let status = answer.outcome().expect_err("nobody knows it");
    assert_eq!(status.code(), Code::Unimplemented);
    let known = status.metadata().get("grpc-accept-encoding").and_then(|known| known.to_str().ok());
    assert!(known.is_some_and(|known| known.contains("gzip") && known.contains("zstd")), "{known:?}");
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_served_is_unimplemented() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    for method in ["JobService/Nothing", "NoService/GetJob", "JobService/getjob", "JobService/", "JobService/GetJob/x"]
    {
        let status = raw.send(method, &[], frame(b"")).await.outcome().expect_err(method);
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn what_is_not_grpc_is_not_taken_for_it() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let message = prost::Message::encode_to_vec(&new_job("a"));
    for content_type in ["text/plain", "application/json", "application/x-www-form-urlencoded", ""] {
        let answer = raw.send("JobService/CreateJob", &[("content-type", content_type)], frame(&message)).await;
        let refused = !answer.http.is_success() || answer.status.is_some_and(|status| status.code() != Code::Ok);
        assert!(refused, "{content_type:?} was taken for a call");
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}
