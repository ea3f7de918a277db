//! The times within which a job is to be heard of, and what is due when it is not.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::{Due, Job, State, Timestamp};

/// The times within which a job is heard of: while it is PENDING it is to be started, while it is RUNNING its worker is to
/// report.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lease {
    /// Maximum time without a report until the worker counts as lost. Zero: no lease.
    pub timeout: Duration,
    /// Maximum time that it waits for a worker, from its creation or from a retry. Zero: unlimited.
    pub start_timeout: Duration,
    /// Time at which the limit of the present state runs out, if it has one.
    pub expire_time: Option<Timestamp>,
    /// That it ran out was stored.
    pub lost: bool,
    /// The job fails when it runs out.
    pub fail_when_lost: bool,
}

/// A point in time at which something is due for an active job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time from which it is counted; absent: the time at which the primary last heard of the job.
    pub since: Option<Timestamp>,
    /// The time after that.
    pub wait: Duration,
    /// The action that is due then.
    pub due: Due,
}

impl Deadline {
    const fn after_heard(wait: Duration, due: Due) -> Self {
        Self { since: None, wait, due }
    }
}

/// Whether the worker still reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// The job has no lease, waits for its start or has ended.
    Unspecified,
    /// The lease holds.
    Live,
    /// The lease or the time for the start ran out.
    Lost,
}

impl Liveness {
    /// The name as callers know it, without the prefix of its enum.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::Live => "LIVE",
            Self::Lost => "LOST",
        }
    }
}

impl Job {
    /// Whether the worker still reports, at `now`.
    pub fn liveness(&self, now: Timestamp) -> Liveness {
        match self.lease.expire_time {
            None => Liveness::Unspecified,
            Some(expires) if self.lease.lost || expires <= now => Liveness::Lost,
            Some(_) if self.state == State::Pending => Liveness::Unspecified,
            Some(_) => Liveness::Live,
        }
    }

    /// Returns the maximum time without a report, or without a start, in the job's state. Zero: unlimited.
    pub const fn silence_allowed(&self) -> Duration {
        match self.state {
            State::Pending => self.lease.start_timeout,
            _ => self.lease.timeout,
        }
    }

    /// Returns the next deadline of this active job.
    pub fn deadline(&self) -> Option<Deadline> {
        // Of equals the first.
        [Due::Expire, Due::LoseWorker, Due::ForceCancel]
            .into_iter()
            .filter_map(|due| self.deadline_of(due))
            .min_by_key(|deadline| self.time_of(deadline))
    }

    /// Returns the deadline of `due` for this active job, if it has one.
    pub fn deadline_of(&self, due: Due) -> Option<Deadline> {
        if self.removal.is_some() || self.state.is_terminal() {
            return None;
        }
        let (is_pending, is_cancelled) = (self.state == State::Pending, self.cancel.is_some());
        match due {
            Due::Expire => {
                self.expire_time.map(|expires| Deadline::after_heard(expires.since(self.report_or_creation()), due))
            }
            // Only a merge leaves the cancellation of a job that waits.
            Due::LoseWorker if is_pending && is_cancelled => Some(Deadline::after_heard(Duration::ZERO, due)),
            Due::LoseWorker => self.silence_deadline().filter(|_| !self.lease.lost || is_cancelled),
            Due::ForceCancel => {
                let grace = self.cancel.as_ref().and_then(|cancel| cancel.grace).filter(|_| !is_pending);
                grace.map(|grace| Deadline { since: Some(grace.since), wait: grace.length, due })
            }
            Due::Forget => None,
        }
    }

    /// Returns the time up to which somebody must be heard of this active job, whether or not its loss was stored.
    pub fn silence_deadline(&self) -> Option<Deadline> {
        self.lease.expire_time.map(|_| Deadline::after_heard(self.silence_allowed(), Due::LoseWorker))
    }

    /// Returns the time of a deadline as this version knows it; the primary may have heard of the job a little later.
    pub fn time_of(&self, deadline: &Deadline) -> Timestamp {
        deadline.since.unwrap_or(self.report_or_creation()) + deadline.wait
    }

    /// The time of the last report, or else of the creation.
    fn report_or_creation(&self) -> Timestamp {
        self.report_time.unwrap_or(self.create_time)
    }
}
