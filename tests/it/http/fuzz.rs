//! Requests made by chance: whatever comes, the answer is no failure of the server.

use std::{collections::BTreeMap, iter::repeat_with};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::support::{json::Http, process::Process};

/// Number of requests: in a debug build only some.
const REQUESTS: usize = if cfg!(debug_assertions) { 3_000 } else { 100_000 };

/// Requests that are under way at a time.
const CONCURRENT: usize = 16;

/// Bytes by which the server may grow: its allocator keeps what a busy moment needed.
const GROWTH_MAX: u64 = 64 << 20;

/// Parts of paths, most of them of real ones.
const PATHS: [&str; 20] = [
    "/v1",
    "/v1/jobs",
    "/v1/events",
    "/v1/stats",
    "/v1/jobs/a",
    "/v1/jobs/a/events",
    "/",
    ":",
    ":start",
    ":progress",
    ":complete",
    ":cancel",
    ":batchGet",
    ":purge",
    ":fail",
    "/..",
    "%2F",
    "%00",
    "%FF",
    "é",
];

/// Parameters and parts of them.
const QUERIES: [&str; 16] = [
    "state=RUNNING",
    "state=",
    "state=nothing",
    "view=FULL",
    "view=1",
    "pageSize=1",
    "pageSize=-1",
    "pageSize=1e9",
    "label.a=b",
    "label.=",
    "id=a",
    "minRevision=9223372036854775807",
    "%00=%FF",
    "=",
    "resumeToken=1.1.1.1.a",
    "createdAfter=2020-01-01T00:00:00Z",
];

/// Bodies and parts of them.
const BODIES: [&str; 18] = [
    "{",
    "}",
    "[",
    "]",
    "\"",
    ":",
    ",",
    "null",
    "1e999",
    "-1",
    "\"kind\":\"k\"",
    "\"jobId\":\"a\"",
    "\u{0}",
    "\u{1f600}",
    "\"metadata\":{\"a\":[1,null]}",
    "\"progress\":{\"percent\":50}",
    "{\"kind\":\"k\",\"jobId\":\"a\"}",
    "\"force\":true",
];

const HEADERS: [(&str, &str); 12] = [
    ("content-type", "application/json"),
    ("content-type", "application/json; charset=\"utf-8\""),
    ("content-type", "text/plain"),
    ("content-type", "application/grpc-web-text"),
    ("content-encoding", "gzip"),
    ("accept-encoding", "gzip;q=,,;"),
    ("origin", "http://localhost"),
    ("sec-fetch-site", "same-origin"),
    ("last-event-id", "1.1.1.1.a"),
    ("last-event-id", "\u{e9}"),
    ("authorization", "Bearer"),
    ("access-control-request-method", "x"),
];

/// A request.
#[derive(Clone, Debug)]
struct Made {
    method: Method,
    path: String,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

/// Makes requests, the same ones in each run.
fn requests() -> impl Iterator<Item = Made> {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let parts = (0..5_usize, 0..4_usize, 0..4_usize, 0..8_usize, 0..8_usize);
    let strategy = (parts, proptest::collection::vec(0..1000_usize, 24));
    repeat_with(move || {
        let made = strategy.new_tree(&mut runner).expect("a request").current();
        let ((method, paths, queries, headers, bodies), choices) = made;
        let mut choices = choices.into_iter().cycle();
        let mut pick = move |count: usize| choices.next().expect("an endless supply") % count;
        let method = [Method::GET, Method::POST, Method::POST, Method::DELETE, Method::OPTIONS][method].clone();
        let path: String = (0..=paths).map(|_| PATHS[pick(PATHS.len())]).collect();
        let query: Vec<_> = (0..queries).map(|_| QUERIES[pick(QUERIES.len())]).collect();
        let path = format!("/{}?{}", path.trim_start_matches('/').replace('é', "%C3%A9"), query.join("&"));
        let mut headers: Vec<_> = (0..headers / 2).map(|_| HEADERS[pick(HEADERS.len())]).collect();
        if method == Method::POST && pick(4) > 0 {
            headers.push(HEADERS[0]);
        }
        let body = (0..bodies).map(|_| BODIES[pick(BODIES.len())]).collect();
        Made { method, path, headers, body }
    })
}

/// Sends a request. Returns the status; of events only the head is read.
async fn send(http: &Http, made: Made) -> StatusCode {
    let response = http.open(made.method, &made.path, &made.headers, Bytes::from(made.body)).await;
    let (head, body) = response.into_parts();
    if head.headers.get("content-type").is_none_or(|kind| kind != "text/event-stream") {
        body.collect().await.expect("the whole body");
    }
    head.status
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_the_server_fail_or_grow() {
    let process = Process::start(&["--max-memory-jobs", "20"]);
    let http = Http::new(process.address);
    let run = |requests: Vec<Made>| {
        let answers = stream::iter(requests).map(|made| {
            let http = http.clone();
            async move { (send(&http, made.clone()).await, made) }
        });
        answers.buffer_unordered(CONCURRENT).collect::<Vec<_>>()
    };
    let mut requests = requests();
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut after_first = 0;
    for round in 0..10 {
        for (status, made) in run(requests.by_ref().take(REQUESTS / 10).collect()).await {
            let is_failure = status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE;
            assert!(!is_failure, "{status}: {made:?}");
            *statuses.entry(status.as_u16()).or_default() += 1;
        }
        if round == 0 {
            after_first = process.resident();
        }
    }
    println!("{statuses:?}; {after_first} bytes, then {}", process.resident());
    for expected in [200, 400, 404, 405, 415] {
        assert!(statuses.contains_key(&expected), "no {expected}: {statuses:?}");
    }
    assert!(process.resident() < after_first + GROWTH_MAX, "{after_first} bytes, then {}", process.resident());
    http.get("/v1/stats").await.ok();
}
