//! Errors as JSON: `{"error": {"code", "status", "message", "details"}}`, the form of AIP-193.

use std::time::Duration;

use http::{
    HeaderName, HeaderValue, StatusCode,
    header::{ALLOW, RETRY_AFTER, WWW_AUTHENTICATE},
};
use prost_reflect::DynamicMessage;
use serde::Serialize;
use serde_json::{Value, json};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::{response::Answer, schema::Schema};

/// Names of the gRPC codes, by number.
const CODES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// Type of the detail with the reason.
const ERROR_INFO: &str = "type.googleapis.com/google.rpc.ErrorInfo";

/// HTTP status of a call whose caller has closed the connection.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// Returns the answer for a gRPC error.
pub fn of_status(schema: &Schema, status: &Status) -> Answer {
    let http = http_status(status.code());
    let details = details(schema, status.details()).unwrap_or_default();
    let mut answer = answer(http, CODES[status.code() as usize], status.message(), &details);
    if let Some(wait) = retry_delay(status) {
        let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
        answer.headers.insert(RETRY_AFTER, seconds.into());
    }
    if http == StatusCode::UNAUTHORIZED {
        answer.headers.insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    answer
}

/// Returns the time after which a call with this error may be retried.
pub fn retry_delay(status: &Status) -> Option<Duration> {
    status.get_details_retry_info().and_then(|info| info.retry_delay)
}

/// Returns the details of an encoded `google.rpc.Status`. The `ErrorInfo`, which has the reason, comes first.
fn details(schema: &Schema, encoded: &[u8]) -> Option<Vec<Value>> {
    let status = DynamicMessage::decode(schema.status().clone(), encoded).ok()?;
    let Value::Array(mut details) = serde_json::to_value(status).ok()?.get_mut("details")?.take() else { return None };
    details.sort_by_key(|detail| detail["@type"] != ERROR_INFO);
    Some(details)
}

/// Returns the HTTP status for a gRPC code.
fn http_status(code: Code) -> StatusCode {
    match code {
        Code::Ok => StatusCode::OK,
        Code::Cancelled => StatusCode::from_u16(CLIENT_CLOSED_REQUEST).expect("499 has three digits"),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::DeadlineExceeded => StatusCode::GATEWAY_TIMEOUT,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::AlreadyExists | Code::Aborted => StatusCode::CONFLICT,
        Code::PermissionDenied => StatusCode::FORBIDDEN,
        Code::Unauthenticated => StatusCode::UNAUTHORIZED,
        Code::ResourceExhausted => StatusCode::TOO_MANY_REQUESTS,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        Code::Unknown | Code::Internal | Code::DataLoss => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

/// A refusal without a gRPC call, for example because the path is unknown.
pub struct Refusal {
    status: StatusCode,
    code: Code,
    reason: &'static str,
    message: String,
    header: Option<(HeaderName, String)>,
}

impl Refusal {
    const fn new(status: StatusCode, code: Code, reason: &'static str, message: String) -> Self {
        Self { status, code, reason, message, header: None }
    }

    /// The path is unknown; `list` has all paths.
    pub fn unknown_path(list: &str) -> Self {
        let message = format!("there is no such path; the paths are: {list}");
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, "PATH_NOT_FOUND", message)
    }

    /// The path takes only the methods in `allow`.
    pub fn wrong_method(allow: String) -> Self {
        let message = format!("this path takes only {allow}");
        let refusal = Self::new(StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, "METHOD_NOT_ALLOWED", message);
        Self { header: Some((ALLOW, allow)), ..refusal }
    }

    /// The type or the encoding of the body is not supported.
    pub fn unsupported_body(message: &str) -> Self {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        Self::new(status, Code::InvalidArgument, "UNSUPPORTED_MEDIA_TYPE", message.to_owned())
    }

    /// The API is not served.
    pub fn api_is_off() -> Self {
        let message = "the HTTP API of this server is off (--http-api); it accepts only gRPC and gRPC-Web".to_owned();
        Self::new(StatusCode::NOT_FOUND, Code::NotFound, "API_OFF", message)
    }

    /// The request is for a host name that this server does not accept.
    pub fn other_host(host: &str) -> Self {
        let message = format!(
            "this server has no authentication, and {host:?} is not a name of this machine: start the server with \
             --allowed-host {host}, or call it as localhost"
        );
        Self::new(StatusCode::MISDIRECTED_REQUEST, Code::FailedPrecondition, "HOST_NOT_ALLOWED", message)
    }

    /// The request is from a page of an origin that is not allowed.
    pub fn other_origin(origin: &[u8]) -> Self {
        let origin = String::from_utf8_lossy(origin);
        let message = if origin.contains("://") {
            format!("pages of {origin} may not call this server: start it with --cors-origin {origin}")
        } else {
            format!(
                "a page without an origin ({origin:?}) may not call this server: it is a file, a frame in a sandbox, \
                 or was redirected from another site. Open it from an http:// or https:// address, and start this \
                 server with --cors-origin and the beginning of that address"
            )
        };
        Self::new(StatusCode::FORBIDDEN, Code::PermissionDenied, "ORIGIN_NOT_ALLOWED", message)
    }
}

impl From<Refusal> for Answer {
    fn from(refusal: Refusal) -> Self {
        let details = [json!({ "@type": ERROR_INFO, "reason": refusal.reason, "domain": "jobtrack" })];
        let mut answer = answer(refusal.status, CODES[refusal.code as usize], &refusal.message, &details);
        if let Some((name, value)) = refusal.header {
            answer.headers.insert(name, value.try_into().expect("methods are a value of a header"));
        }
        answer
    }
}

/// The body of an error.
#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    code: u16,
    status: &'a str,
    message: &'a str,
    details: &'a [Value],
}

fn answer(http: StatusCode, status: &str, message: &str, details: &[Value]) -> Answer {
    let error = Body { error: Error { code: http.as_u16(), status, message, details } };
    let json = serde_json::to_string(&error).expect("an error has a form in JSON") + "\n";
    Answer::new(http, json.into())
}
