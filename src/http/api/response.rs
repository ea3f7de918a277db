//! Answers: JSON, compressed if that is worth it.

use std::{io::Write, ops::RangeInclusive};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;
use tonic::body::Body;

/// Sizes, in bytes, of answers that are compressed. Smaller ones don't get smaller by it. Compressing a larger one
/// takes more than a millisecond, in which the thread runs no other call.
const COMPRESSED: RangeInclusive<usize> = 1025..=64 * 1024;

/// An answer in JSON.
pub struct Answer {
    /// Status of HTTP.
    pub status: StatusCode,
    /// Headers, besides those that every answer has.
    pub headers: HeaderMap,
    /// The JSON.
    pub json: Bytes,
}

/// The forms of an answer that a caller accepts.
#[derive(Clone, Copy)]
pub struct Accepted {
    /// Compressed with gzip.
    gzip: bool,
    /// Only the head is wanted.
    pub head_only: bool,
}

impl Accepted {
    /// Reads the headers of a request.
    pub fn new(headers: &HeaderMap, head_only: bool) -> Self {
        let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        let gzip = lists.flat_map(|list| list.split(',')).any(is_gzip);
        Self { gzip, head_only }
    }
}

/// Returns whether an element of `Accept-Encoding` accepts gzip.
fn is_gzip(element: &str) -> bool {
    let mut parts = element.split(';').map(str::trim);
    let names_gzip = parts.next().is_some_and(|name| name == "*" || name.eq_ignore_ascii_case("gzip"));
    let is_refused =
        parts.any(|weight| weight.strip_prefix("q=").is_some_and(|q| q.trim_matches(['0', '.']).is_empty()));
    names_gzip && !is_refused
}

impl Answer {
    /// Returns an answer that succeeded.
    pub fn ok(json: Bytes) -> Self {
        Self { status: StatusCode::OK, headers: HeaderMap::new(), json }
    }

    /// Returns the response.
    pub fn into_response(self, accepted: Accepted) -> Response<Body> {
        let Self { status, mut headers, json } = self;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        let body = if accepted.gzip && COMPRESSED.contains(&json.len()) {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
            compress(&json)
        } else {
            json
        };
        headers.insert(CONTENT_LENGTH, body.len().into());
        let body = if accepted.head_only { Body::empty() } else { Body::new(Full::new(body)) };
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Returns a response without content.
pub fn no_content(headers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    *response.headers_mut() = headers;
    response
}

fn compress(json: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 2), Compression::fast());
    let written = encoder.write_all(json).and_then(|()| encoder.finish());
    written.expect("a vector takes everything").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        for accepted in ["gzip", "br, GZIP", "deflate, gzip;q=0.5", "*"] {
            assert!(accepted.split(',').any(is_gzip), "{accepted}");
        }
        for refused in ["", "br", "gzip;q=0", "gzip; q=0.000", "x-gzip2"] {
            assert!(!refused.split(',').any(is_gzip), "{refused}");
        }
    }
}
