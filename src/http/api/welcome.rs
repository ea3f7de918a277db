//! The page at `/`, which introduces the server to people.

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{ACCEPT, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS},
};
use http_body_util::Full;
use tonic::body::Body;

use super::response::Accepted;

/// Returns the page: HTML for a browser, otherwise text. `base` is the address of this server.
pub fn page(asked: &HeaderMap, base: &str, has_api: bool, accepted: Accepted) -> Response<Body> {
    let is_browser =
        asked.get(ACCEPT).is_some_and(|kinds| kinds.as_bytes().windows(9).any(|part| part == b"text/html"));
    let text = text(base, has_api);
    let (kind, page) = if is_browser { ("text/html", html(&text)) } else { ("text/plain", text) };
    let page = Bytes::from(page);
    let mut response = Response::new(Body::empty());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, format!("{kind}; charset=utf-8").try_into().expect("a content type"));
    headers.insert(CONTENT_LENGTH, page.len().into());
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("default-src 'none'"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    if accepted.head_only { response } else { response.map(|_| Body::new(Full::new(page))) }
}

fn text(base: &str, has_api: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let (scheme, host) = base.split_once("://").unwrap_or_default();
    let plaintext = if scheme == "https" { "" } else { " -plaintext" };
    let api = format!(
        "  curl {base}/v1/jobs -H 'content-type: application/json' -d '{{\"jobId\":\"demo\",\"kind\":\"demo\"}}'
  curl {base}/v1/jobs/demo
  curl -N {base}/v1/jobs/demo/events
  curl {base}/v1/jobs/demo:complete -H 'content-type: application/json' -d '{{}}'
"
    );
    let description = format!("\nAll paths: {base}/v1/openapi.json\n");
    let (api, description) = if has_api { (api, description) } else { (String::new(), String::new()) };
    format!(
        "jobtrack {version}: a job tracker over gRPC and HTTP\n\n{api}  grpcurl{plaintext} {host} list\n{description}"
    )
}

/// Returns text as an HTML page.
fn html(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    format!("<!doctype html>\n<meta charset=\"utf-8\">\n<title>jobtrack</title>\n<pre>\n{escaped}</pre>\n")
}
