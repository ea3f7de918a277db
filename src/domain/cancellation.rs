//! A request to cancel a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A request to cancel a job, and the time that the worker has to comply.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cancellation {
    /// Time of the request. The first field, so that the derived order of cancellations is by time.
    pub request_time: Timestamp,
    /// The reason, as free text for people.
    pub reason: String,
    /// The name of the caller that asked for the cancellation.
    pub requester: String,
    /// The maximum time that the worker has to stop; absent: unlimited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Grace>,
}

impl Cancellation {
    /// Merges two replicas' records of a job's cancellation: keeps the first request and the earliest grace deadline.
    pub fn merged(&self, other: &Self) -> Self {
        let grace = [self.grace, other.grace].into_iter().flatten().min_by_key(|grace| (grace.time(), *grace));
        // A tombstone drops the reason of the request. Of two records of one request, the one with the reason is kept.
        let order = |cancel: &Self| (cancel.request_time, cancel.reason.is_empty());
        let first = if (order(self), self) <= (order(other), other) { self } else { other };
        Self { grace, ..first.clone() }
    }

    /// Returns a copy without the reason, as a tombstone keeps it.
    pub fn without_reason(&self) -> Self {
        Self { reason: String::new(), requester: self.requester.clone(), ..*self }
    }
}

/// The time that a worker has to stop after a cancellation request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grace {
    /// Start of the grace period.
    pub since: Timestamp,
    /// Length of the grace period.
    pub length: Duration,
}

impl Grace {
    /// Returns the end of the grace period.
    pub fn time(&self) -> Timestamp {
        self.since + self.length
    }
}
