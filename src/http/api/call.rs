//! gRPC calls inside this process. A call passes the same middleware and handlers as a gRPC request from the network.

use std::sync::Arc;

use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Version,
    header::{AUTHORIZATION, CONTENT_TYPE, TE},
    request::Parts,
    uri::PathAndQuery,
};
use http_body::Frame;
use http_body_util::BodyExt;
use tonic::{Status, body::Body};

use super::{form::Form, frames::Frames};
use crate::grpc::{Exchange, HEAVY_MIN, RequestService};

/// Headers that are copied from the HTTP request to the gRPC request.
static COPIED_HEADERS: [HeaderName; 4] = [
    AUTHORIZATION,
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Calls the gRPC method at `path`, as the caller of the HTTP request with these `parts`. Returns the response, or the
/// error if the call fails before its first message.
pub async fn begin<S: RequestService>(
    grpc: &mut S,
    path: &PathAndQuery,
    parts: Parts,
    body: Body,
) -> Result<Response<Body>, Status> {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = path.clone().into();
    *request.version_mut() = Version::HTTP_2;
    *request.extensions_mut() = parts.extensions;
    let headers = request.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    for name in &COPIED_HEADERS {
        for value in parts.headers.get_all(name) {
            headers.append(name, value.clone());
        }
    }
    let Ok(response) = grpc.call(request).await;
    match Status::from_header_map(response.headers()) {
        Some(status) => Err(status),
        None => Ok(response),
    }
}

/// Waits for the only message of a response.
pub async fn message(response: Response<Body>) -> Result<Bytes, Status> {
    let mut body = response.into_body();
    let mut frames = Frames::default();
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => frames.add(data),
            Err(trailers) => check(trailers)?,
        }
    }
    Ok(frames.next().unwrap_or_default())
}

/// Returns an error if `trailers` end a call with an error.
pub fn check(trailers: Frame<Bytes>) -> Result<(), Status> {
    let trailers = trailers.into_trailers().unwrap_or_else(|_| HeaderMap::new());
    match Status::from_header_map(&trailers) {
        Some(status) if status.code() != tonic::Code::Ok => Err(status),
        _ => Ok(()),
    }
}

/// Returns an encoded answer of this form as JSON.
pub async fn json(form: &Arc<Form>, message: Bytes) -> Bytes {
    if message.len() < HEAVY_MIN {
        return written(form, &message);
    }
    let form = form.clone();
    Exchange::offload(move || written(&form, &message)).await
}

/// Returns an encoded message of this form as JSON. The line feed at the end is for terminals.
fn written(form: &Form, message: &[u8]) -> Bytes {
    let mut json = Vec::with_capacity(2 * message.len() + 1);
    form.write(message, &mut json);
    json.push(b'\n');
    json.into()
}
