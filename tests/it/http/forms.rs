//! The JSON forms of fields, and invalid JSON.

use std::io::{Read, Write};

use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::Method;
use rstest::rstest;
use serde_json::{Value, json};

use crate::support::{Server, json::Http};

const JSON: (&str, &str) = ("content-type", "application/json");

/// Without the limit, a compressed body of 2 KB could become a tree of a million values.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_maximum_number_of_values() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let body = |values: usize| format!("{{\"result\": {{\"a\": [{}0]}}}}", "0,".repeat(values - 4));
    http.send(Method::POST, "/v1/jobs", &[JSON], "{\"kind\": \"k\", \"jobId\": \"a\"}").await.ok();
    let refused = http.send(Method::POST, "/v1/jobs/a:complete", &[JSON], body(50_001)).await.refused(400);
    assert_eq!(refused, "body: must have at most 50000 values");
    let ended = http.send(Method::POST, "/v1/jobs/a:complete", &[JSON], body(50_000)).await.ok();
    assert_eq!(ended["job"]["result"]["a"].as_array().expect("a list").len(), 49_997);
    server.stop().await;
}

/// The error must not ask for a retry, because the memory limit of the server does not change.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_fewer_values_where_memory_is_small() {
    let server = Server::with(&["--max-memory", "64MiB"]).await;
    let body = |values: usize| format!("{{\"kind\": \"k\", \"metadata\": {{\"a\": [{}0]}}}}", "0,".repeat(values));
    let http = Http::new(server.address);
    let reply = http.send(Method::POST, "/v1/jobs", &[JSON], body(10_000)).await;
    let message = reply.refused(400);
    assert!(message.starts_with("body: must have at most 2097 values, because of --max-memory"), "{message}");
    assert_eq!(reply.header("retry-after"), "");
    http.send(Method::POST, "/v1/jobs", &[JSON], body(800)).await.ok();
    server.stop().await;
}

/// Returns a document of this depth.
fn nested(depth: usize) -> String {
    "{\"a\":".repeat(depth) + "1" + &"}".repeat(depth)
}

#[rstest]
#[case::empty("", "kind: must be given: the sort of work, such as video.render")]
#[case::null("null", "body: invalid type: null, expected a map at line 1 column 4")]
#[case::list("[]", "body: invalid type: sequence, expected a map at line 1 column 0")]
#[case::cut_off("{\"kind\": \"k\"", "body: EOF while parsing an object at line 1 column 12")]
#[case::position("{\n  \"kind\": k }", "kind: expected value at line 2 column 11")]
#[case::unknown("{\"kin\": 1}", "body: unrecognized field name 'kin' at line 1 column 6")]
#[case::unknown_inside(
    "{\"kind\": \"k\", \"labels\": {\"a\": 1}}",
    "labels.a: invalid type: integer `1`, expected a string"
)]
#[case::trailing("{} {}", "body: trailing characters at line 1 column 4")]
#[case::number_for_text("{\"kind\": 1}", "kind: invalid type: integer `1`, expected a string at line 1 column 10")]
#[case::duration("{\"kind\": \"k\", \"leaseTimeout\": \"1m\"}", "lease_timeout: ")]
#[case::duration_as_number("{\"kind\": \"k\", \"retention\": 5}", "retention: invalid type: integer `5`")]
#[case::boolean_as_text(
    "{\"failWhenLost\": \"true\"}",
    "fail_when_lost: invalid type: string \"true\", expected a boolean"
)]
#[case::not_utf8("{\"kind\": \"\u{e9}", "kind: EOF while parsing a string")]
#[case::list_for_document("{\"metadata\": [1]}", "metadata: invalid type: sequence")]
#[case::twice("{\"kind\": \"a\", \"kind\": \"b\"}", "kind: is given more than once at line 1 column 26")]
#[case::twice_and_absent("{\"kind\": \"a\", \"kind\": null}", "kind: is given more than once")]
#[case::twice_by_two_names("{\"job_id\": \"a\", \"jobId\": \"a\"}", "job_id: is given more than once")]
#[case::twice_escaped("{\"kind\": \"a\", \"k\\u0069nd\": \"b\"}", "kind: is given more than once")]
#[case::label_twice("{\"labels\": {\"a\": \"1\", \"a\": \"2\"}}", "labels.a: is given more than once")]
#[case::twice_in_a_document(
    "{\"metadata\": {\"list\": [{\"a\": 1, \"a\": {}}]}}",
    "metadata.list[0].a: is given more than once"
)]
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_with_field_and_position(#[case] body: &str, #[case] expected: &str) {
    let server = Server::start().await;
    let reply = Http::new(server.address).send(Method::POST, "/v1/jobs", &[JSON], body.to_owned()).await;
    let message = reply.refused(400);
    assert!(message.starts_with(expected), "{message}");
    let details = &reply.json()["error"]["details"];
    assert_eq!(details[0]["reason"], "INVALID_FIELD");
    let field = &details[1]["fieldViolations"][0]["field"];
    assert_eq!(
        Some(field.as_str().expect("a field")),
        expected.split(": ").next().map(|field| field.trim_end_matches(':'))
    );
    server.stop().await;
}

/// A long request must not be repeated in the error.
#[tokio::test(flavor = "multi_thread")]
async fn errors_repeat_only_the_beginning_of_what_was_sent() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let long = "x".repeat(1 << 20);
    for body in [json!({&long: 1}), json!({"labels": {&long: 1}}), json!({"kind": {&long: 1}}), json!({"view": long})] {
        let reply = http.post("/v1/jobs", body).await;
        reply.refused(400);
        assert!(reply.body.len() < 2000, "{} bytes", reply.body.len());
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_fields_as_those_of_grpc_do() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    for (path, body, field) in [
        ("/v1/jobs/a:progress", json!({"progress": {"stageIndex": "x"}}), "progress.stage_index"),
        ("/v1/jobs/a:progress", json!({"progress": {"stageIndex": -1}}), "progress.stage_index"),
        ("/v1/jobs:purge", json!({"states": ["SUCCEEDED", "LOST"]}), "states[1]"),
        (
            "/v1/jobs/a:fail",
            json!({"failure": {"details": {"leaseTimeout": [1, {"a": 1}], "x": 1}, "code": "x"}}),
            "failure.code",
        ),
    ] {
        let reply = http.post(path, body).await;
        assert!(reply.refused(400).starts_with(&format!("{field}: ")), "{:?}", reply.body);
    }
    for (path, field) in [
        ("/v1/jobs?state=RUNNING&state=LOST", "filter.states[1]"),
        ("/v1/jobs?createdAfter=now", "filter.created_after"),
        ("/v1/jobs?kind=a&kind=b", "filter.kind"),
        ("/v1/jobs/a?minRevision=x", "min_revision"),
        ("/v1/jobs/a?jobId=b", "job_id"),
    ] {
        let reply = http.get(path).await;
        assert!(reply.refused(400).starts_with(&format!("{field}: ")), "{:?}", reply.body);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_are_taken_in_all_forms_and_given_in_one() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let body = json!({
        "job_id": "a", "kind": "k", "lease_timeout": "1.5s", "owner": null,
        "metadata": {"null": null, "number": -0.25, "big": 1e21, "text": "\u{0}\u{1f600}", "list": [[]], "": {}}
    });
    let made = http.post("/v1/jobs", &body).await.ok();
    assert_eq!(made["created"], true);
    let job = &made["job"];
    assert_eq!(
        (&job["leaseTimeout"], &job["state"], &job["revision"]),
        (&json!("1.500s"), &json!("PENDING"), &json!("1"))
    );
    assert_eq!(job["metadata"], body["metadata"]);
    assert_eq!(job.get("owner"), None, "defaults are left out");
    for progress in [json!({"completed": 3, "total": "4"}), json!({"completed": "3", "total": 4.0})] {
        let job = http.post("/v1/jobs/a:progress", json!({ "progress": progress })).await.ok()["job"].take();
        assert_eq!(job["progress"], json!({"percent": 75.0, "completed": "3", "total": "4"}));
    }
    for view in ["BASIC", "VIEW_BASIC", "1"] {
        let reply = http.get(&format!("/v1/jobs/a?view={view}")).await;
        if view == "1" { _ = reply.refused(400) } else { assert_eq!(reply.ok()["job"].get("metadata"), None) }
    }
    assert!(http.get("/v1/jobs/a?view=HALF").await.refused(400).starts_with("view: unrecognized enum value 'HALF'"));
    assert!(
        http.get("/v1/jobs?pageSize=many").await.refused(400).starts_with("page_size: invalid digit found in string")
    );
    assert_eq!(http.get("/v1/jobs?sort=age").await.refused(400), "sort: is not a parameter of this path");
    assert!(http.post("/v1/jobs/a:cancel?force=true", "{}").await.refused(400).starts_with("force: "));
    assert!(http.post("/v1/jobs/a:cancel", r#"{"jobId": "b"}"#).await.refused(400).starts_with("job_id: "));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn depth_is_limited_as_through_grpc() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    for (depth, message) in [
        (16, ""),
        (17, "metadata: "),
        (126, "metadata: "),
        (127, "metadata."),
        (40_000, "metadata."),
        (100_000, "body: "),
    ] {
        let reply = http.post("/v1/jobs", format!("{{\"kind\": \"k\", \"metadata\": {}}}", nested(depth))).await;
        if message.is_empty() {
            reply.ok();
        } else {
            let refused = reply.refused(400);
            assert!(refused.starts_with(message), "{depth}: {refused}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_may_be_compressed_in_both_directions() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let gzip = |bytes: &[u8]| {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(bytes).and_then(|()| encoder.finish()).expect("a vector takes everything")
    };
    let body = json!({"jobId": "a", "kind": "k", "metadata": {"text": "x".repeat(10_000)}}).to_string();
    let headers = [JSON, ("content-encoding", "gzip")];
    http.send(Method::POST, "/v1/jobs", &headers, gzip(body.as_bytes())).await.ok();
    for name in ["GZIP", "x-gzip", "identity, Gzip"] {
        let headers = [JSON, ("content-encoding", name)];
        http.send(Method::POST, "/v1/jobs/a:progress", &headers, gzip(b"{}")).await.ok();
    }
    for name in ["gzip, gzip", "br, gzip"] {
        http.send(Method::POST, "/v1/jobs", &[JSON, ("content-encoding", name)], gzip(b"{}")).await.refused(415);
    }
    let bomb = gzip(&vec![b' '; 100 << 20]);
    let reply = http.send(Method::POST, "/v1/jobs", &headers, bomb).await;
    assert_eq!(reply.refused(429), "the request is larger than 2097152 bytes");
    assert_eq!(
        http.send(Method::POST, "/v1/jobs", &headers, "{}").await.refused(400),
        "body: it is not compressed with gzip"
    );

    let plain = http.get("/v1/jobs/a").await;
    let reply = http.send(Method::GET, "/v1/jobs/a", &[("accept-encoding", "br, gzip")], "").await;
    assert_eq!((plain.header("content-encoding"), reply.header("content-encoding")), ("", "gzip"));
    assert!(reply.body.len() < plain.body.len() / 5, "{} bytes", reply.body.len());
    let mut unpacked = Vec::new();
    GzDecoder::new(&*reply.body).read_to_end(&mut unpacked).expect("gzip");
    assert_eq!(serde_json::from_slice::<Value>(&unpacked).expect("JSON"), plain.json());

    let plain = http.get("/v1/openapi.json").await;
    let reply = http.send(Method::GET, "/v1/openapi.json", &[("accept-encoding", "gzip")], "").await;
    assert_eq!((plain.header("content-encoding"), reply.header("content-encoding")), ("", "gzip"));
    assert!(reply.body.len() < plain.body.len() / 3, "{} bytes", reply.body.len());
    assert_eq!(reply.header("content-length"), reply.body.len().to_string());
    server.stop().await;
}
