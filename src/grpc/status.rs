//! Errors as gRPC statuses. No other file creates a status.
//!
//! Each status except that of an unknown method carries one `ErrorInfo` of domain `jobtrack` whose metadata contain the
//! ids and numbers of the message, and other details of `google.rpc` where they apply. A status contains no
//! internal text, such as the error of a store.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use super::convert::UNDECODABLE;
use crate::domain::{JobError, JobId, Limit, Needed, Rejected, Resource, Subject, Violation};

const DOMAIN: &str = "jobtrack";

/// Maximum number of invalid fields that an error names: details are sent in a header, and clients accept 8 KiB of
/// headers.
const MAX_VIOLATIONS: usize = 20;

/// Retry delay of temporary errors whose duration is unknown.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl From<JobError> for Status {
    fn from(error: JobError) -> Self {
        let text = error.to_string();
        let (code, details) = describe(error);
        Self::with_error_details(code, text, details)
    }
}

/// Returns the status code in a call's headers or trailers, if they have one.
pub fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|status| Code::from_bytes(status.as_bytes()))
}

/// Returns the status that replaces the status of a call that tonic refused before the handler was called; `None` if
/// the response is not such a refusal.
///
/// tonic answers `INTERNAL` if a request can't be decoded, and `OUT_OF_RANGE` or `RESOURCE_EXHAUSTED` if it is too
/// large. Such a status is in the headers, and has no details. A status of this server with one of these codes has
/// details.
///
/// `limit` is the maximum size of the method's requests.
pub fn restate<B>(response: &Response<B>, limit: usize) -> Option<Status> {
    let headers: &HeaderMap = response.headers();
    let code = code(headers)?;
    if headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    match code {
        Code::Internal => {
            let description = UNDECODABLE.to_owned();
            Some(JobError::Invalid(vec![Violation { field: "request".to_owned(), description }]).into())
        }
        Code::OutOfRange | Code::ResourceExhausted => Some(JobError::TooLarge { what: "request", limit }.into()),
        _ => None,
    }
}

/// Returns a status as the trailers of a response.
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // Never fails: a status of this server contains only bytes that headers allow.
    _ = status.add_header(&mut trailers);
    trailers
}

/// Returns the status of a call of a method that is not served.
pub fn unimplemented() -> Status {
    Status::unimplemented("there is no such method")
}

fn describe(error: JobError) -> (Code, ErrorDetails) {
    match error {
        JobError::Invalid(violations) => {
            let mut details = info("INVALID_FIELD", [("violations", violations.len().to_string())]);
            let violations = violations.into_iter().take(MAX_VIOLATIONS);
            let violations = violations.map(|bad| FieldViolation::new(bad.field, bad.description)).collect::<Vec<_>>();
            details.set_bad_request(violations);
            (Code::InvalidArgument, details)
        }
        JobError::NotFound(id) => (Code::NotFound, about_id("JOB_NOT_FOUND", &id)),
        JobError::Taken(id) => (Code::AlreadyExists, about_id("JOB_EXISTS", &id)),
        JobError::Exists(job) => (Code::AlreadyExists, about("JOB_EXISTS", &job)),
        JobError::Rejected(job, why) => rejected(&job, why),
        JobError::RevisionNotReached(job, wanted) => {
            let [id, state, attempt, revision] = facts(&job);
            let metadata = [id, state, attempt, revision, ("min_revision", wanted.to_string())];
            (Code::Unavailable, with_retry_delay(naming(&job.id, info("REVISION_NOT_REACHED", metadata))))
        }
        JobError::Exhausted(limit) => (Code::ResourceExhausted, exhausted(limit)),
        JobError::TooLarge { limit, .. } => {
            (Code::ResourceExhausted, info("MESSAGE_TOO_LARGE", [("limit", limit.to_string())]))
        }
        JobError::StoreUnavailable | JobError::NoTokenKey(_) => {
            (Code::Unavailable, with_retry_delay(info("STORE_UNAVAILABLE", [])))
        }
        JobError::Corrupt(id) => (Code::DataLoss, about_id("JOB_CORRUPT", &id)),
        JobError::Draining => (Code::Unavailable, info("SERVER_DRAINING", [])),
        JobError::DeadlineExceeded => (Code::DeadlineExceeded, info("DEADLINE_EXCEEDED", [])),
        JobError::Unauthenticated(problem) => {
            (Code::Unauthenticated, info("UNAUTHENTICATED", [("problem", problem.name().to_owned())]))
        }
        JobError::PermissionDenied(needed) => (Code::PermissionDenied, info("PERMISSION_DENIED", [missing(needed)])),
    }
}

fn rejected(job: &Subject, why: Rejected) -> (Code, ErrorDetails) {
    let (code, reason) = match why {
        Rejected::Finished => (Code::FailedPrecondition, "JOB_FINISHED"),
        Rejected::StaleAttempt => (Code::FailedPrecondition, "STALE_ATTEMPT"),
        Rejected::AttemptRunning => (Code::FailedPrecondition, "ATTEMPT_RUNNING"),
        Rejected::CancelNotRequested => (Code::FailedPrecondition, "CANCEL_NOT_REQUESTED"),
        Rejected::Active => (Code::FailedPrecondition, "JOB_ACTIVE"),
        Rejected::RevisionMismatch => (Code::Aborted, "REVISION_MISMATCH"),
    };
    let mut details = match why {
        Rejected::AttemptRunning => {
            let [id, state, attempt, revision] = facts(job);
            let expires = job.lease_expire_time.map(|time| time.rfc3339().to_string()).unwrap_or_default();
            let (worker, expires) = (("worker", job.worker.clone()), ("lease_expire_time", expires));
            naming(&job.id, info(reason, [id, state, attempt, revision, worker, expires]))
        }
        _ => about(reason, job),
    };
    if code == Code::FailedPrecondition {
        details.add_precondition_failure_violation(reason, job.id.as_str(), why.to_string());
    }
    (code, details)
}

fn exhausted(limit: Limit) -> ErrorDetails {
    let (reason, wait) = match limit.resource() {
        Resource::Memory => ("MEMORY_FULL", RETRY_DELAY),
        Resource::Bytes => ("TOO_MANY_BYTES", RETRY_DELAY),
        Resource::Jobs => ("TOO_MANY_JOBS", RETRY_DELAY),
        Resource::Calls { wait } => ("RATE_LIMITED", wait),
        Resource::Watches => ("TOO_MANY_WATCHES", RETRY_DELAY),
        Resource::Connections => ("TOO_MANY_CONNECTIONS", RETRY_DELAY),
    };
    let mut details = info(reason, [("name", limit.name().to_owned()), ("limit", limit.most().to_string())]);
    details.set_retry_info(Some(wait));
    details
}

/// Returns the role, scope or kind of credentials that the caller lacks.
fn missing(needed: Needed) -> (&'static str, String) {
    match needed {
        Needed::Role(role) => ("role", role.name().to_owned()),
        Needed::AllOwners => ("owner", "*".to_owned()),
        Needed::Owner(owner) => ("owner", owner),
        Needed::Identity => ("credentials", "identity".to_owned()),
        Needed::SharedJob(id) => ("job_id", id.to_string()),
    }
}

/// Returns details with one `ErrorInfo` of this reason and metadata.
fn info<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata = HashMap::from(metadata.map(|(key, value)| (key.to_owned(), value)));
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// Returns the details of an error about a job of which only the id is known.
fn about_id(reason: &str, id: &JobId) -> ErrorDetails {
    naming(id, info(reason, [("job_id", id.to_string())]))
}

/// Returns the details of an error about a stored job.
fn about(reason: &str, job: &Subject) -> ErrorDetails {
    naming(&job.id, info(reason, facts(job)))
}

fn facts(job: &Subject) -> [(&'static str, String); 4] {
    [
        ("job_id", job.id.to_string()),
        ("state", job.state.name().to_owned()),
        ("attempt", job.attempt.to_string()),
        ("revision", job.revision.to_string()),
    ]
}

fn naming(id: &JobId, mut details: ErrorDetails) -> ErrorDetails {
    details.set_resource_info("jobtrack.v1.Job", id.as_str(), "", "");
    details
}

/// Adds a retry delay to a temporary error.
fn with_retry_delay(mut details: ErrorDetails) -> ErrorDetails {
    details.set_retry_info(Some(RETRY_DELAY));
    details
}
