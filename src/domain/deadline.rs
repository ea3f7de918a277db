//! Leases and deadlines: the actions that become due for an active job by time alone.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Due, Job, State, Timestamp};

/// The time limits of an active job: a worker must start it while it is PENDING, and must report while it is RUNNING.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Maximum time between two reports, after which the worker counts as lost. Zero: no lease.
    pub timeout: Duration,
    /// Maximum time that the job waits for a worker after its creation or a retry. Zero: unlimited.
    pub start_timeout: Duration,
    /// Time at which the limit of the present state expires, if it has one.
    pub expire_time: Option<Timestamp>,
    /// Set when the expiry of this limit has been stored.
    pub lost: bool,
    /// Fails the job when the lease expires.
    pub fail_when_lost: bool,
}

/// A point in time at which an action is due for an active job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// Start of the wait; `None`: the time at which the primary last received a report of the job.
    pub since: Option<Timestamp>,
    /// Length of the wait.
    pub wait: Duration,
    /// The action that is due at the end.
    pub due: Due,
}

impl Deadline {
    const fn after_heard(wait: Duration, due: Due) -> Self {
        Self { since: None, wait, due }
    }
}

/// The state of a job's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// The job has no lease, waits for its start, or has ended.
    Unspecified,
    /// The lease has not expired.
    Live,
    /// The lease or the start timeout has expired.
    Lost,
}

impl Liveness {
    /// Returns the name on the wire, without the prefix of its enum.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::Live => "LIVE",
            Self::Lost => "LOST",
        }
    }
}

impl Job {
    /// Returns the state of the lease at `now`.
    pub fn liveness(&self, now: Timestamp) -> Liveness {
        match self.lease.expire_time {
            None => Liveness::Unspecified,
            Some(expires) if self.lease.lost || expires <= now => Liveness::Lost,
            Some(_) if self.state == State::Pending => Liveness::Unspecified,
            Some(_) => Liveness::Live,
        }
    }

    /// Returns the maximum time without a report, or without a start, in the present state. Zero: unlimited.
    pub const fn silence_allowed(&self) -> Duration {
        match self.state {
            State::Pending => self.lease.start_timeout,
            _ => self.lease.timeout,
        }
    }

    /// Returns the next deadline of this active job.
    pub fn deadline(&self) -> Option<Deadline> {
        // Of equal deadlines the first in this list is chosen.
        [Due::Expire, Due::LoseWorker, Due::ForceCancel]
            .into_iter()
            .filter_map(|due| self.deadline_of(due))
            .min_by_key(|deadline| self.time_of(deadline))
    }

    /// Returns the deadline for `due` of this active job, if it has one.
    pub fn deadline_of(&self, due: Due) -> Option<Deadline> {
        if self.removal.is_some() || self.state.is_terminal() {
            return None;
        }
        let (is_pending, is_cancelled) = (self.state == State::Pending, self.cancel.is_some());
        match due {
            Due::Expire => {
                self.expire_time.map(|expires| Deadline::after_heard(expires.since(self.report_or_creation()), due))
            }
            // Only a merge leaves a cancellation request on a job that waits for a worker. No worker will confirm it,
            // so the cancellation is due at once.
            Due::LoseWorker if is_pending && is_cancelled => Some(Deadline::after_heard(Duration::ZERO, due)),
            Due::LoseWorker => self.silence_deadline().filter(|_| !self.lease.lost || is_cancelled),
            Due::ForceCancel => {
                let grace = self.cancel.as_ref().and_then(|cancel| cancel.grace).filter(|_| !is_pending);
                grace.map(|grace| Deadline { since: Some(grace.since), wait: grace.length, due })
            }
            Due::Forget => None,
        }
    }

    /// Returns the deadline for the next report or start of this active job, even if its expiry has been stored
    /// already.
    pub fn silence_deadline(&self) -> Option<Deadline> {
        self.lease.expire_time.map(|_| Deadline::after_heard(self.silence_allowed(), Due::LoseWorker))
    }

    /// Returns the time of a deadline as this version knows it. The primary may have received a report a little later.
    pub fn time_of(&self, deadline: &Deadline) -> Timestamp {
        deadline.since.unwrap_or(self.report_or_creation()) + deadline.wait
    }

    /// Returns the time of the last report; without one, that of the creation.
    fn report_or_creation(&self) -> Timestamp {
        self.report_time.unwrap_or(self.create_time)
    }
}
