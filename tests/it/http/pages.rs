//! Requests from web pages: origins, hosts, preflights, gRPC-Web, and the page at `/`.

use http::Method;
use serde_json::json;

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    json::{Http, Reply},
};

const PAGE: &str = "https://app.example.com";

const JSON: (&str, &str) = ("content-type", "application/json");

async fn preflight(http: &Http, origin: &str, path: &str) -> Reply {
    let headers = [
        ("origin", origin),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "authorization, content-type"),
    ];
    http.send(Method::OPTIONS, path, &headers, "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn listed_origins_may_call_and_read() {
    let server = Server::with(&["--cors-origin", PAGE, "--cors-origin", "http://localhost:3000"]).await;
    let http = Http::new(server.address);
    for origin in [PAGE, "http://localhost:3000"] {
        for path in ["/v1/jobs", "/v1/jobs/a/events", "/jobtrack.v1.JobService/GetJob"] {
            let allowed = preflight(&http, origin, path).await;
            assert_eq!((allowed.status.as_u16(), allowed.header("access-control-allow-origin")), (204, origin));
            assert_eq!(allowed.header("access-control-allow-headers"), "authorization, content-type");
            assert!(allowed.header("access-control-allow-methods").contains("DELETE"));
        }
        let made =
            http.send(Method::POST, "/v1/jobs", &[JSON, ("origin", origin)], json!({"kind": "k"}).to_string()).await;
        made.ok();
        assert_eq!(made.header("access-control-allow-origin"), origin);
        assert!(made.header("access-control-expose-headers").contains("grpc-status-details-bin"));
        assert!(made.headers.get_all("vary").iter().any(|vary| vary == "origin"));
        // The page can read errors, too.
        let missing = http.send(Method::GET, "/v1/jobs/none/events", &[("origin", origin)], "").await;
        missing.refused(404);
        assert_eq!(missing.header("access-control-allow-origin"), origin);
    }
    for other in ["https://app.example.com:444", "http://app.example.com", "https://evil.example", "null", ""] {
        for reply in [
            preflight(&http, other, "/v1/jobs").await,
            http.send(Method::GET, "/v1/jobs", &[("origin", other)], "").await,
            http.send(Method::POST, "/v1/jobs", &[JSON, ("origin", other)], "{}").await,
        ] {
            reply.refused(403);
            assert_eq!(reply.header("access-control-allow-origin"), "", "{other}");
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn origins_are_compared_in_the_form_of_browsers() {
    let server = Server::with(&["--cors-origin", "HTTPS://App.example.com:443"]).await;
    let http = Http::new(server.address);
    http.send(Method::GET, "/v1/jobs", &[("origin", PAGE)], "").await.ok();
    let message = http.send(Method::GET, "/v1/jobs", &[("origin", "https://a.example")], "").await.refused(403);
    assert!(message.ends_with("start it with --cors-origin https://a.example"), "{message}");
    // No value of --cors-origin allows the origin `null`.
    let message = http.send(Method::GET, "/v1/jobs", &[("origin", "null")], "").await.refused(403);
    assert!(
        message.contains("it is a file, a frame in a sandbox") && !message.contains("--cors-origin null"),
        "{message}"
    );
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_the_same_origin_may_call() {
    let server = Server::start().await;
    let http = Http::new(server.address);
    let same = format!("http://{}", server.address);
    http.send(Method::GET, "/v1/jobs", &[("origin", &same)], "").await.ok();
    // If a proxy has changed the host, the header of the browser tells that the origin is the same.
    let headers = [("origin", PAGE), ("sec-fetch-site", "same-origin")];
    http.send(Method::GET, "/v1/jobs", &headers, "").await.ok();
    http.send(Method::GET, "/v1/jobs", &[("origin", PAGE), ("sec-fetch-site", "same-site")], "").await.refused(403);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_authentication_the_host_must_be_this_machine() {
    let server = Server::with(&["--allowed-host", "jobs.internal.", "--allowed-host", "2001:db8:0::1"]).await;
    let http = Http::new(server.address);
    let port = server.address.port();
    for host in ["localhost", "127.0.0.1", "[::1]", "jobs.internal", "Jobs.Internal.", "[2001:db8::1]"] {
        for host in [host.to_owned(), format!("{host}:{port}"), format!("{host}:1")] {
            http.send(Method::GET, "/v1/jobs", &[("host", &host)], "").await.ok();
        }
    }
    let web = [("host", "evil.example"), ("content-type", "application/grpc-web+proto")];
    for (method, path, headers) in [
        (Method::GET, "/v1/jobs", &[("host", "evil.example")][..]),
        (Method::GET, "/", &[("host", "evil.example:50051")]),
        (Method::GET, "/v1/events", &[("host", "127.0.0.1.evil.example")]),
        (Method::POST, "/jobtrack.v1.JobService/ListJobs", &web),
    ] {
        let message = http.send(method, path, headers, "").await.refused(421);
        assert!(message.contains("--allowed-host "), "{message}");
    }
    server.stop().await;

    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder("reader", "reader", &json!("*"))]));
    let server = Server::with(&["--auth-tokens", &file, "--cors-origin", "*"]).await;
    let headers = [("host", "jobs.example.com"), ("authorization", "Bearer reader"), ("origin", PAGE)];
    let listed = Http::new(server.address).send(Method::GET, "/v1/jobs", &headers, "").await;
    listed.ok();
    assert_eq!(listed.header("access-control-allow-origin"), PAGE);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_web_is_for_listed_origins_and_not_buffered() {
    let server = Server::with(&["--cors-origin", PAGE]).await;
    let http = Http::new(server.address);
    let web = ("content-type", "application/grpc-web+proto");
    let path = "/jobtrack.v1.JobService/ListJobs";
    let reply = http.send(Method::POST, path, &[web, ("origin", PAGE)], vec![0; 5]).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "application/grpc-web+proto"));
    assert_eq!((reply.header("x-accel-buffering"), reply.header("access-control-allow-origin")), ("no", PAGE));
    http.send(Method::POST, path, &[web, ("origin", "https://evil.example")], vec![0; 5]).await.refused(403);
    for kind in ["application/grpc", "application/json"] {
        http.send(Method::POST, path, &[("content-type", kind)], vec![0; 5]).await.refused(415);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn root_page_names_the_commands_to_try() {
    let server = Server::start().await;
    for http in [Http::new(server.address), Http::http2(server.address)] {
        let text = http.get("/").await;
        assert_eq!((text.status.as_u16(), text.header("content-type")), (200, "text/plain; charset=utf-8"));
        let body = String::from_utf8(text.body.to_vec()).expect("text");
        assert!(body.contains(&format!("curl http://{}/v1/jobs", server.address)), "{body}");
        let html = http.send(Method::GET, "/", &[("accept", "text/html,*/*")], "").await;
        assert_eq!(html.header("content-type"), "text/html; charset=utf-8");
        assert!(html.body.starts_with(b"<!doctype html>"));
        assert_eq!(http.send(Method::HEAD, "/", &[], "").await.body.len(), 0);
        assert_eq!(http.get("/v1/openapi.json").await.ok()["openapi"], "3.1.0");
        http.get("/favicon.ico").await.refused(404);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn http_api_can_be_off() {
    let server = Server::with(&["--http-api", "off"]).await;
    let http = Http::new(server.address);
    for path in ["/v1/jobs", "/v1/events", "/v1/openapi.json"] {
        assert!(http.get(path).await.refused(404).contains("--http-api"));
    }
    assert!(!http.get("/").await.body.windows(4).any(|part| part == b"/v1/"));
    let web = [("content-type", "application/grpc-web+proto")];
    let reply = http.send(Method::POST, "/jobtrack.v1.JobService/ListJobs", &web, vec![0; 5]).await;
    assert_eq!(reply.status, 200);
    server.stop().await;
}
