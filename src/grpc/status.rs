//! Refusals on the wire. This is the only place that makes a gRPC status.
//!
//! Each carries one `ErrorInfo` of domain `jobtrack` whose metadata holds every variable part, and what else of
//! `google.rpc` fits. No text of a store or of the code is in it.

use std::{collections::HashMap, time::Duration};

use http::{HeaderMap, Response};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::domain::{JobError, JobId, Limit, Rejected, State, Violation};

const DOMAIN: &str = "jobtrack";

/// When to try again what a moment may mend.
const SOON: Duration = Duration::from_secs(1);

impl From<JobError> for Status {
    fn from(error: JobError) -> Self {
        let text = error.to_string();
        let (code, details) = describe(error);
        Self::with_error_details(code, text, details)
    }
}

/// A call that tonic refused before any handler saw it, in our own words. `None`: the response is to be left as it is.
///
/// tonic answers `INTERNAL` where a request can't be decoded, and `OUT_OF_RANGE` or `RESOURCE_EXHAUSTED` where it is too
/// large. It writes such a status into the headers, without details; ours always have some.
pub fn restate<B>(response: &Response<B>) -> Option<Status> {
    let headers: &HeaderMap = response.headers();
    if headers.contains_key("grpc-status-details-bin") {
        return None;
    }
    match Code::from_bytes(headers.get("grpc-status")?.as_bytes()) {
        Code::Internal => {
            let description = "can't be decoded as the message that this method takes".to_owned();
            Some(JobError::Invalid(vec![Violation { field: "request".to_owned(), description }]).into())
        }
        Code::OutOfRange | Code::ResourceExhausted => {
            let details = info("MESSAGE_TOO_LARGE", [("limit", super::MAX_REQUEST.to_string())]);
            let text = format!("the request is larger than {} bytes", super::MAX_REQUEST);
            Some(Status::with_error_details(Code::ResourceExhausted, text, details))
        }
        _ => None,
    }
}

fn describe(error: JobError) -> (Code, ErrorDetails) {
    match error {
        JobError::Invalid(violations) => {
            let mut details = info("INVALID_FIELD", []);
            let violations = violations.into_iter();
            let violations = violations.map(|bad| FieldViolation::new(bad.field, bad.description)).collect::<Vec<_>>();
            details.set_bad_request(violations);
            (Code::InvalidArgument, details)
        }
        JobError::NotFound(id) => (Code::NotFound, about("JOB_NOT_FOUND", &id, [], "there is no such job")),
        JobError::Exists { id, state, revision } => {
            let known = [("state", state.name().to_owned()), ("revision", revision.to_string())];
            (Code::AlreadyExists, about("JOB_EXISTS", &id, known, "another request made this job"))
        }
        JobError::Rejected { id, state, attempt, revision, reason } => rejected(&id, state, attempt, revision, reason),
        JobError::RevisionNotReached { id, state, revision, wanted } => {
            let known = [
                ("state", state.name().to_owned()),
                ("revision", revision.to_string()),
                ("min_revision", wanted.to_string()),
            ];
            let mut details = about("REVISION_NOT_REACHED", &id, known, "the job is not at this revision yet");
            details.set_retry_info(Some(SOON));
            (Code::Unavailable, details)
        }
        JobError::Exhausted(Limit::Memory(limit)) => {
            let mut details = info("MEMORY_FULL", [("limit", limit.to_string())]);
            details.set_retry_info(Some(SOON));
            (Code::ResourceExhausted, details)
        }
        JobError::StoreUnavailable => {
            let mut details = info("STORE_UNAVAILABLE", []);
            details.set_retry_info(Some(SOON));
            (Code::Unavailable, details)
        }
        JobError::Corrupt(id) => (Code::DataLoss, about("JOB_CORRUPT", &id, [], "what is stored can't be read")),
        JobError::Draining => (Code::Unavailable, info("SERVER_DRAINING", [])),
        JobError::DeadlineExceeded => (Code::DeadlineExceeded, info("DEADLINE_EXCEEDED", [])),
    }
}

fn rejected(id: &JobId, state: State, attempt: i32, revision: i64, why: Rejected) -> (Code, ErrorDetails) {
    let (code, reason) = match why {
        Rejected::Finished => (Code::FailedPrecondition, "JOB_FINISHED"),
        Rejected::StaleAttempt => (Code::FailedPrecondition, "STALE_ATTEMPT"),
        Rejected::CancelNotRequested => (Code::FailedPrecondition, "CANCEL_NOT_REQUESTED"),
        Rejected::Active => (Code::FailedPrecondition, "JOB_ACTIVE"),
        Rejected::RevisionMismatch => (Code::Aborted, "REVISION_MISMATCH"),
    };
    let known =
        [("state", state.name().to_owned()), ("attempt", attempt.to_string()), ("revision", revision.to_string())];
    let mut details = about(reason, id, known, "");
    if code == Code::FailedPrecondition {
        details.add_precondition_failure_violation(reason, id.as_str(), why.to_string());
    }
    (code, details)
}

fn info<const N: usize>(reason: &str, metadata: [(&str, String); N]) -> ErrorDetails {
    let metadata: HashMap<String, String> = metadata.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    ErrorDetails::with_error_info(reason, DOMAIN, metadata)
}

/// An error about one job.
fn about<const N: usize>(reason: &str, id: &JobId, known: [(&str, String); N], text: &str) -> ErrorDetails {
    let metadata = known.into_iter().chain([("job_id", id.to_string())]);
    let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).collect::<HashMap<_, _>>();
    let mut details = ErrorDetails::with_error_info(reason, DOMAIN, metadata);
    details.set_resource_info("jobtrack.v1.Job", id.as_str(), "", text);
    details
}
