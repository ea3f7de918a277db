//! Exit codes of the client commands, and the errors that lead to them.

use std::{io, process::ExitCode, sync::mpsc, thread, time::Duration};

use jobtrack_client::{Code, ConfigError, Error, Job, State};

use super::text::escape;

/// Maximum time to write a line: standard error may be a pipe without a reader.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Exit code of a client command. Scripts act on them, so they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The command did what it was asked for, or all jobs that it waited for have succeeded.
    Done = 0,
    /// An error, or one of the jobs has failed.
    Failed = 1,
    /// The command line or a value in it is invalid: it would fail again.
    Usage = 2,
    /// One of the jobs was cancelled, or is to be.
    Cancelled = 3,
    /// A job does not exist, or does not any more.
    NotFound = 4,
    /// The tracker can't be reached, does not answer in time, or can't answer at the moment.
    Unavailable = 5,
}

impl From<Exit> for ExitCode {
    fn from(from: Exit) -> Self {
        Self::from(from as u8)
    }
}

impl Exit {
    /// Returns the code for the end of a job. A job that has not ended is no failure.
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
            // The file is named on the command line.
            _ if error.reason == "TOKEN_FILE" => Self::Usage,
            _ if error.is_unsent => Self::Unavailable,
            Code::NotFound => Self::NotFound,
            Code::InvalidArgument | Code::OutOfRange => Self::Usage,
            Code::Unavailable | Code::DeadlineExceeded => Self::Unavailable,
            _ => Self::Failed,
        }
    }

    /// Returns the code for several jobs: a failure counts more than a job that is gone, and that more than a
    /// cancellation.
    pub fn and(self, other: Self) -> Self {
        let order = [Self::Usage, Self::Unavailable, Self::Failed, Self::NotFound, Self::Cancelled];
        order.into_iter().find(|code| [self, other].contains(code)).unwrap_or(Self::Done)
    }
}

/// An error that ends a client command.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The command line is invalid in a way that its parser can't see.
    #[error("{0}")]
    Usage(String),
    /// The tracker refused a call, or can't be reached.
    #[error("{}", describe(.0))]
    Call(Box<Error>),
    /// The tracker does not answer.
    #[error("{0}")]
    Unavailable(String),
    /// Something else went wrong.
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
            // The reader has seen enough, as `head` does.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Done,
            Self::Failed(_) | Self::Output(_) => Exit::Failed,
        }
    }

    /// Returns whether the same call could succeed for another job.
    pub fn is_of_job(&self) -> bool {
        matches!(self, Self::Call(error) if error.is_final())
    }

    /// Returns the line for standard error. `None`: there is nobody to tell.
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

/// Writes the error that ended a client command, and returns the exit code.
pub fn end(result: Result<Exit, CommandError>) -> ExitCode {
    let exit = result.unwrap_or_else(|error| {
        if let Some(line) = error.line() {
            write_last_line(line);
        }
        error.exit()
    });
    exit.into()
}

/// Writes a line to standard error; this process waits for that only for [`LAST_LINE_TIMEOUT`].
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
