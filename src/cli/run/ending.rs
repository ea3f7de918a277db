//! The end of a command: its exit code, as a shell has it, and the failure of its job.

use std::{os::unix::process::ExitStatusExt, process::ExitStatus, time::Duration};

use jobtrack_client::{Failure, proto::EncodedStruct};
use serde_json::{Map, Value};

/// Exit code of a command that does not exist.
pub const NOT_FOUND: u8 = 127;

/// Exit code of a file that can't be executed.
pub const NOT_EXECUTABLE: u8 = 126;

/// Offset of exit codes that stand for a signal: the exit code is this number plus the number of the signal.
const SIGNALLED: u8 = 128;

/// The end of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// The command exited with this code.
    Exited(u8),
    /// The signal with this number ended the command.
    Signalled(u8),
}

impl From<ExitStatus> for Ending {
    fn from(from: ExitStatus) -> Self {
        let small = |number: i32| u8::try_from(number).unwrap_or(u8::MAX);
        match (from.code(), from.signal()) {
            (Some(code), _) => Self::Exited(small(code)),
            (None, signal) => Self::Signalled(small(signal.unwrap_or_default())),
        }
    }
}

impl Ending {
    /// Returns the exit code that a shell has for this end.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            Self::Signalled(signal) => SIGNALLED.saturating_add(signal),
        }
    }

    /// Returns whether the command succeeded.
    pub fn is_success(self) -> bool {
        self == Self::Exited(0)
    }

    /// Returns whether another attempt may succeed: the command could be started, and failed.
    pub fn is_retryable(self) -> bool {
        !matches!(self, Self::Exited(0 | NOT_FOUND | NOT_EXECUTABLE))
    }

    /// Returns the failure of the job. `message` is the end of the output.
    pub fn failure(self, message: String, duration: Duration) -> Failure {
        let (reason, what) = match self {
            Self::Exited(code) => (format!("EXIT_{code}"), format!("the command ended with exit code {code}")),
            Self::Signalled(signal) => (format!("SIGNAL_{signal}"), format!("signal {signal} ended the command")),
        };
        let (exit_code, signal) = match self {
            Self::Exited(code) => (Value::from(code), Value::Null),
            Self::Signalled(signal) => (Value::Null, Value::from(signal)),
        };
        let seconds = (duration.as_secs_f64() * 1000.0).round() / 1000.0;
        let details = [("exit_code", exit_code), ("signal", signal), ("duration_seconds", seconds.into())];
        let details: Map<_, _> = details.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let message = if message.is_empty() { what } else { message };
        Failure { details: Some(EncodedStruct::from_json(details)), ..Failure::of(reason, message) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_a_shell() {
        assert_eq!(Ending::from(ExitStatus::from_raw(3 << 8)).code(), 3);
        assert_eq!(Ending::from(ExitStatus::from_raw(9)).code(), 137);
        assert!(Ending::from(ExitStatus::from_raw(0)).is_success());
    }

    #[test]
    fn failure_names_the_code_or_the_signal() {
        let failure = Ending::Exited(3).failure("no space".to_owned(), Duration::from_millis(1234));
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("EXIT_3", "no space"));
        let details = failure.details.expect("details").to_json();
        assert_eq!(details, serde_json::json!({"exit_code": 3, "signal": null, "duration_seconds": 1.234}));
        let failure = Ending::Signalled(9).failure(String::new(), Duration::ZERO);
        assert_eq!((failure.reason.as_str(), failure.message.as_str()), ("SIGNAL_9", "signal 9 ended the command"));
    }

    #[test]
    fn command_that_is_missing_is_not_tried_again() {
        assert!(Ending::Exited(1).is_retryable() && Ending::Signalled(9).is_retryable());
        assert!([0, NOT_FOUND, NOT_EXECUTABLE].iter().all(|code| !Ending::Exited(*code).is_retryable()));
    }
}
