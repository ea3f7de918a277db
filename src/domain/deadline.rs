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
    /// How long without a report until the worker counts as lost. Zero: no lease.
    pub timeout: Duration,
    /// How long it may wait for a worker, from its creation or from a retry. Zero: without limit.
    pub start_timeout: Duration,
    /// When the time of the present state runs out, if that is limited.
    pub expire_time: Option<Timestamp>,
    /// It was seen to have run out, and this was stored.
    pub lost: bool,
    /// Whether running out fails the job.
    pub fail_when_lost: bool,
}

/// A point in time at which something is due for an active job.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadline {
    /// The time from which it is counted; absent: the time at which the primary last heard of the job.
    pub since: Option<Timestamp>,
    /// The time after that.
    pub wait: Duration,
    /// What is due then.
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

    /// How long the job may go unheard of in its state. Zero: without limit.
    pub const fn silence_allowed(&self) -> Duration {
        match self.state {
            State::Pending => self.lease.start_timeout,
            _ => self.lease.timeout,
        }
    }

    /// What is due next for this active job, and when.
    pub fn deadline(&self) -> Option<Deadline> {
        // Of equals the first.
        [Due::Expire, Due::LoseWorker, Due::ForceCancel]
            .into_iter()
            .filter_map(|due| self.deadline_of(due))
            .min_by_key(|deadline| self.time_of(deadline))
    }

    /// When `due` comes for this active job, if it does.
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

    /// When nobody was heard of this active job for as long as its state allows, whether or not that was seen already.
    pub fn silence_deadline(&self) -> Option<Deadline> {
        self.lease.expire_time.map(|_| Deadline::after_heard(self.silence_allowed(), Due::LoseWorker))
    }

    /// The time of a deadline as this version knows it; the primary may have heard of the job a little later.
    pub fn time_of(&self, deadline: &Deadline) -> Timestamp {
        deadline.since.unwrap_or(self.report_or_creation()) + deadline.wait
    }

    /// The time of the last report, or else of the creation.
    fn report_or_creation(&self) -> Timestamp {
        self.report_time.unwrap_or(self.create_time)
    }
}
