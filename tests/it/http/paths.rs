//! Paths, methods and headers of requests.

use http::Method;

use crate::support::{Server, json::Http};

const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_and_other_methods_are_refused_with_what_there_is() {
    let server = Server::start().await;
    for http in [Http::new(server.address), Http::http2(server.address)] {
        for path in ["/v1/job", "/v1/jobs/", "/v1/jobs/a/b"] {
            let message = http.get(path).await.refused(404);
            assert!(message.contains("GET /v1/jobs/{id}, "), "{path}: {message}");
        }
        http.post("/v1/jobs/a:pause", "{}").await.refused(404);
        let reply = http.send(Method::PUT, "/v1/jobs/a", &[JSON], "{}").await;
        assert_eq!(reply.refused(405), "this path takes only GET, HEAD, DELETE");
        assert_eq!(reply.header("allow"), "GET, HEAD, DELETE");
        // An encoded slash belongs to the id, which is invalid. It does not separate parts of the path.
        assert!(http.get("/v1/jobs/a%2Fb").await.refused(400).starts_with("job_id: "));
        assert!(http.get("/v1/jobs/%FF").await.refused(400).starts_with("job_id: "));
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn head_is_get_without_a_body() {
    let server = Server::start().await;
    for http in [Http::new(server.address), Http::http2(server.address)] {
        http.post("/v1/jobs", r#"{"jobId": "a", "kind": "k"}"#).await.ok();
        let (got, head) = (http.get("/v1/jobs/a").await, http.send(Method::HEAD, "/v1/jobs/a", &[], "").await);
        assert_eq!((head.status, head.body.len()), (got.status, 0));
        assert_eq!(head.header("content-length"), got.body.len().to_string());
        assert_eq!(http.send(Method::HEAD, "/v1/jobs/none", &[], "").await.status, 404);
        http.delete("/v1/jobs/a?force=true").await.ok();
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_must_be_json() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let body = r#"{"kind": "k"}"#;
    for kind in ["text/plain", "application/x-www-form-urlencoded", "application/json; charset=utf-16", ""] {
        let message = http.send(Method::POST, "/v1/jobs", &[("content-type", kind)], body).await.refused(415);
        assert_eq!(message, "the content-type must be application/json", "{kind}");
    }
    http.send(Method::POST, "/v1/jobs", &[], body).await.refused(415);
    http.send(Method::POST, "/v1/jobs", &[JSON, ("content-encoding", "br")], body).await.refused(415);
    let kind = ("content-type", "Application/JSON; charset=\"UTF-8\"");
    http.send(Method::POST, "/v1/jobs", &[kind], body).await.ok();
    server.stop().await;
}

/// Ignoring `{"force": true}` in the body of a DELETE would do something other than the caller asked for.
#[tokio::test(flavor = "multi_thread")]
async fn paths_with_parameters_take_no_body() {
    let server = Server::start().await;
    for http in [Http::new(server.address), Http::http2(server.address)] {
        http.post("/v1/jobs", r#"{"jobId": "a", "kind": "k"}"#).await.ok();
        for (method, path) in [
            (Method::DELETE, "/v1/jobs/a"),
            (Method::DELETE, "/v1/jobs/a?force=true"),
            (Method::GET, "/v1/jobs"),
            (Method::GET, "/v1/jobs/a/events"),
        ] {
            let message = http.send(method, path, &[JSON], r#"{"force": true}"#).await.refused(400);
            assert_eq!(message, "body: must be empty: the fields of this path are parameters, as in ?force=true");
        }
        http.send(Method::DELETE, "/v1/jobs/a?force=true", &[JSON], "").await.ok();
    }
    server.stop().await;
}
