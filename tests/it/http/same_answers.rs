//! Every method answers the same through gRPC and through JSON.

use std::{collections::BTreeSet, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::Method;
use serde_json::{Value, json};

use super::transcoder;
use crate::support::{
    Server,
    clocks::TestClock,
    json::Http,
    raw::{Raw, frame, methods},
};

/// A call in its gRPC form and in its HTTP form.
struct Case {
    rpc: &'static str,
    request: Value,
    verb: Method,
    path: &'static str,
    body: Value,
}

fn post(rpc: &'static str, request: Value, path: &'static str, body: Value) -> Case {
    Case { rpc, request, verb: Method::POST, path, body }
}

fn get(rpc: &'static str, request: Value, path: &'static str) -> Case {
    Case { rpc, request, verb: Method::GET, path, body: Value::Null }
}

/// Calls that depend on each other. They contain each field of each request, in one of its JSON forms.
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn cases() -> Vec<Case> {
    let creation = json!({
        "jobId": "a:1", "requestId": "r", "kind": "video.render", "owner": "média \u{1f600}", "title": "t\"\\\n",
        "labels": {"k": "v", "": "x"}, "leaseTimeout": "90.5s", "failWhenLost": true, "retention": "0s",
        "startTimeout": "3600s", "metadata": {"n": null, "x": [1, "two", {"three": 3.5}], "b": true, "e": {}}
    });
    let mut valid = creation.clone();
    valid["labels"] = json!({"k": "v", "k.2": "w"});
    let snake = json!({
        "job_id": "b", "request_id": "r", "kind": "x", "lease_timeout": "60s", "fail_when_lost": false, "labels": {}
    });
    let progress = json!({
        "percent": 12.5, "completed": "5", "total": 40, "unit": "frames", "stage": "one", "stageIndex": 1,
        "stageCount": 2, "message": "m", "details": {"deep": [[[{"a": [1]}]]]}
    });
    let report = json!({"worker": "w", "sequence": "7", "attempt": 1, "expectedRevision": "2", "progress": progress});
    let with_id = |mut request: Value, id: &str| {
        request["jobId"] = id.into();
        request
    };
    let failure = json!({"code": 5, "reason": "R", "message": "m", "details": {"a": 1}});
    let failing = json!({"failure": failure, "attempt": 1, "expectedRevision": 2, "retry": true});
    let filter = json!({
        "states": ["STATE_RUNNING", "STATE_SUCCEEDED"], "kind": "video.render", "owner": "média \u{1f600}",
        "labels": {"k": "v"}, "createdAfter": "2020-01-01T00:00:00Z", "createdBefore": "2100-01-01T00:00:00Z",
        "updatedAfter": "2020-01-01T00:00:00.5Z", "idPrefix": "a"
    });
    vec![
        post("JobService/CreateJob", creation.clone(), "/v1/jobs", creation),
        post("JobService/CreateJob", valid.clone(), "/v1/jobs", valid.clone()),
        post("JobService/CreateJob", valid.clone(), "/v1/jobs", valid),
        post("JobService/CreateJob", snake.clone(), "/v1/jobs", snake),
        get("JobService/GetJob", json!({"jobId": "a:1"}), "/v1/jobs/a:1"),
        get("JobService/GetJob", json!({"jobId": "a:1", "view": "VIEW_BASIC"}), "/v1/jobs/a%3A1?view=BASIC"),
        get("JobService/GetJob", json!({"jobId": "a:1", "minRevision": "1"}), "/v1/jobs/a:1?min_revision=1"),
        post(
            "JobService/CreateWatchToken",
            json!({"jobIds": ["a:1"], "ttl": "60s", "view": "VIEW_FULL"}),
            "/v1/jobs/a:1:watchToken",
            json!({"ttl": "60s", "view": "FULL"}),
        ),
        post(
            "JobService/CreateWatchToken",
            json!({"jobIds": ["b"]}),
            "/v1/jobs/b:watchToken",
            json!({"jobIds": ["b"]}),
        ),
        post("JobService/CreateWatchToken", json!({"jobIds": ["no"]}), "/v1/jobs/no:watchToken", json!({})),
        post(
            "JobService/CreateWatchToken",
            json!({"jobIds": ["b"], "ttl": "-1s"}),
            "/v1/jobs/b:watchToken",
            json!({"ttl": "-1s"}),
        ),
        post("JobService/UpdateProgress", with_id(report.clone(), "a:1"), "/v1/jobs/a:1:progress", report.clone()),
        post(
            "JobService/UpdateProgress",
            with_id(json!({"attempt": 1, "worker": "w", "progress": {"percent": 50}}), "a:1"),
            "/v1/jobs/a:1:progress",
            json!({"jobId": "a:1", "attempt": 1, "worker": "w", "progress": {"percent": "50"}}),
        ),
        post(
            "JobService/UpdateProgress",
            with_id(json!({"sequence": "1"}), "a:1"),
            "/v1/jobs/a:1:progress",
            json!({"sequence": 1}),
        ),
        post(
            "JobService/CompleteJob",
            json!({"jobId": "a:1", "attempt": 1, "result": {"url": "s3://é", "n": 1e300}}),
            "/v1/jobs/a:1:complete",
            json!({"attempt": 1, "result": {"url": "s3://é", "n": 1e300}}),
        ),
        post("JobService/UpdateProgress", json!({"jobId": "a:1"}), "/v1/jobs/a:1:progress", json!({})),
        post(
            "JobService/StartAttempt",
            json!({"jobId": "b", "worker": "w", "requestId": "q", "leaseTimeout": "5s", "takeover": true}),
            "/v1/jobs/b:start",
            json!({"worker": "w", "requestId": "q", "leaseTimeout": "5s", "takeover": true}),
        ),
        post(
            "JobService/StartAttempt",
            json!({"jobId": "b", "worker": "other"}),
            "/v1/jobs/b:start",
            json!({"worker": "other"}),
        ),
        post("JobService/FailJob", with_id(failing.clone(), "b"), "/v1/jobs/b:fail", failing),
        post("JobService/ConfirmCancel", json!({"jobId": "b"}), "/v1/jobs/b:confirmCancel", json!({})),
        post(
            "JobService/UpdateProgress",
            json!({"jobId": "b", "leaseTimeout": "0s"}),
            "/v1/jobs/b:progress",
            json!({"leaseTimeout": "0s"}),
        ),
        post(
            "JobService/CancelJob",
            json!({"jobId": "b", "reason": "r", "requester": "q", "grace": "3.25s"}),
            "/v1/jobs/b:cancel",
            json!({"reason": "r", "requester": "q", "grace": "3.25s", "force": null}),
        ),
        post(
            "JobService/ConfirmCancel",
            json!({"jobId": "b", "attempt": 2, "message": "done"}),
            "/v1/jobs/b:confirmCancel",
            json!({"attempt": 2, "message": "done"}),
        ),
        get(
            "JobService/BatchGetJobs",
            json!({"jobIds": ["a:1", "none", "b"]}),
            "/v1/jobs:batchGet?id=a:1&id=none&jobIds=b",
        ),
        get("JobService/ListJobs", json!({}), "/v1/jobs"),
        get(
            "JobService/ListJobs",
            json!({"filter": filter, "pageSize": 5, "view": "VIEW_FULL", "order": "ORDER_OLDEST"}),
            "/v1/jobs?state=RUNNING&states=STATE_SUCCEEDED&kind=video.render&owner=m%C3%A9dia+%F0%9F%98%80&label.k=v\
             &createdAfter=2020-01-01T00:00:00Z&created_before=2100-01-01T01:00:00%2B01:00\
             &updatedAfter=2020-01-01T00:00:00.500Z&idPrefix=a&pageSize=5&view=FULL&order=OLDEST",
        ),
        get(
            "JobService/ListJobs",
            json!({"filter": {"liveness": ["LIVENESS_LOST"], "worker": "w"}}),
            "/v1/jobs?liveness=LOST&worker=w&kind=",
        ),
        get("JobService/ListJobs", json!({"pageSize": -1}), "/v1/jobs?pageSize=-1"),
        get("JobService/ListJobs", json!({"pageToken": "nonsense"}), "/v1/jobs?pageToken=nonsense"),
        get("AdminService/GetStats", json!({}), "/v1/stats"),
        post(
            "AdminService/PurgeJobs",
            json!({"olderThan": "1s", "states": ["STATE_SUCCEEDED"], "kind": "k", "owner": "o", "dryRun": true}),
            "/v1/jobs:purge",
            json!({"olderThan": "1s", "states": ["SUCCEEDED"], "kind": "k", "owner": "o", "dryRun": true}),
        ),
        Case {
            verb: Method::DELETE,
            ..get("JobService/DeleteJob", json!({"jobId": "none", "force": true}), "/v1/jobs/none?force=true")
        },
        Case { verb: Method::DELETE, ..get("JobService/DeleteJob", json!({"jobId": "a:1"}), "/v1/jobs/a:1") },
        post("JobService/CreateJob", json!({}), "/v1/jobs", json!({})),
    ]
}

/// Returns a server whose clock stands still: two such servers give equal answers.
async fn server() -> Server {
    Server::with_clock(&[], Arc::new(TestClock::new())).await
}

/// Replaces the values that differ between two servers.
fn comparable(mut value: Value) -> Value {
    if let Some(fields) = value.as_object_mut() {
        if let Some(token) = fields.get_mut("token") {
            *token = claims(token.as_str().expect("text"));
        }
        for name in ["claim", "uptime", "nextPageToken", "expireTime"] {
            if let Some(field) = fields.get_mut(name) {
                *field = "…".into();
            }
        }
    }
    value
}

/// Returns the claims of a watch token, without the expiry, which depends on the clock of the machine, and without the
/// random incarnations of its jobs.
fn claims(token: &str) -> Value {
    let claims = token.split('.').nth(1).expect("a JWT has three parts");
    let claims = URL_SAFE_NO_PAD.decode(claims).expect("base64");
    let mut claims: Value = serde_json::from_slice(&claims).expect("JSON");
    claims["exp"].take();
    claims["jobs"].as_object_mut().expect("ids").values_mut().for_each(|incarnation| _ = incarnation.take());
    claims
}

#[tokio::test(flavor = "multi_thread")]
async fn every_method_answers_the_same_through_grpc_and_json() {
    let (through_grpc, through_json) = (server().await, server().await);
    let raw = Raw::connect(through_grpc.address).await;
    let clients = [Http::new(through_json.address), Http::http2(through_json.address)];
    let mut called = BTreeSet::new();
    for (number, case) in cases().into_iter().enumerate() {
        let what = format!("{number}: {} {}", case.rpc, case.path);
        let message = transcoder::request(case.rpc, &case.request);
        let answer = raw.send(case.rpc, &[], frame(&message)).await.outcome();
        let http = &clients[number % 2];
        let body = if case.body.is_null() { String::new() } else { case.body.to_string() };
        let reply = http.send(case.verb, case.path, &[("content-type", "application/json")], body).await;
        let expected = match answer {
            Ok(frame) => transcoder::answer(case.rpc, &frame[5..]),
            Err(status) => transcoder::error(&status, reply.status.as_u16(), &super::errors::name_of(status.code())),
        };
        assert_eq!(comparable(reply.json()), comparable(expected), "{what}");
        assert_eq!(reply.header("content-type"), "application/json", "{what}");
        called.insert(case.rpc.to_owned());
    }
    let all: BTreeSet<_> = methods(false).into_iter().collect();
    assert_eq!(called, all, "each method is called");
    through_grpc.stop().await;
    through_json.stop().await;
}
