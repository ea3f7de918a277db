//! Errors of calls.

use std::{collections::BTreeMap, error, fmt, time::Duration};

use tonic::{Code, ConnectError, Status, TimeoutExpired};
use tonic_types::StatusExt;

/// An error of a call: the error that the server returned, or the reason for which the call could not be sent.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Error {
    /// gRPC code.
    pub code: Code,
    /// Reason of the error, for programs: `JOB_NOT_FOUND`, `STALE_ATTEMPT`. Empty if the server gave none.
    pub reason: String,
    /// Description of the error, for people.
    pub message: String,
    /// Every variable part of the error, by name.
    pub metadata: BTreeMap<String, String>,
    /// The invalid fields of the request.
    pub violations: Vec<Violation>,
    /// Time after which the call may be retried, if the server named one.
    pub retry_after: Option<Duration>,
    /// No connection could be made: the server has not received the call.
    pub is_unsent: bool,
}

/// An invalid field of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Name of the field: `filter.labels`.
    pub field: String,
    /// The rule that the field breaks.
    pub description: String,
}

impl Error {
    /// Returns an error of this library.
    pub(crate) fn new(code: Code, reason: &str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason: reason.to_owned(),
            message: message.into(),
            metadata: BTreeMap::new(),
            violations: Vec::new(),
            retry_after: None,
            is_unsent: false,
        }
    }

    /// Returns whether the same call would fail again, because the error is about the request or the job. Other errors
    /// are about the server, the connection or the credentials: the same call may succeed later.
    pub fn is_final(&self) -> bool {
        matches!(
            self.code,
            Code::InvalidArgument
                | Code::NotFound
                | Code::AlreadyExists
                | Code::FailedPrecondition
                | Code::Aborted
                | Code::OutOfRange
                | Code::Unimplemented
        )
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.message)?;
        if !self.reason.is_empty() {
            write!(f, " ({})", self.reason)?;
        }
        // The message names the first field only.
        for violation in self.violations.iter().skip(1) {
            write!(f, "; {}: {}", violation.field, violation.description)?;
        }
        Ok(())
    }
}

impl error::Error for Error {}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        let details = status.get_error_details();
        let (reason, metadata) = details
            .error_info()
            .map(|info| (info.reason.clone(), info.metadata.clone().into_iter().collect()))
            .unwrap_or_default();
        let violations = details.bad_request().map_or(&[][..], |request| &request.field_violations);
        let violations = violations
            .iter()
            .map(|violation| Violation { field: violation.field.clone(), description: violation.description.clone() });
        let connect = find::<ConnectError>(&status);
        // The channel enforces the deadline of the call, too, and reports an expired deadline as a cancellation.
        let is_timeout = find::<TimeoutExpired>(&status).is_some();
        let code = match status.code() {
            _ if is_timeout => Code::DeadlineExceeded,
            // An error with a source comes from the connection: it was closed, or the server reset the stream. The caller
            // cancels a call by dropping it, and gets no status.
            Code::Cancelled if error::Error::source(&status).is_some() => Code::Unavailable,
            code => code,
        };
        Self {
            code,
            reason,
            message: connect.map_or_else(|| status.message().to_owned(), |error| root(error).to_string()),
            metadata,
            violations: violations.collect(),
            retry_after: details.retry_info().and_then(|info| info.retry_delay),
            is_unsent: connect.is_some(),
        }
    }
}

/// Returns the error of type `T` in the chain of causes of an error.
fn find<'a, T: error::Error + 'static>(error: &'a (dyn error::Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

/// Returns the first cause of an error.
fn root<'a>(mut error: &'a (dyn error::Error + 'static)) -> &'a (dyn error::Error + 'static) {
    while let Some(source) = error.source() {
        error = source;
    }
    error
}
