//! Conversion of JSON requests to gRPC requests.
//!
//! The body is read and converted when the gRPC handler reads it, after the authentication of the caller. Therefore
//! unauthenticated callers can't make the server read and parse a body.

use std::{io::Read, pin::pin, sync::Arc};

use bytes::{Buf, Bytes};
use flate2::read::MultiGzDecoder;
use futures_util::stream::once;
use http::{
    HeaderMap, HeaderValue, Method,
    header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE},
    request::Parts,
};
use http_body::{Body as HttpBody, Frame};
use http_body_util::{BodyExt, StreamBody};
use prost::Message;
use prost_reflect::{DynamicMessage, Value};
use tonic::{Status, body::Body};

use super::{
    errors::Refusal,
    frames::PREFIX,
    message,
    query::{self, ACCESS_TOKEN},
    routes::Endpoint,
};
use crate::{
    auth::WATCH_TOKEN_SCHEME,
    domain::{JobError, Violation},
    grpc::{BodyBuffer, Exchange, HEAVY_MIN, REQUEST_MAX},
    offload::LARGE_BYTES,
};

/// Header with the token of the last event that a browser has received.
const LAST_EVENT_ID: &str = "last-event-id";

/// Maximum number of values in the body of a request: members of objects, elements of lists.
const VALUES_MAX: usize = 50_000;

/// Estimated memory of one value in bytes while a request is read into a tree of values.
const VALUE_BYTES: usize = 1500;

/// Memory in bytes that is reserved for the compressed and the plain text of a body, out of the share of a connection.
const ROOM_FOR_TEXTS: usize = REQUEST_MAX;

/// Number of values from which a body is read on another thread, whatever its size: they take about a millisecond.
const OFFLOADED_VALUES_MIN: usize = 500;

/// A request whose route was found.
pub struct ApiRequest {
    /// The endpoint of its route.
    pub endpoint: Arc<Endpoint>,
    /// Id of the job in the path.
    pub id: Option<String>,
    /// The query of the URL.
    pub query: String,
    /// The body is compressed with gzip.
    pub is_compressed: bool,
    /// The resume token of a stream.
    pub resume_token: Option<String>,
}

impl ApiRequest {
    /// Reads the head of a request to `endpoint`. Returns an error if the body has a type or an encoding that is not
    /// supported.
    pub fn new(endpoint: &Arc<Endpoint>, id: Option<String>, parts: &Parts) -> Result<Self, Refusal> {
        if endpoint.route.verb == Method::POST && !is_json(&parts.headers) {
            return Err(Refusal::unsupported_body("the content-type must be application/json"));
        }
        let Some(is_compressed) = is_compressed(&parts.headers) else {
            return Err(Refusal::unsupported_body("the content-encoding must be gzip, or none"));
        };
        let query = parts.uri.query().unwrap_or_default().to_owned();
        let resume_token = endpoint.is_stream.then(|| resume_token(&parts.headers, &query)).flatten();
        Ok(Self { endpoint: endpoint.clone(), id, query, is_compressed, resume_token })
    }
}

/// Converts the parameter `access_token` to an `authorization` header. An `EventSource` needs the parameter, because it
/// can't send headers.
///
/// URLs are logged and shared, and must not contain the token of an identity. Therefore the header has a scheme that is
/// valid for watch tokens only.
pub fn take_access_token(parts: &mut Parts) {
    let query = parts.uri.query().unwrap_or_default();
    if let Some(token) = query::value(query, &[ACCESS_TOKEN]) {
        let credential = HeaderValue::from_str(&format!("{WATCH_TOKEN_SCHEME} {token}"));
        // A text that is no valid header value is an invalid token.
        let invalid = || HeaderValue::from_static(WATCH_TOKEN_SCHEME);
        parts.headers.append(AUTHORIZATION, credential.unwrap_or_else(|_| invalid()));
    }
}

/// Returns the resume token of a stream. The header wins over the parameter, which is older: a browser always
/// reconnects with its first URL.
fn resume_token(headers: &HeaderMap, query: &str) -> Option<String> {
    let header = headers.get(LAST_EVENT_ID).and_then(|token| token.to_str().ok()).map(str::to_owned);
    let parameter = || query::value(query, &["resumeToken", "resume_token"]);
    header.filter(|token| !token.is_empty()).or_else(parameter).filter(|token| !token.is_empty())
}

/// Returns whether the body of a request is JSON, in UTF-8.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()) else { return false };
    let mut parts = kind.split(';').map(str::trim);
    let is_json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    is_json && parts.all(|part| !part.to_ascii_lowercase().starts_with("charset=") || is_utf8(part))
}

fn is_utf8(charset: &str) -> bool {
    let name = charset.split('=').nth(1).unwrap_or_default().trim_matches('"');
    name.eq_ignore_ascii_case("utf-8") || name.eq_ignore_ascii_case("utf8")
}

/// Returns whether a body is compressed with gzip; `None` if the encoding is not supported.
fn is_compressed(headers: &HeaderMap) -> Option<bool> {
    let lists = headers.get_all(CONTENT_ENCODING).iter().map(|value| value.to_str().unwrap_or("?"));
    let names = lists.flat_map(|list| list.split(',')).map(|name| name.trim().to_ascii_lowercase());
    let encodings: Vec<_> = names.filter(|name| !matches!(&**name, "" | "identity")).collect();
    match &encodings[..] {
        [] => Some(false),
        [one] if matches!(&**one, "gzip" | "x-gzip") => Some(true),
        _ => None,
    }
}

/// Returns the body of the gRPC request for `request`, whose HTTP body is `json`.
pub fn body(request: ApiRequest, json: Body) -> Body {
    let message = async move { transcode(request, json).await.map(Frame::data).map_err(Status::from) };
    Body::new(StreamBody::new(once(message)))
}

/// Returns the gRPC message of a request, in its frame.
async fn transcode(request: ApiRequest, body: Body) -> Result<Bytes, JobError> {
    let message = if request.endpoint.route.verb == Method::POST {
        let json = read(body, request.is_compressed).await?;
        let values = count_values(&json);
        if values > VALUES_MAX {
            return Err(unreadable(&format!("must have at most {VALUES_MAX} values")));
        }
        let bytes = values * VALUE_BYTES;
        // This error is final: the connection can never get that much memory, and a retry would fail again.
        if let Some(room) =
            Exchange::room().map(|room| room.saturating_sub(ROOM_FOR_TEXTS)).filter(|room| bytes > *room)
        {
            let (most, flag) = (room / VALUE_BYTES, "--max-memory");
            return Err(unreadable(&format!("must have at most {most} values, because of {flag} of this server")));
        }
        Exchange::hold_request(bytes)?;
        if values < OFFLOADED_VALUES_MIN && json.len() < LARGE_BYTES {
            from_body(&request, &json)
        } else {
            Exchange::offload(move || from_body(&request, &json)).await
        }
    } else {
        refuse_content(body).await?;
        from_parameters(&request)
    };
    let mut frame = message.map_err(|violation| JobError::Invalid(vec![violation]))?;
    let length = u32::try_from(frame.len() - PREFIX).map_err(|_| too_large())?;
    frame[1..PREFIX].copy_from_slice(&length.to_be_bytes());
    Ok(frame.into())
}

/// Returns the number of values in JSON text. Counting them allocates nothing. A result below
/// [`OFFLOADED_VALUES_MIN`] is an upper bound: commas and brackets inside strings are counted, too, because an exact
/// count takes five times as long.
fn count_values(json: &[u8]) -> usize {
    let most = 1 + json.iter().filter(|byte| begins_value(**byte)).count();
    if most < OFFLOADED_VALUES_MIN {
        return most;
    }
    let (mut count, mut is_text, mut is_escaped) = (1, false, false);
    for byte in json {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' if is_text => is_escaped = true,
            b'"' => is_text = !is_text,
            byte if !is_text && begins_value(*byte) => count += 1,
            _ => {}
        }
    }
    count
}

const fn begins_value(byte: u8) -> bool {
    matches!(byte, b',' | b'[' | b'{')
}

/// Reads a body to its end, and decompresses it. The bytes count towards the memory limit of requests.
async fn read(body: Body, is_compressed: bool) -> Result<Bytes, JobError> {
    let all = read_all(body).await?;
    if (is_compressed || all.len() >= HEAVY_MIN)
        && let Some(turn) = Exchange::turn()
    {
        turn.await;
    }
    if is_compressed { decompress(&all) } else { Ok(all) }
}

async fn read_all(body: Body) -> Result<Bytes, JobError> {
    let mut body = pin!(body);
    let mut buffer = BodyBuffer::default();
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame.map(Frame::into_data) else { return Err(unreadable("it was cut off")) };
        let Ok(data) = frame else { continue };
        if buffer.len() + data.len() > REQUEST_MAX {
            return Err(too_large());
        }
        // Most bodies arrive in one part, and are not copied.
        if buffer.is_empty() && body.is_end_stream() {
            Exchange::hold_request(data.len())?;
            return Ok(data);
        }
        Exchange::hold_request(buffer.growth(data.len()))?;
        buffer.push(&data);
    }
    Ok(buffer.join().into())
}

fn decompress(compressed: &[u8]) -> Result<Bytes, JobError> {
    let mut all = Vec::new();
    let limit = REQUEST_MAX as u64 + 1;
    let read = MultiGzDecoder::new(compressed.reader()).take(limit).read_to_end(&mut all);
    read.map_err(|_| unreadable("it is not compressed with gzip"))?;
    if all.len() > REQUEST_MAX {
        return Err(too_large());
    }
    Exchange::hold_request(all.len())?;
    Ok(all.into())
}

/// Returns an error if a request whose fields are query parameters has a body. Ignoring the body could do something
/// other than the caller asked for.
async fn refuse_content(body: Body) -> Result<(), JobError> {
    let mut body = pin!(body);
    while let Some(Ok(frame)) = body.frame().await {
        if frame.data_ref().is_some_and(|data| !data.is_empty()) {
            return Err(unreadable("must be empty: the fields of this path are parameters, as in ?force=true"));
        }
    }
    Ok(())
}

/// Returns a buffer for a frame with a message of about `text` bytes. The length in its prefix is not set yet.
fn frame_for(text: usize) -> Vec<u8> {
    let mut frame = Vec::with_capacity(PREFIX + text);
    frame.resize(PREFIX, 0);
    frame
}

/// Converts a body to the message in a frame. An empty body is an empty message.
fn from_body(request: &ApiRequest, json: &[u8]) -> Result<Vec<u8>, Violation> {
    // A POST has no parameters, but it may have a credential.
    query::check_none(&request.query)?;
    let json = if json.trim_ascii().is_empty() { b"{}" } else { json };
    let endpoint = &request.endpoint;
    let id = request.id.as_deref();
    // The encoded message has about the length of its JSON.
    let mut frame = frame_for(json.len() + id.map_or(0, str::len));
    let id_in_path = id.map(|id| (endpoint.id_field(), id));
    if endpoint.request_form.read(json, id_in_path, &mut frame).is_none() {
        let mut message = message::from_text(&endpoint.input, json)?;
        if let Some(id) = id {
            put_id(&mut message, endpoint, id)?;
        }
        message.encode_raw(&mut frame);
    }
    Ok(frame)
}

/// Converts the query parameters to the message in a frame.
fn from_parameters(request: &ApiRequest) -> Result<Vec<u8>, Violation> {
    let mut fields = query::fields(&request.endpoint, request.id.as_deref(), &request.query)?;
    if request.endpoint.is_stream {
        // Most pages show progress, and need no documents.
        fields.entry("view").or_insert_with(|| "BASIC".into());
        if let Some(token) = &request.resume_token {
            fields.insert("resumeToken".to_owned(), token.as_str().into());
        }
    }
    let message = message::from_value(&request.endpoint.input, serde_json::Value::Object(fields))?;
    let mut frame = frame_for(request.query.len() + request.id.as_ref().map_or(0, String::len));
    message.encode_raw(&mut frame);
    Ok(frame)
}

/// Puts the id of the path into a message. Returns an error if the message has another id.
fn put_id(message: &mut DynamicMessage, endpoint: &Endpoint, id: &str) -> Result<(), Violation> {
    let field = endpoint.input.get_field(endpoint.id_field().number).expect("it is a field of the request");
    let id = Value::String(id.to_owned());
    let id = if field.is_list() { Value::List(vec![id]) } else { id };
    if message.has_field(&field) && *message.get_field(&field) != id {
        return Err(violation(field.name(), "must be that of the path, or absent".to_owned()));
    }
    message.set_field(&field, id);
    Ok(())
}

fn too_large() -> JobError {
    JobError::TooLarge { what: "request", limit: REQUEST_MAX }
}

fn unreadable(problem: &str) -> JobError {
    JobError::Invalid(vec![violation("body", problem.to_owned())])
}

fn violation(field: &str, description: String) -> Violation {
    Violation { field: field.to_owned(), description }
}
