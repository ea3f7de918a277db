//! Checks before the first call: mistakes that time does not solve abort the start, other problems are logged.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};
use thiserror::Error;
use tokio::time::timeout;
use tracing::{info, warn};
use uuid::Uuid;

use super::{
    RedisStore,
    connection::{Fault, Target, timed_out},
    schema::{codec::decode, keys::Partition},
    script::{Extent, Outcome, Write},
};
use crate::{
    clock::Clock,
    domain::{ChangeContext, ChangeId, Filter, Job, JobId, ListQuery, NewJob, Order, Retention},
    store::Record,
};

/// Maximum time for the checks; they are made at most twice.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(3);

/// The rights that the Redis user needs, in the syntax of `ACL SETUSER`.
const RIGHTS: &str = "~job:* ~jobs:* ~jobtrack:epoch &jobs:* +@read +@write +@pubsub +@scripting +@connection +time \
                      +info +role +cluster|slots +cluster|myid (other keys with another --key-prefix)";

/// A mistake that must be corrected before jobtrack can use this Redis.
#[derive(Debug, Error)]
#[error("Redis at {target}: {problem}")]
pub struct Unusable {
    target: Target,
    problem: String,
}

impl Unusable {
    /// Creates the error of an address that can't be used.
    pub(super) fn new(target: &Target, error: &RedisError) -> Self {
        Self { target: target.clone(), problem: error.to_string() }
    }
}

impl RedisStore {
    /// Checks that Redis can be used. It does not have to be reachable yet.
    pub(super) async fn check(&self) -> Result<(), Unusable> {
        let mut outcome = self.try_in_time().await;
        if outcome.as_ref().is_err_and(RedisError::is_timeout) {
            // A single answer may be late.
            outcome = self.try_in_time().await;
        }
        match outcome {
            Ok(()) => {
                self.look_now().await;
                Ok(())
            }
            Err(error) => {
                if let Some(problem) = mistake(&error) {
                    return Err(Unusable { target: self.target.clone(), problem });
                }
                let reason = reason(&error);
                warn!(redis = %self.target, reason, "Redis can't be used yet; starting without it, trying again");
                Ok(())
            }
        }
    }

    async fn try_in_time(&self) -> Result<(), RedisError> {
        timeout(PREFLIGHT_TIMEOUT, self.try_everything()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Performs each kind of operation once.
    async fn try_everything(&self) -> Result<(), RedisError> {
        drop(self.connector.connect().await?);
        self.learn_data_set().await.map_err(Fault::into_error)?;
        let partition = Partition::of(&JobId::lower_bound());
        self.beat_in(partition).await.map_err(Fault::into_error)?;
        self.try_write().await.map_err(Fault::into_error)?;
        let query = ListQuery {
            filter: Filter::default(),
            order: Order::default(),
            limit: 1,
            max_bytes: usize::MAX,
            after: None,
            now: self.clock.now(),
            confined: false,
            view: crate::domain::View::Basic,
        };
        self.counts().await.map_err(Fault::into_error)?;
        self.page(&query).await.map_err(Fault::into_error)?;
        self.due_batch(self.clock.now(), 1).await.map_err(Fault::into_error)?;
        drop(self.connector.subscribe(&[self.keys.changes(partition)], 0).await?);
        self.look_at_settings().await;
        Ok(())
    }

    /// Writes a tombstone of a job that no caller can name, and removes it.
    async fn try_write(&self) -> Result<(), Fault> {
        let none = Duration::ZERO;
        let moment = ChangeContext {
            now: self.clock.now(),
            change_id: ChangeId { process: 0, counter: 0 },
            retention: Retention { succeeded: none, failed: none, cancelled: none, active: none },
        };
        let id = JobId::lower_bound();
        let gone = Job::create(id.clone(), NewJob::default(), None, Uuid::new_v4(), &moment)
            .expired(moment.now, moment.change_id);
        let write = Write {
            id: &id,
            previous: None,
            next: Some(&gone),
            by: Some(&self.by),
            leaving: &[],
            extent: Extent::Part,
        };
        let left_behind = match write.run(None, &self.pool, &self.keys).await? {
            Outcome::Done(_) | Outcome::Deferred | Outcome::Legacy => None,
            Outcome::Other(fields) => Some(decode(&id, fields).await),
        };
        let there = left_behind.and_then(Record::found).map_or_else(|| gone.into(), |stored| stored.job);
        Write::removal(&id, Some(&there), &[]).run(None, &self.pool, &self.keys).await?;
        Ok(())
    }

    async fn look_at_settings(&self) {
        let Ok(memory) = self.connector.info("memory").await else {
            info!(redis = %self.target, "this Redis user may not read INFO, so maxmemory-policy is not known");
            return;
        };
        let policy = memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
        if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
            warn!(redis = %self.target, policy, "Redis may evict jobs: set its maxmemory-policy to noeviction");
        }
    }
}

/// Returns the mistake that an error shows, if it is one that time does not solve.
fn mistake(error: &RedisError) -> Option<String> {
    use ServerErrorKind::{Moved, NoPerm};
    let text = error.to_string();
    let refused = "the user or the password is refused: check the address, or the file that it is read from";
    Some(match error.kind() {
        ErrorKind::AuthenticationFailed => refused.to_owned(),
        ErrorKind::MasterNameNotFoundBySentinel => "the sentinels know no master of this name".to_owned(),
        ErrorKind::Server(Moved) => "it is part of a cluster: write redis+cluster://".to_owned(),
        ErrorKind::Server(NoPerm) => missing_right(error),
        _ if matches!(error.code(), Some("WRONGPASS" | "NOAUTH")) => refused.to_owned(),
        // A right that is missing within a script has no error code of its own.
        _ if text.contains("The user executing the script can't") => missing_right(error),
        _ if text.contains("cluster support disabled") => "it is no cluster: write redis://".to_owned(),
        _ if text.contains("certificate") => format!("TLS failed: {text}"),
        _ => return None,
    })
}

fn missing_right(error: &RedisError) -> String {
    format!("the user may not do what jobtrack has to ({}); it needs {RIGHTS}", reason(error))
}

/// Returns the text of an error of Redis, which contains no secret.
fn reason(error: &RedisError) -> String {
    error.detail().map_or_else(|| error.to_string(), str::to_owned)
}
