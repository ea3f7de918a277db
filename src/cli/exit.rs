//! Exit codes of the client commands, and the errors that lead to them.

use std::{io, process::ExitCode, sync::mpsc, thread, time::Duration};

use jobtrack_client::{Code, ConfigError, Error, Job, State};

use super::text::escape;

/// Maximum time to write the last line. A write blocks if standard error is a full pipe that nobody reads.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Exit code of a client command. Scripts act on these codes; therefore they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command succeeded; for `wait` and `watch`, all named jobs succeeded.
    Done = 0,
    /// An error, or one of the jobs has failed.
    Failed = 1,
    /// The command line or a value in it is invalid: the same command would fail again.
    Usage = 2,
    /// One of the jobs was cancelled, or its cancellation was requested.
    Cancelled = 3,
    /// A job does not exist, or was deleted or has expired.
    NotFound = 4,
    /// The tracker can't be reached, does not answer in time, or is temporarily unavailable.
    Unavailable = 5,
}

impl From<Exit> for ExitCode {
    fn from(from: Exit) -> Self {
        Self::from(from as u8)
    }
}

impl Exit {
    /// Returns the code for the state of a job. A job that has not ended counts as success.
    pub fn of_job(job: &Job) -> Self {
        match job.state() {
            State::Failed => Self::Failed,
            State::Cancelled => Self::Cancelled,
            State::Unspecified | State::Pending | State::Running | State::Succeeded => Self::Done,
        }
    }

    /// Returns the code for an error of a call.
    pub fn of_error(error: &Error) -> Self {
        match error.code {
            // The command line names this file, which can't be read or has no token.
            _ if error.reason == "TOKEN_FILE" => Self::Usage,
            _ if error.is_unsent => Self::Unavailable,
            Code::NotFound => Self::NotFound,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            _ => Self::Failed,
        }
    }

    /// Returns the more severe of two codes: a failure is more severe than a missing job, and a missing job more than a
    /// cancellation.
    pub fn and(self, other: Self) -> Self {
        let order = [Self::Usage, Self::Unavailable, Self::Failed, Self::NotFound, Self::Cancelled];
        order.into_iter().find(|code| [self, other].contains(code)).unwrap_or(Self::Done)
    }
}

/// An error that ends a client command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line is invalid in a way that the parser does not detect.
    #[error("{0}")]
    Usage(String),
    /// The tracker refused a call, or can't be reached.
    #[error("{}", describe(.0))]
    Call(Box<Error>),
    /// The tracker does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Any other error.
    #[error("{0}")]
    Failed(String),
    /// The output can't be written.
    #[error("can't write to standard output: {0}")]
    Output(#[from] io::Error),
}

impl CommandError {
    /// Returns the exit code.
    pub fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Call(error) => Exit::of_error(error),
            Self::Unavailable(_) => Exit::Unavailable,
            // The reader, such as `head`, has closed the pipe on purpose.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Failed(_) | Self::Output(_) => Exit::Failed,
        }
    }

    /// Returns whether the error is about one job, so that the same call may succeed for another job.
    pub fn is_of_job(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_final())
    }

    /// Returns the line for standard error; `None` if the reader has closed the pipe.
    pub fn line(&self) -> Option<String> {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => None,
            other => Some(format!("error: {}", escape(&other.to_string()))),
        }
    }
}

impl From<Error> for CommandError {
    fn from(from: Error) -> Self {
        Self::Call(Box::new(from))
    }
}

impl From<ConfigError> for CommandError {
    fn from(from: ConfigError) -> Self {
        Self::Usage(from.to_string())
    }
}

fn describe(error: &Error) -> String {
    if error.is_unsent {
        return format!("{error}; `jobtrack serve` starts a tracker, and --server names another one");
    }
    if error.code == Code::Unauthenticated {
        return format!("{error}; --token-file or JOBTRACK_TOKEN names the token to use");
    }
    error.to_string()
}

/// Writes the error of a client command, if any, to standard error. Returns the exit code of the command.
pub fn end(result: Result<Exit, CommandError>) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        if let Some(line) = error.line() {
            write_last_line(line);
        }
        error.exit()
    });
    exit.into()
}

/// Writes a line to standard error. Returns after [`LAST_LINE_TIMEOUT`] even if the line was not written.
pub fn write_last_line(line: String) {
    let (done, written) = mpsc::channel();
    thread::spawn(move || {
        eprintln!("{line}");
        _ = done.send(());
    });
    _ = written.recv_timeout(LAST_LINE_TIMEOUT);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn worst_end_of_several_jobs_counts() {
        use Exit::{Cancelled, Done, Failed, NotFound};
        for (ends, all) in [
            (&[][..], Done),
            (&[Done, Done][..], Done),
            (&[Done, Cancelled], Cancelled),
            (&[Cancelled, NotFound, Done], NotFound),
            (&[NotFound, Failed, Cancelled], Failed),
        ] {
            assert_eq!(ends.iter().copied().fold(Done, Exit::and), all, "{ends:?}");
        }
    }
}
