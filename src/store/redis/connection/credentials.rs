//! Credentials that are read again from their file when Redis refuses them.

use std::sync::{Mutex, PoisonError};

use redis::RedisError;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tracing::{info, warn};

use super::{
    address::{AddressError, Target},
    reason::Reason,
};

/// The reason why the file has no other credentials for the same Redis.
#[derive(Debug, PartialEq, Eq, Error)]
enum CredentialsError {
    #[error("the file names another Redis: restart to use that")]
    OtherRedis,
    #[error(transparent)]
    Address(#[from] AddressError),
}

/// The address of Redis with the credentials in use.
pub struct Credentials(Mutex<State>);

struct State {
    in_use: Target,
    /// The problem that was logged last.
    problem: Option<CredentialsError>,
}

impl Credentials {
    /// Uses the credentials of `target`.
    pub fn new(target: Target) -> Self {
        Self(Mutex::new(State { in_use: target, problem: None }))
    }

    /// Returns the address with other credentials, if `error` shows that those in use are refused, and the file has
    /// others by now.
    pub async fn after(&self, error: &RedisError) -> Option<Target> {
        if !matches!(Reason::of(error), Reason::NoAuth | Reason::WrongPass) {
            return None;
        }
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner).in_use.file()?.to_owned();
        let read = spawn_blocking(move || Target::read(&file)).await.ok()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take(read)
    }
}

impl State {
    /// Uses the credentials that were read, if they differ from those in use.
    fn take(&mut self, read: Result<Target, AddressError>) -> Option<Target> {
        let redis = self.in_use.clone();
        let problem = match read {
            Ok(target) if target == self.in_use => return None,
            Ok(target) if target.is_same_database(&self.in_use) => {
                self.in_use = target.clone();
                self.problem = None;
                info!(target: "jobtrack::audit", %redis, "credentials of Redis reloaded");
                return Some(target);
            }
            Ok(_) => CredentialsError::OtherRedis,
            Err(problem) => problem.into(),
        };
        // Logs each problem once, because attempts to connect are frequent.
        if self.problem.as_ref() != Some(&problem) {
            warn!(%redis, problem = problem.to_string(), "Redis refuses the credentials, and their file has no others");
            self.problem = Some(problem);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::parse(url).expect("a valid address")
    }

    #[test]
    fn other_credentials_are_taken_but_no_other_redis() {
        let mut state = State { in_use: target("redis://a:1@host/2"), problem: None };
        assert!(state.take(Ok(target("redis://a:1@host/2"))).is_none());
        assert!(state.take(Ok(target("redis://b:2@host/2"))).is_some());
        assert!(state.take(Ok(target("redis://b:2@host/2"))).is_none());
        for other in ["redis://c:3@other/2", "redis://c:3@host/3", "rediss://c:3@host/2"] {
            assert!(state.take(Ok(target(other))).is_none(), "{other}");
        }
        assert!(state.take(Err(AddressError::Form)).is_none());
        assert!(state.take(Ok(target("redis://host/2"))).is_some(), "an address without credentials is accepted, too");
        let mut state = State { in_use: target("redis+unix:///socket?db=1&pass=1"), problem: None };
        assert!(state.take(Ok(target("redis+unix:///socket?db=2&pass=2"))).is_none());
        assert!(state.take(Ok(target("redis+unix:///socket?db=1&pass=2"))).is_some());
    }
}
