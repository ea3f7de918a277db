//! Checks before the first call: a permanent error aborts the start, other problems are logged. Checks that are not
//! possible yet are made later; a permanent error that they find is logged, too.

use std::time::Duration;

use redis::RedisError;
use thiserror::Error;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    client::Client,
    connection::{Fault, Reason, Target, text, timed_out},
    due::DueSets,
    list::Lists,
    mistakes::{check_rights, explain},
    monitor::Monitor,
    probe::Prober,
    schema::{codec::decode, keys::Partition},
    script::{Extent, Outcome, Write},
};
use crate::{
    clock::{Clock, SteeredClock},
    domain::{ChangeContext, ChangeId, Filter, Job, JobId, ListQuery, NewJob, Order, Retention, View},
    store::Record,
};

/// Maximum time for the checks; they are made at most twice.
const PREFLIGHT_TIMEOUT: Duration = Duration::from_secs(3);

/// Interval between checks of a Redis that could not be checked at the start.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// A permanent error, which must be corrected before jobtrack can use this Redis.
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

/// The checks of a Redis, with the parts of the store that make them.
pub struct Preflight<'a> {
    /// Connections.
    pub client: &'a Client,
    /// The known state of Redis.
    pub monitor: &'a Monitor,
    /// Probes.
    pub prober: &'a Prober,
    /// Lists and counts.
    pub lists: &'a Lists,
    /// The sets of due records.
    pub due: &'a DueSets,
    /// The time on the clock of Redis.
    pub clock: &'a SteeredClock,
}

/// The result of the checks at the start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// Redis can be used.
    Usable,
    /// Redis can't be checked yet.
    Later,
}

impl Preflight<'_> {
    /// Checks that Redis can be used. It does not have to be reachable yet.
    pub async fn check(&self) -> Result<Checked, Unusable> {
        let mut outcome = self.try_in_time().await;
        if outcome.as_ref().is_err_and(RedisError::is_timeout) {
            // A single answer may be late.
            outcome = self.try_in_time().await;
        }
        let Err(error) = outcome else {
            self.prober.probe_now().await;
            return Ok(Checked::Usable);
        };
        let target = self.client.target();
        if let Some(problem) = explain(self.client, &error).await {
            return Err(Unusable { target: target.clone(), problem });
        }
        let (reason, text) = (Reason::of(&error), text(&error));
        warn!(redis = %target, %reason, error = text, "Redis can't be used yet; starting without it, trying again");
        self.monitor.record_outage_logged(&error);
        Ok(Checked::Later)
    }

    /// Repeats the checks that were not possible at the start, until they succeed. A permanent error does not stop the
    /// server: somebody may correct it, and jobs are accepted in memory meanwhile.
    pub async fn check_later(&self) {
        let (mut told, target) = (None, self.client.target());
        loop {
            sleep(CHECK_INTERVAL).await;
            let Err(error) = self.try_in_time().await else { break };
            let Some(problem) = explain(self.client, &error).await else { continue };
            if told.as_ref() != Some(&problem) {
                error!(redis = %target, reason = problem, "Redis can't be used until this is corrected");
                told = Some(problem);
            }
        }
        if told.is_some() {
            info!(redis = %target, "Redis can be used now");
        }
    }

    async fn try_in_time(&self) -> Result<(), RedisError> {
        timeout(PREFLIGHT_TIMEOUT, self.try_everything()).await.unwrap_or_else(|_| Err(timed_out()))
    }

    /// Performs each kind of operation once.
    async fn try_everything(&self) -> Result<(), RedisError> {
        drop(self.client.connector().connect().await?);
        self.prober.learn_data_set().await.map_err(Fault::into_error)?;
        let partition = Partition::of(&JobId::lower_bound());
        self.prober.beat_in(partition).await.map_err(Fault::into_error)?;
        self.try_write().await.map_err(Fault::into_error)?;
        let query = ListQuery {
            filter: Filter::default(),
            order: Order::default(),
            limit: 1,
            max_bytes: usize::MAX,
            after: None,
            now: self.clock.now(),
            confined: false,
            view: View::Basic,
        };
        self.lists.counts().await.map_err(Fault::into_error)?;
        self.lists.page(&query).await.map_err(Fault::into_error)?;
        self.due.due_batch(self.clock.now(), 1).await.map_err(Fault::into_error)?;
        drop(self.client.connector().subscribe(&[self.client.keys().changes(partition)], 0).await?);
        check_rights(self.client).await?;
        self.check_settings().await;
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
            by: Some(self.client.process()),
            leaving: &[],
            extent: Extent::Part,
            lineage: 0,
        };
        let left_behind = match write.run(None, self.client.calls(), self.client.keys()).await? {
            Outcome::Done(_) | Outcome::Deferred | Outcome::Legacy => None,
            Outcome::Other(fields) => Some(decode(&id, fields).await),
        };
        let there = left_behind.and_then(Record::found).map_or_else(|| gone.into(), |stored| stored.job);
        Write::removal(&id, Some(&there), &[]).run(None, self.client.calls(), self.client.keys()).await?;
        Ok(())
    }

    async fn check_settings(&self) {
        let Ok(memory) = self.client.connector().info("memory").await else {
            info!(redis = %self.client.target(), "INFO can't be read, so maxmemory-policy is not known");
            return;
        };
        let policy = memory.lines().find_map(|line| line.strip_prefix("maxmemory_policy:")).map(str::trim);
        if let Some(policy) = policy.filter(|policy| *policy != "noeviction") {
            warn!(redis = %self.client.target(), policy, "Redis may evict jobs: set its maxmemory-policy to noeviction");
        }
    }
}
