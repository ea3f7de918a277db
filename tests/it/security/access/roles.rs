//! The rights of each role, over gRPC and gRPC-Web.

use http::StatusCode;
use http_body_util::Full;
use hyper_util::{client::legacy::Client as Http, rt::TokioExecutor};
use jobtrack::proto::v1::{GetStatsRequest, PurgeJobsRequest};
use serde_json::json;
use tonic::Code;

use super::assert_denied;
use crate::support::{
    Server,
    credentials::{Folder, bearer, holder, identities},
    error_info,
    raw::{Raw, frame, methods},
};

/// The methods that each role may call and the roles before it may not.
const READER: &[&str] = &[
    "JobService/GetJob",
    "JobService/BatchGetJobs",
    "JobService/ListJobs",
    "JobService/WatchJob",
    "JobService/WatchJobs",
    "JobService/CreateWatchToken",
];
const REPORTER: &[&str] = &[
    "JobService/CreateJob",
    "JobService/StartAttempt",
    "JobService/UpdateProgress",
    "JobService/CompleteJob",
    "JobService/FailJob",
    "JobService/CancelJob",
    "JobService/ConfirmCancel",
    "JobService/DeleteJob",
];
const ADMIN: &[&str] = &["AdminService/GetStats", "AdminService/PurgeJobs"];

async fn server() -> (Server, Folder) {
    let folder = Folder::new();
    let entries = [
        holder("reader", "reader", &json!("*")),
        holder("reporter", "reporter", &json!("*")),
        holder("admin", "admin", &json!("*")),
        holder("team-admin", "admin", &json!(["team"])),
    ];
    let file = folder.write("identities.json", &identities(&entries));
    (Server::with(&["--auth-tokens", &file]).await, folder)
}

#[tokio::test]
async fn each_method_needs_its_role() {
    let (server, _folder) = server().await;
    let raw = Raw::connect(server.address).await;
    let all: Vec<_> = [false, true].into_iter().flat_map(methods).collect();
    assert_eq!(all.len(), READER.len() + REPORTER.len() + ADMIN.len(), "a method is not in this test");
    for method in all {
        let needed = match method.as_str() {
            method if READER.contains(&method) => "reader",
            method if REPORTER.contains(&method) => "reporter",
            method if ADMIN.contains(&method) => "admin",
            method => panic!("{method} is not in this test"),
        };
        let roles = ["reader", "reporter", "admin"];
        for (rank, token) in roles.into_iter().enumerate() {
            let header = format!("Bearer {token}");
            // All requests are invalid. An authorized caller is told so, except if the request concerns all jobs.
            let answer =
                raw.send(&method, &[("authorization", &header), ("grpc-timeout", "200m")], frame(b"\xff")).await;
            let status = answer.status.expect("a status");
            if rank < roles.iter().position(|role| *role == needed).expect("a role") {
                assert_denied(&status, ("role", needed));
            } else {
                assert_eq!(status.code(), Code::InvalidArgument, "{method} by a {token}: {status:?}");
            }
        }
        let status = raw.send(&method, &[], frame(b"\xff")).await.status.expect("a status");
        assert_eq!(status.code(), Code::Unauthenticated, "{method} by nobody");
    }
    server.stop().await;
}

#[tokio::test]
async fn admin_of_some_owners_can_purge_but_not_read_statistics() {
    let (server, _folder) = server().await;
    let mut admin = server.admin().await;
    let status = admin.get_stats(bearer("team-admin", GetStatsRequest {})).await.expect_err("it counts all jobs");
    assert_denied(&status, ("owner", "*"));
    admin.get_stats(bearer("admin", GetStatsRequest {})).await.expect("an admin of all");
    admin.purge_jobs(bearer("team-admin", PurgeJobsRequest::default())).await.expect("its own are purged");
    server.stop().await;
}

#[tokio::test]
async fn a_refusal_over_grpc_web_is_one_of_grpc() {
    let (server, _folder) = server().await;
    let http = Http::builder(TokioExecutor::new()).build_http();
    for (token, method, code) in [
        (None, "JobService/GetJob", Code::Unauthenticated),
        (Some("Bearer nobody"), "JobService/GetJob", Code::Unauthenticated),
        (Some("Bearer reader"), "JobService/CreateJob", Code::PermissionDenied),
        (Some("Bearer reporter"), "AdminService/PurgeJobs", Code::PermissionDenied),
    ] {
        let uri = format!("http://{}/jobtrack.v1.{method}", server.address);
        let mut request = http::Request::post(uri).header("content-type", "application/grpc-web+proto");
        if let Some(token) = token {
            request = request.header("authorization", token);
        }
        let request = request.body(Full::new(bytes::Bytes::from(frame(b"")))).expect("a valid request");
        let response = http.request(request).await.expect("it answers");
        assert_eq!(response.status(), StatusCode::OK);
        let status = tonic::Status::from_header_map(response.headers()).expect("a status");
        assert_eq!(status.code(), code, "{method}");
        error_info(&status);
    }
    server.stop().await;
}
