//! Every error has the same code, message and details through gRPC and through JSON.

use std::{collections::BTreeSet, fs, path::Path};

use futures_util::{StreamExt, stream};
use http::Method;
use serde_json::{Value, json};
use tonic::Code;

use super::transcoder;
use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    json::{Http, Reply},
    raw::{Raw, frame},
    records::key_of,
    redis::Redis,
    until,
};

/// Returns the name of a code in JSON.
pub fn name_of(code: Code) -> String {
    let name = format!("{code:?}");
    let mut words = String::new();
    for (at, letter) in name.char_indices() {
        if at > 0 && letter.is_uppercase() {
            words.push('_');
        }
        words.extend(letter.to_uppercase());
    }
    words
}

/// A server, and one client of each kind.
struct Both {
    server: Server,
    raw: Raw,
    http: Http,
    seen: BTreeSet<String>,
}

impl Both {
    async fn with(flags: &[&str]) -> Self {
        let server = Server::with(flags).await;
        let raw = Raw::connect(server.address).await;
        let http = Http::new(server.address);
        Self { server, raw, http, seen: BTreeSet::new() }
    }

    /// Makes a call through JSON, which must succeed.
    async fn prepare(&self, path: &str, body: &Value) {
        self.http.post(path, body).await.ok();
    }

    /// Makes a call through gRPC and through JSON. Both must fail with the reason `expected`, and with the same error.
    async fn refuse(&mut self, expected: (&str, u16), rpc: &'static str, request: &Value, verb: Method, path: &str) {
        self.refuse_with(expected, rpc, request, verb, path, &[]).await;
    }

    async fn refuse_with(
        &mut self,
        (reason, http): (&str, u16),
        rpc: &'static str,
        request: &Value,
        verb: Method,
        path: &str,
        headers: &[(&'static str, &str)],
    ) -> Reply {
        let message = transcoder::request(rpc, request);
        let status = self.raw.send(rpc, headers, frame(&message)).await.outcome().expect_err(reason);
        let body = if verb == Method::POST { request.to_string() } else { String::new() };
        let headers: Vec<_> = headers.iter().copied().chain([("content-type", "application/json")]).collect();
        let reply = self.http.send(verb, path, &headers, body).await;
        assert_eq!(reply.status, http, "{reason}: {:?}", reply.body);
        assert_eq!(reply.json(), transcoder::error(&status, http, &name_of(status.code())), "{reason}");
        let details = reply.json()["error"]["details"].take();
        let reasons = details.as_array().into_iter().flatten().filter_map(|detail| detail["reason"].as_str());
        assert_eq!(reasons.collect::<Vec<_>>(), [reason]);
        let has_retry = reply.body.windows(9).any(|part| part == b"RetryInfo");
        assert_eq!(has_retry, !reply.header("retry-after").is_empty(), "{reason}");
        self.seen.insert(reason.to_owned());
        reply
    }
}

/// Errors that depend on the job.
async fn refusals_for_a_job(seen: &mut BTreeSet<String>) {
    let mut both = Both::with(&[]).await;
    let (get, post) = (Method::GET, Method::POST);
    for (id, calls) in [
        ("pending", &[][..]),
        ("running", &[("start", json!({"worker": "w", "leaseTimeout": "60s"}))]),
        ("done", &[("complete", json!({}))]),
        ("again", &[("progress", json!({"attempt": 2}))]),
    ] {
        both.prepare("/v1/jobs", &json!({"jobId": id, "kind": "k"})).await;
        for (verb, body) in calls {
            both.prepare(&format!("/v1/jobs/{id}:{verb}"), body).await;
        }
    }
    let job = |id: &str| json!({"jobId": id});
    both.refuse(("JOB_NOT_FOUND", 404), "JobService/GetJob", &job("none"), get.clone(), "/v1/jobs/none").await;
    both.refuse(("INVALID_FIELD", 400), "JobService/GetJob", &job("a b"), get.clone(), "/v1/jobs/a%20b").await;
    let create = json!({"jobId": "done", "kind": "k", "requestId": "other"});
    both.refuse(("JOB_EXISTS", 409), "JobService/CreateJob", &create, post.clone(), "/v1/jobs").await;
    both.refuse(
        ("JOB_FINISHED", 400),
        "JobService/UpdateProgress",
        &job("done"),
        post.clone(),
        "/v1/jobs/done:progress",
    )
    .await;
    let stale = json!({"jobId": "again", "attempt": 1});
    both.refuse(("STALE_ATTEMPT", 400), "JobService/CompleteJob", &stale, post.clone(), "/v1/jobs/again:complete")
        .await;
    both.refuse(
        ("ATTEMPT_RUNNING", 400),
        "JobService/StartAttempt",
        &job("running"),
        post.clone(),
        "/v1/jobs/running:start",
    )
    .await;
    let path = "/v1/jobs/running:confirmCancel";
    both.refuse(("CANCEL_NOT_REQUESTED", 400), "JobService/ConfirmCancel", &job("running"), post.clone(), path).await;
    both.refuse(("JOB_ACTIVE", 400), "JobService/DeleteJob", &job("pending"), Method::DELETE, "/v1/jobs/pending").await;
    let other = json!({"jobId": "running", "expectedRevision": "99"});
    both.refuse(
        ("REVISION_MISMATCH", 409),
        "JobService/UpdateProgress",
        &other,
        post.clone(),
        "/v1/jobs/running:progress",
    )
    .await;
    let newer = json!({"jobId": "done", "minRevision": "99"});
    both.refuse(
        ("REVISION_NOT_REACHED", 503),
        "JobService/GetJob",
        &newer,
        get.clone(),
        "/v1/jobs/done?minRevision=99",
    )
    .await;
    let late = [("grpc-timeout", "1n")];
    both.refuse_with(("DEADLINE_EXCEEDED", 504), "JobService/GetJob", &job("done"), get, "/v1/jobs/done", &late).await;
    let long = json!({"jobId": "done", "result": {"text": "x".repeat(2 << 20)}});
    both.refuse(("MESSAGE_TOO_LARGE", 429), "JobService/CompleteJob", &long, post, "/v1/jobs/done:complete").await;
    seen.extend(both.seen);
    both.server.stop().await;
}

/// Errors that depend on the limits and the store of the server.
async fn refusals_of_a_server(seen: &mut BTreeSet<String>) {
    let create = json!({"jobId": "b", "kind": "k", "owner": "o"});
    for (reason, flags) in
        [("TOO_MANY_JOBS", ["--max-jobs-per-owner", "1"]), ("MEMORY_FULL", ["--max-memory-jobs", "1"])]
    {
        let mut both = Both::with(&flags).await;
        both.prepare("/v1/jobs", &json!({"jobId": "a", "kind": "k", "owner": "o"})).await;
        both.refuse((reason, 429), "JobService/CreateJob", &create, Method::POST, "/v1/jobs").await;
        seen.extend(both.seen);
        both.server.stop().await;
    }
    let mut away = Both::with(&["--redis-url", "redis://127.0.0.1:1"]).await;
    let job = json!({"jobId": "a"});
    away.refuse(("STORE_UNAVAILABLE", 503), "JobService/GetJob", &job, Method::GET, "/v1/jobs/a").await;
    seen.extend(away.seen);
    away.server.stop().await;
}

/// Errors because of a damaged record in Redis.
async fn refusals_for_a_record(seen: &mut BTreeSet<String>) {
    let redis = Redis::start().await;
    let mut both = Both::with(&["--redis-url", &redis.url()]).await;
    both.prepare("/v1/jobs", &json!({"jobId": "broken", "kind": "k"})).await;
    redis.command(&["HDEL", &key_of(&redis, "broken").await, "job"]).await;
    let job = json!({"jobId": "broken"});
    both.refuse(("JOB_CORRUPT", 500), "JobService/GetJob", &job, Method::GET, "/v1/jobs/broken").await;
    seen.extend(both.seen);
    both.server.stop().await;
}

/// Errors because of the memory limit.
async fn refusals_of_a_full_server(seen: &mut BTreeSet<String>) {
    let mut both = Both::with(&["--max-memory", "64MiB"]).await;
    let metadata = json!({"text": "x".repeat(16_000)});
    let jobs = (0..4000).map(|number| json!({"jobId": format!("job-{number}"), "kind": "k", "metadata": metadata}));
    let made = stream::iter(jobs).map(|job| both.http.post("/v1/jobs", job));
    let refused = made.buffer_unordered(8).any(|reply| async move { reply.status != 200 }).await;
    assert!(refused, "4000 jobs of 16 KB fit into 64 MiB");
    let job = json!({"jobId": "one-more", "kind": "k", "metadata": metadata});
    both.refuse(("TOO_MANY_BYTES", 429), "JobService/CreateJob", &job, Method::POST, "/v1/jobs").await;
    seen.extend(both.seen);
    both.server.stop().await;
}

/// The error of callers that exceed their rate limit. The delay in the error depends on the time, and is not compared.
async fn refusals_of_a_rate(seen: &mut BTreeSet<String>) {
    let both = Both::with(&["--max-calls-per-second", "1"]).await;
    let message = transcoder::request("JobService/GetJob", &json!({"jobId": "a"}));
    let reason = |error: &Value| error["error"]["details"][0]["reason"].clone();
    let compared = until("two calls within a second", async || {
        let status = both.raw.send("JobService/GetJob", &[], frame(&message)).await.outcome().err()?;
        let reply = both.http.get("/v1/jobs/a").await;
        let expected = transcoder::error(&status, 429, &name_of(status.code()));
        (reason(&expected) == "RATE_LIMITED" && reply.status == 429).then_some((reply, expected))
    });
    let (reply, expected) = compared.await;
    assert!(!reply.header("retry-after").is_empty());
    let without_delay = |mut error: Value| {
        let details = error["error"]["details"].as_array_mut().expect("details");
        let delay = details.iter_mut().find_map(|detail| detail.get_mut("retryDelay")).map(Value::take);
        assert!(delay.is_some_and(|delay| delay.is_string()));
        error
    };
    assert_eq!(without_delay(reply.json()), without_delay(expected));
    seen.insert("RATE_LIMITED".to_owned());
    both.server.stop().await;
}

/// Errors that depend on the caller.
async fn refusals_of_a_caller(seen: &mut BTreeSet<String>) {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("reader", "reader", &json!("*"))]));
    let mut both = Both::with(&["--auth-tokens", &file]).await;
    let job = json!({"jobId": "a"});
    let reply =
        both.refuse_with(("UNAUTHENTICATED", 401), "JobService/GetJob", &job, Method::GET, "/v1/jobs/a", &[]).await;
    assert_eq!(reply.header("www-authenticate"), "Bearer");
    let reader = [("authorization", "Bearer reader")];
    let (rpc, path) = ("JobService/DeleteJob", "/v1/jobs/a");
    both.refuse_with(("PERMISSION_DENIED", 403), rpc, &job, Method::DELETE, path, &reader).await;
    both.refuse_with(("JOB_NOT_FOUND", 404), "JobService/GetJob", &job, Method::GET, path, &reader).await;
    // The token of an identity is not accepted in a URL, because URLs are shared and logged.
    for path in ["/v1/jobs/a?access_token=reader", "/v1/jobs/a/events?access_token=reader", "/v1/jobs?access_token=%00"]
    {
        both.http.get(path).await.refused(401);
    }
    // An unauthenticated caller learns nothing about the request, not even that it is invalid.
    let body = "{".repeat(1 << 20);
    let reply = both.http.send(Method::POST, "/v1/jobs", &[("content-type", "application/json")], body).await;
    reply.refused(401);
    seen.extend(both.seen);
    both.server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_is_the_same_through_grpc_and_json() {
    let mut seen = BTreeSet::new();
    refusals_for_a_job(&mut seen).await;
    refusals_of_a_server(&mut seen).await;
    refusals_for_a_record(&mut seen).await;
    refusals_of_a_full_server(&mut seen).await;
    refusals_of_a_rate(&mut seen).await;
    refusals_of_a_caller(&mut seen).await;
    // The first two are errors of streams, which the tests of events cover. A connection beyond the limit is closed
    // without an answer.
    seen.extend(["SERVER_DRAINING", "TOO_MANY_WATCHES", "TOO_MANY_CONNECTIONS"].map(str::to_owned));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/grpc/status.rs");
    let source = fs::read_to_string(source).expect("a source file");
    let is_reason =
        |text: &&str| text.len() > 4 && text.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_');
    let reasons: BTreeSet<_> = source.split('"').filter(is_reason).map(str::to_owned).collect();
    assert_eq!(seen, reasons, "each reason is tested");
}
