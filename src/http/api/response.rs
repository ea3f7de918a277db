//! JSON answers, compressed if that pays off.

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

/// Sizes in bytes of answers that are compressed. Smaller answers hardly shrink. Compressing a larger answer takes more
/// than a millisecond, during which the thread serves no other call.
const COMPRESSED: RangeInclusive<usize> = 1025..=64 * 1024;

/// Value of `Cache-Control`: answers must not be cached, because jobs change with each report.
pub const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// A JSON answer.
pub struct Answer {
    /// HTTP status.
    status: StatusCode,
    /// Additional headers.
    pub headers: HeaderMap,
    /// The JSON.
    json: Bytes,
    /// The JSON compressed with gzip, if it is precompressed.
    compressed: Option<Bytes>,
}

/// The forms of an answer that a caller accepts.
#[derive(Clone, Copy)]
pub struct Accepted {
    /// The caller accepts gzip.
    gzip: bool,
    /// The caller wants only the head.
    pub head_only: bool,
}

impl Accepted {
    /// Reads the headers of a request.
    pub fn new(headers: &HeaderMap, head_only: bool) -> Self {
        let lists = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
        Self { gzip: accepts_gzip(lists.flat_map(|list| list.split(','))), head_only }
    }
}

/// Returns whether the elements of `Accept-Encoding` accept gzip. `*` stands for encodings that are not named.
fn accepts_gzip<'a>(elements: impl Iterator<Item = &'a str>) -> bool {
    let (mut named, mut others) = (None, false);
    for element in elements {
        let mut parts = element.split(';').map(|part| part.trim().to_ascii_lowercase());
        let name = parts.next().unwrap_or_default();
        let mut weights = parts.filter_map(|part| part.strip_prefix("q=").map(str::to_owned));
        let is_accepted = !weights.any(|weight| weight.trim_matches(['0', '.']).is_empty());
        match &*name {
            "gzip" | "x-gzip" => named = Some(is_accepted),
            "*" => others = is_accepted,
            _ => {}
        }
    }
    named.unwrap_or(others)
}

impl Answer {
    /// Returns an answer with this status.
    pub fn new(status: StatusCode, json: Bytes) -> Self {
        Self { status, headers: HeaderMap::new(), json, compressed: None }
    }

    /// Returns a successful answer.
    pub fn ok(json: Bytes) -> Self {
        Self::new(StatusCode::OK, json)
    }

    /// Sets the precompressed form of the answer, which is sent to callers that accept gzip, whatever its size.
    pub fn with_compressed(self, compressed: Bytes) -> Self {
        Self { compressed: Some(compressed), ..self }
    }

    /// Returns the response.
    pub fn into_response(self, accepted: Accepted) -> Response<Body> {
        let Self { status, mut headers, json, compressed } = self;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(CACHE_CONTROL, NO_STORE);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.append(VARY, HeaderValue::from_static("accept-encoding"));
        let compressed = compressed.or_else(|| {
            let is_worth_it = accepted.gzip && COMPRESSED.contains(&json.len());
            is_worth_it.then(|| compress(&json))
        });
        let body = match compressed.filter(|_| accepted.gzip) {
            Some(compressed) => {
                headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
                compressed
            }
            None => json,
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

/// Compresses JSON with gzip.
pub fn compress(json: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 2), Compression::fast());
    let written = encoder.write_all(json).and_then(|()| encoder.finish());
    written.expect("a vector takes everything").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_is_used_where_it_is_accepted() {
        for accepted in ["gzip", "br, GZIP", "deflate, gzip;q=0.5", "*", "*;q=0, gzip", "br;q=1, *;q=0.1"] {
            assert!(accepts_gzip(accepted.split(',')), "{accepted}");
        }
        for refused in ["", "br", "gzip;q=0", "gzip; Q=0.000", "x-gzip2", "*, gzip;q=0", "gzip;q=0, *", "*;q=0"] {
            assert!(!accepts_gzip(refused.split(',')), "{refused}");
        }
    }
}
