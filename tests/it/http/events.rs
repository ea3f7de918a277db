//! Streams as server-sent events.

use http::Method;
use serde_json::json;
use tokio::time::{Duration, Instant};

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    events::{Event, Events},
    json::Http,
};

async fn make(http: &Http, id: &str) {
    http.post("/v1/jobs", json!({"jobId": id, "kind": "k", "metadata": {"a": 1}})).await.ok();
}

async fn report(http: &Http, id: &str, percent: u32) {
    http.post(&format!("/v1/jobs/{id}:progress"), json!({"progress": {"percent": percent}})).await.ok();
}

/// Expects the end of a job, and then the end of its stream.
async fn expect_end(events: &mut Events, state: &str) -> String {
    let last = events.expect("UPDATE").await;
    assert_eq!(last.data["job"]["state"], state);
    assert_eq!(events.rest().await, [Event { name: "end".to_owned(), data: json!({}), ..Event::default() }]);
    last.id
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_followed_to_its_end_and_no_further() {
    let server = Server::start().await;
    for (id, http) in [("a", Http::new(server.address)), ("b", Http::http2(server.address))] {
        let path = format!("/v1/jobs/{id}/events");
        assert_eq!(Events::open(&http, &path, &[]).await.status, 404);
        make(&http, id).await;
        let mut events = Events::open(&http, &path, &[]).await;
        assert_eq!(events.status, 200);
        for (name, value) in
            [("content-type", "text/event-stream"), ("cache-control", "no-store"), ("x-accel-buffering", "no")]
        {
            assert_eq!(events.headers[name], value);
        }
        assert_eq!(events.next().await.and_then(|first| first.retry), Some(1000));
        let snapshot = events.expect("SNAPSHOT").await;
        let job = &snapshot.data["job"];
        assert_eq!((&job["id"], &job["state"], job.get("metadata")), (&json!(id), &json!("PENDING"), None));
        assert_eq!((snapshot.name.as_str(), &snapshot.data["skipped"]), ("", &json!(0)));
        report(&http, id, 10).await;
        let update = events.expect("UPDATE").await;
        assert_eq!(update.data["job"]["progress"]["percent"], 10.0);
        http.post(&format!("/v1/jobs/{id}:complete"), "{}").await.ok();
        let last = expect_end(&mut events, "SUCCEEDED").await;

        // A browser then reconnects with the id of the last event.
        for _ in 0..2 {
            let again = Events::open(&http, &path, &[("last-event-id", &last)]).await;
            assert_eq!(again.status, 204);
            assert_eq!(again.headers["cache-control"], "no-store");
        }
        let mut resumed = Events::open(&http, &path, &[("last-event-id", &update.id)]).await;
        let bookmark = resumed.expect("BOOKMARK").await;
        assert_eq!((bookmark.name.as_str(), &bookmark.id), ("bookmark", &update.id));
        expect_end(&mut resumed, "SUCCEEDED").await;
        // The header wins over the parameter.
        let address = format!("{path}?resumeToken={}", snapshot.id);
        assert_eq!(Events::open(&http, &address, &[("last-event-id", &last)]).await.status, 204);
        let address = format!("{path}?resumeToken={last}&view=FULL");
        assert_eq!(Events::open(&http, &address, &[]).await.status, 204);
        let mut full = Events::open(&http, &format!("{path}?view=FULL"), &[]).await;
        assert_eq!(full.expect("SNAPSHOT").await.data["job"]["metadata"], json!({"a": 1.0}));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_job_is_resumed_and_a_removed_one_is_over() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    make(&http, "a").await;
    let path = "/v1/jobs/a/events";
    let snapshot = Events::open(&http, path, &[]).await.expect("SNAPSHOT").await;
    let mut resumed = Events::open(&http, path, &[("last-event-id", &snapshot.id)]).await;
    assert_eq!(resumed.status, 200);
    resumed.expect("BOOKMARK").await;
    report(&http, "a", 20).await;
    resumed.expect("UPDATE").await;
    http.delete("/v1/jobs/a?force=true").await.ok();
    let removed = resumed.expect("REMOVED").await;
    assert_eq!((removed.name.as_str(), &removed.data["removal"]), ("", &json!("DELETED")));
    assert_eq!(resumed.rest().await.pop().map(|last| last.name).as_deref(), Some("end"));
    assert_eq!(Events::open(&http, path, &[("last-event-id", &removed.id)]).await.status, 204);
    assert_eq!(Events::open(&http, path, &[]).await.status, 404);
    // With an invalid token the stream starts over.
    make(&http, "a").await;
    let mut other = Events::open(&http, path, &[("last-event-id", "nonsense")]).await;
    assert_eq!(other.expect("SNAPSHOT").await.data["reset"], true);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn many_jobs_are_followed_on_one_stream() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    for id in ["a", "b", "c"] {
        make(&http, id).await;
    }
    report(&http, "c", 1).await;
    let mut all = Events::open(&http, "/v1/events?state=RUNNING&id=a&id=b", &[]).await;
    let bookmark = all.expect("BOOKMARK").await;
    report(&http, "c", 50).await;
    report(&http, "b", 50).await;
    let update = all.expect("UPDATE").await;
    assert_eq!(update.data["job"]["id"], "b");
    assert_ne!(bookmark.id, update.id);
    let mut resumed = Events::open(&http, "/v1/events?state=RUNNING&id=a&id=b", &[("last-event-id", &update.id)]).await;
    resumed.expect("BOOKMARK").await;
    report(&http, "a", 5).await;
    let mut seen = resumed.expect("UPDATE").await;
    if seen.data["job"]["id"] == "b" {
        seen = resumed.expect("UPDATE").await;
    }
    assert_eq!(seen.data["job"]["id"], "a");
    http.get("/v1/events?sort=age").await.refused(400);
    http.get("/v1/jobs/a/events?minInterval=fast").await.refused(400);
    assert_eq!(http.send(Method::HEAD, "/v1/events", &[], "").await.header("content-type"), "text/event-stream");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_stream_gets_comments() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    make(&http, "a").await;
    let started = Instant::now();
    let mut events = Events::open(&http, "/v1/jobs/a/events?bookmarkInterval=3600s", &[]).await;
    events.expect("SNAPSHOT").await;
    let comment = events.next().await.expect("a comment");
    assert_eq!(comment, Event { comment: Some(String::new()), ..Event::default() });
    assert!(started.elapsed() >= Duration::from_secs(14), "{:?}", started.elapsed());
    server.stop().await;
}

/// Opens a stream as the caller `reader`, which must end at once with this reason in a comment.
async fn expect_pause(http: &Http, path: &str, reason: &str) {
    let mut events = Events::open(http, path, &[("authorization", "Bearer reader")]).await;
    assert_eq!(events.status, 200, "{path}");
    let pause = Event { retry: Some(1000), comment: Some(reason.to_owned()), ..Event::default() };
    assert_eq!(events.rest().await, [pause]);
}

/// Browsers reconnect only after a response with status 200.
#[tokio::test(flavor = "multi_thread")]
async fn what_passes_is_no_error_for_a_browser() {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("reader", "reader", &json!("*"))]));
    let server =
        Server::with(&["--max-watches", "1", "--redis-url", "redis://127.0.0.1:1", "--auth-tokens", &file]).await;
    let http = Http::new(server.address);
    let reader = [("authorization", "Bearer reader")];
    expect_pause(&http, "/v1/jobs/a/events", "the store is unavailable").await;
    let mut first = Events::open(&http, "/v1/events", &reader).await;
    first.next().await.expect("the stream is open");
    expect_pause(&http, "/v1/events", "the limit --max-watches of 1 is reached").await;
    assert_eq!(Events::open(&http, "/v1/events", &[]).await.status, 401);
    server.begin_stop();
    let end = first.rest().await.pop().and_then(|last| last.comment);
    assert_eq!(end.as_deref(), Some("the server is draining; retry on another replica"));
    server.stop().await;
}
