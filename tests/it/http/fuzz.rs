//! Random requests: no request may cause an internal error of the server.

use std::{collections::BTreeMap, env, iter::repeat_with, process::Command};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use proptest::{
    strategy::{Strategy, ValueTree},
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

use crate::support::{
    json::Http,
    process::{Process, command, command_of},
};

/// Number of requests of the short run.
const REQUESTS: usize = 3_000;

/// Default number of requests of the long run.
const MANY_REQUESTS: usize = 100_000;

/// Number of parts of a run. The memory of the server is measured after each.
const PARTS: usize = 10;

/// Number of parts after which memory must not grow any more.
const WARM_UP: usize = PARTS / 5;

/// Number of concurrent requests.
const CONCURRENT: usize = 16;

/// Bytes by which the memory of the server may grow after the warm-up, because the allocator keeps the memory of a busy
/// moment. A leak of 210 bytes per request would exceed this limit in the long run.
const GROWTH_MAX: u64 = 16 << 20;

/// Parts of paths, most of them from real paths.
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

/// Query parameters, and parts of parameters.
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

/// Bodies, and parts of bodies.
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
    body: Vec<u8>,
    over_http2: bool,
}

/// Returns random requests. Each run has the same sequence.
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
        let path: String = (0..=paths).map(|_| part(&mut pick, &PATHS)).collect();
        let query: Vec<_> = (0..queries).map(|_| part(&mut pick, &QUERIES)).collect();
        let path = format!("/{}?{}", path.trim_start_matches('/'), query.join("&"));
        let mut headers: Vec<_> = (0..headers / 2).map(|_| HEADERS[pick(HEADERS.len())]).collect();
        if method == Method::POST && pick(4) > 0 {
            headers.push(HEADERS[0]);
        }
        let mut body: Vec<u8> = (0..bodies).flat_map(|_| BODIES[pick(BODIES.len())].bytes()).collect();
        if !body.is_empty() && pick(8) == 0 {
            let at = pick(body.len());
            body[at] = u8::try_from(pick(256)).expect("a byte");
        }
        Made { method, path, headers, body, over_http2: pick(2) == 0 }
    })
}

/// Returns one of these parts of a URL, or a percent-encoded byte.
fn part(pick: &mut impl FnMut(usize) -> usize, parts: &[&str]) -> String {
    if pick(16) == 0 { format!("%{:02X}", pick(256)) } else { parts[pick(parts.len())].replace('é', "%C3%A9") }
}

/// Sends a request, and returns the status. Only the head of an event stream is read.
async fn send(clients: &[Http; 2], made: Made) -> StatusCode {
    let http = &clients[usize::from(made.over_http2)];
    let response = http.open(made.method, &made.path, &made.headers, Bytes::from(made.body)).await;
    let (head, body) = response.into_parts();
    if head.headers.get("content-type").is_none_or(|kind| kind != "text/event-stream") {
        body.collect().await.expect("the whole body");
    }
    head.status
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_makes_the_server_fail_or_grow() {
    send_by_chance(command(&FLAGS), REQUESTS).await;
}

/// Sends `JOBTRACK_FUZZ_REQUESTS` requests, by default 100,000, to the binary `JOBTRACK_FUZZ_BINARY`, by default that
/// of this build.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: see CONTRIBUTING.md"]
async fn many_requests_make_the_server_neither_fail_nor_grow() {
    let requests = env::var("JOBTRACK_FUZZ_REQUESTS").map(|number| number.parse().expect("a number"));
    let command = match env::var_os("JOBTRACK_FUZZ_BINARY") {
        Some(binary) => command_of(&binary, &FLAGS),
        None => command(&FLAGS),
    };
    send_by_chance(command, requests.unwrap_or(MANY_REQUESTS)).await;
}

/// Flags of the server: few jobs, so that memory does not grow with them.
const FLAGS: [&str; 2] = ["--max-memory-jobs", "20"];

/// Sends this number of requests to the server that `command` starts.
async fn send_by_chance(command: Command, count: usize) {
    let process = Process::run(command);
    let clients = [Http::new(process.address), Http::http2(process.address)];
    let mut requests = requests();
    let mut statuses: BTreeMap<u16, usize> = BTreeMap::new();
    let mut sizes = Vec::new();
    for _ in 0..PARTS {
        let part: Vec<_> = requests.by_ref().take(count / PARTS).collect();
        let answers = stream::iter(part).map(async |made| (send(&clients, made.clone()).await, made));
        for (status, made) in answers.buffer_unordered(CONCURRENT).collect::<Vec<_>>().await {
            let is_failure = status.is_server_error() && status != StatusCode::SERVICE_UNAVAILABLE;
            assert!(!is_failure, "{status}: {made:?}");
            *statuses.entry(status.as_u16()).or_default() += 1;
        }
        sizes.push(process.resident());
    }
    println!("{count} requests: {statuses:?}; resident bytes after each tenth: {sizes:?}");
    for expected in [200, 400, 404, 405, 415] {
        assert!(statuses.contains_key(&expected), "no {expected}: {statuses:?}");
    }
    assert!(sizes[PARTS - 1] < sizes[WARM_UP - 1] + GROWTH_MAX, "it grows: {sizes:?}");
    assert!(!process.log().contains("panicked"), "{}", process.log());
    clients[0].get("/v1/stats").await.ok();
}
