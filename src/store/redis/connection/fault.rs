//! Failed commands: Redis is unavailable, or refused them.

use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind, Value};

/// The reason why a command has no result.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Redis did not answer in time, or can't serve now. It may have executed the command, or may do so later.
    Unavailable(RedisError),
    /// Redis answered with an error.
    Refused(RedisError),
}

impl Fault {
    /// Returns the error of the library.
    pub const fn error(&self) -> &RedisError {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => error,
        }
    }

    /// Returns the error of the library.
    pub fn into_error(self) -> RedisError {
        match self {
            Self::Unavailable(error) | Self::Refused(error) => error,
        }
    }
}

/// The answer to one of several commands.
pub type Answer = RedisResult<Value>;

/// Converts an answer.
pub fn read<T: FromRedisValue>(answer: Answer) -> Result<T, Fault> {
    answer.and_then(|answer| Ok(T::from_redis_value(answer)?)).map_err(Fault::Refused)
}

/// Returns whether an error means that Redis can't serve now.
pub fn is_unavailable(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain),
        kind => matches!(kind, ErrorKind::Io | ErrorKind::ClusterConnectionNotFound),
    }
}

/// Returns whether an error means that keys are moving from one node of a cluster to another.
pub fn is_on_the_move(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Ask | Moved | TryAgain))
}

/// Returns whether Redis does not have the script: it forgets scripts when it restarts, or after SCRIPT FLUSH.
pub fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Returns the error of an answer that did not arrive in time.
pub fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// Returns whether a command failed because of its connection, rather than with an error reply of a server.
pub fn is_without_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::ClusterConnectionNotFound)
}
