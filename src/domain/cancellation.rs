//! The request to stop a job.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Timestamp;

/// A request to stop a job.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Cancellation {
    /// Time of the request. First, so that the order of cancellations is that of time.
    pub request_time: Timestamp,
    /// Reason, for people.
    pub reason: String,
    /// Name of whoever asked.
    pub requester: String,
    /// Time that the worker has to stop, if that is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grace: Option<Grace>,
}

impl Cancellation {
    /// Returns what two replicas know of the same job's cancellation: the first request, and the earliest end of a grace.
    pub fn merged(&self, other: &Self) -> Self {
        let grace = [self.grace, other.grace].into_iter().flatten().min_by_key(|grace| (grace.time(), *grace));
        // The same request may have lost its reason with a tombstone.
        let order = |cancel: &Self| (cancel.request_time, cancel.reason.is_empty());
        let first = if (order(self), self) <= (order(other), other) { self } else { other };
        Self { grace, ..first.clone() }
    }

    /// Returns what a tombstone keeps of it.
    pub fn without_reason(&self) -> Self {
        Self { reason: String::new(), requester: self.requester.clone(), ..*self }
    }
}

/// The time that a worker has to stop after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Grace {
    /// Time from which it counts.
    pub since: Timestamp,
    /// Its length.
    pub length: Duration,
}

impl Grace {
    /// Returns its end.
    pub fn time(&self) -> Timestamp {
        self.since + self.length
    }
}
