//! The log of an outage of Redis: the reason when it begins and when it changes, and once a minute while it lasts.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use redis::RedisError;
use tokio::time::Instant;
use tracing::{info, warn};

use super::connection::{Reason, Target, forbidden_command, text};

/// Interval between lines about an outage that goes on for the same reason.
const REMINDER: Duration = Duration::from_secs(60);

/// Minimum time between lines about an outage whose reason alternates.
const CHANGE_PAUSE: Duration = Duration::from_secs(1);

/// The outage that was logged last, unless it is over.
#[derive(Default)]
pub struct OutageLog(Mutex<Option<Outage>>);

/// An outage as it was logged.
#[derive(Debug)]
struct Outage {
    began: Instant,
    logged: Instant,
    reason: Reason,
    /// Number of partitions that do not serve.
    partitions: usize,
    /// The last error, for lines that are logged without a new one.
    error: Option<RedisError>,
}

impl Outage {
    /// Records the extent and the reason of the outage. Returns whether a line is to be logged.
    fn update(&mut self, partitions: usize, error: Option<&RedisError>, now: Instant) -> bool {
        let reason = error.map_or(self.reason, Reason::of);
        let age = now - self.logged;
        let is_new = partitions != self.partitions || reason != self.reason;
        if !(age >= REMINDER || is_new && age >= CHANGE_PAUSE) {
            return false;
        }
        (self.reason, self.partitions, self.logged) = (reason, partitions, now);
        if let Some(error) = error {
            self.error = Some(error.clone());
        }
        true
    }
}

impl OutageLog {
    /// Records that `partitions` do not serve, because of `error` if there is a new one.
    pub fn record_unavailable(&self, target: &Target, partitions: usize, error: Option<&RedisError>) {
        let now = Instant::now();
        let mut last = self.last();
        let is_due = match &mut *last {
            Some(outage) => outage.update(partitions, error, now),
            None => true,
        };
        if !is_due {
            return;
        }
        let outage = last.get_or_insert_with(|| Outage {
            began: now,
            logged: now,
            reason: error.map_or(Reason::Timeout, Reason::of),
            partitions,
            error: error.cloned(),
        });
        let (reason, seconds) = (outage.reason, (now - outage.began).as_secs());
        let command = outage.error.as_ref().and_then(forbidden_command);
        let error = outage.error.as_ref().map(text);
        warn!(redis = %target, %reason, command, error, partitions, seconds, "Redis is unavailable; trying again");
    }

    /// Records an error that the checks at the start have logged, so that the first probe does not log it again.
    pub fn record_logged(&self, partitions: usize, error: &RedisError) {
        let now = Instant::now();
        let (reason, error) = (Reason::of(error), Some(error.clone()));
        *self.last() = Some(Outage { began: now, logged: now, reason, partitions, error });
    }

    /// Records that Redis serves.
    pub fn ended(&self, target: &Target, replica: &str) {
        let seconds = self.last().take().map(|outage| outage.began.elapsed().as_secs());
        info!(redis = %target, replica, unavailable_seconds = seconds, "Redis serves");
    }

    fn last(&self) -> MutexGuard<'_, Option<Outage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind};

    use super::*;

    fn error(kind: ErrorKind) -> RedisError {
        Error::from(kind).into()
    }

    #[test]
    fn an_outage_is_logged_again_when_its_reason_changes_and_once_a_minute() {
        let (refused, timeout) = (error(ErrorKind::ConnectionRefused), error(ErrorKind::TimedOut));
        let began = Instant::now();
        let mut outage =
            Outage { began, logged: began, reason: Reason::Refused, partitions: 16, error: Some(refused.clone()) };
        let mut at =
            |millis, error: Option<&RedisError>| outage.update(16, error, began + Duration::from_millis(millis));
        assert!(!at(250, Some(&timeout)), "a reason that changes within CHANGE_PAUSE is not logged yet");
        assert!(at(1250, Some(&timeout)) && !at(1500, Some(&timeout)) && !at(61_000, None));
        assert!(at(61_250, None) && !at(61_500, Some(&timeout)));
        assert!(at(63_000, Some(&refused)));
        assert_eq!(outage.reason, Reason::Refused);
        assert!(outage.update(1, None, began + Duration::from_secs(70)), "fewer partitions are affected");
    }
}
