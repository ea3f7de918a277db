//! A job and its parts.

use std::{
    borrow::Borrow,
    fmt::{self, Display},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::{
    Attempt, Branch, Cancellation, Claim, Document, Failure, Labels, Lease, MAX_ID, Outcome, Timestamp, Version,
};

/// The id of a job: 1 to 128 characters of `A-Z a-z 0-9 . _ : -`, so that it is safe in a key, a log line and a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Accepts `raw` if it is a valid id.
    pub fn parse(raw: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
        ((1..=MAX_ID).contains(&raw.len()) && raw.bytes().all(allowed)).then(|| Self(raw.into()))
    }

    /// Returns the id of a job that `owner` creates with `request_id` but without an id. A retry of the request gets
    /// the same id.
    pub fn derived(owner: &str, request_id: &str) -> Self {
        const NAMESPACE: Uuid = Uuid::from_u128(0x5a1f_6d1c_0b3e_4c52_9d55_7f0c_2e8b_91a4);
        Self::from(Uuid::new_v5(&NAMESPACE, format!("{}:{owner}{request_id}", owner.len()).as_bytes()))
    }

    /// Returns a bound that sorts before every valid id, and is itself not valid.
    pub(crate) fn lower_bound() -> Self {
        Self("".into())
    }

    /// Returns the id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Uuid> for JobId {
    fn from(uuid: Uuid) -> Self {
        Self((&*uuid.hyphenated().encode_lower(&mut Uuid::encode_buffer())).into())
    }
}

impl Borrow<str> for JobId {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The state of a job.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// The job waits for a worker: after its creation, or after an attempt that ended in a retry.
    Pending,
    /// A worker has started or reported.
    Running,
    /// The job was completed.
    Succeeded,
    /// The job failed.
    Failed,
    /// The job was cancelled.
    Cancelled,
}

impl State {
    /// All states: the active ones in their order, then the final ones. `State as usize` is the index.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Returns whether the state is final.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// Returns the name on the wire, without the prefix of its enum.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "PENDING",
            Self::Running => "RUNNING",
            Self::Succeeded => "SUCCEEDED",
            Self::Failed => "FAILED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// The progress of a job. Also the patch of a report, in which a field that is `None` keeps its value.
#[skip_serializing_none]
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// 0 to 100, finite.
    pub percent: Option<f64>,
    /// Units done, not negative.
    pub completed: Option<i64>,
    /// Units to do, not negative.
    pub total: Option<i64>,
    /// The unit of `completed` and `total`.
    pub unit: Option<String>,
    /// Name of the current stage.
    pub stage: Option<String>,
    /// Number of the current stage.
    pub stage_index: Option<i32>,
    /// Number of stages.
    pub stage_count: Option<i32>,
    /// A message for people.
    pub message: Option<String>,
    /// The worker's own data.
    pub details: Option<Document>,
}

/// The reason why a job was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Removal {
    /// A caller deleted or purged it.
    Deleted,
    /// Its retention was over, or it was evicted, or it lost its id to another incarnation in a merge after an outage.
    Expired,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One version of a job: the job itself, or its tombstone once [`removal`](Job::removal) is set.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// The id.
    pub id: JobId,
    /// Identifies this version.
    pub version: Version,
    /// The request id of the creation, if the creator gave one.
    pub request_id: Option<String>,
    /// The kind of work.
    pub kind: String,
    /// The owner; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// A title for people; may be empty.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub title: Box<str>,
    /// Key-value pairs, for filters.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The creator's own data.
    pub metadata: Option<Document>,
    /// The state; in a tombstone, the state at the removal.
    pub state: State,
    /// Number of the current attempt; 0 until the first one begins.
    pub attempt: i32,
    /// Time at which the current attempt began. `None`: it ended in a retry, or no attempt has begun yet.
    #[serde(default)]
    pub attempt_start_time: Option<Timestamp>,
    /// The claim of the current attempt, if a worker claimed it.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// Records of the attempts before the current one, and of the current one if it ended in a retry: the last
    /// [`MAX_ATTEMPTS`](super::MAX_ATTEMPTS), by number. After a merge the list may contain attempts of the version
    /// that lost; [`past_attempts`](Self::past_attempts) leaves them out.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub attempts: Box<[Attempt]>,
    /// Sequence number of the last report of the current attempt.
    pub sequence: Option<i64>,
    /// Progress of the current attempt.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: Progress,
    /// The worker that reported last; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,
    /// The cancellation request.
    pub cancel: Option<Box<Cancellation>>,
    /// Time limits for the start and for reports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease: Lease,
    /// Retention after the end; `None`: as configured for the state. Zero: for ever.
    pub retention: Option<Duration>,
    /// Time of the creation.
    pub create_time: Timestamp,
    /// Time at which a worker first claimed an attempt, reported or ended the job.
    pub start_time: Option<Timestamp>,
    /// Time of the last change. A lost lease and an ignored report leave it as it is.
    pub update_time: Timestamp,
    /// Time of the last report. Versions with the same time contain the same last report.
    pub report_time: Option<Timestamp>,
    /// Time at which the percentage, the number of units done or the stage of the current attempt last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_time: Option<Timestamp>,
    /// Time of the end.
    pub end_time: Option<Timestamp>,
    /// Time from which the job counts as removed.
    pub expire_time: Option<Timestamp>,
    /// Time at which this tombstone is forgotten.
    pub forget_time: Option<Timestamp>,
    /// The outcome, once the job has ended.
    pub outcome: Option<Outcome>,
    /// Time on the primary's clock at which the end of this job was first stored in the primary.
    #[serde(skip)]
    pub durable_time: Option<Timestamp>,
    /// Time on the primary's clock since which the id has been in use: the creation of this incarnation or, if it was
    /// created over a tombstone, that of the first incarnation in the chain of such creations. `None`: no version of
    /// this incarnation was ever stored in the primary.
    #[serde(skip)]
    pub since: Option<Timestamp>,
    /// Time on the primary's clock at which the last report was stored there; without a report, the creation. Leases
    /// are counted from this time.
    #[serde(skip)]
    pub heard: Option<Timestamp>,
    /// The branch of the job's history in which the primary last stored a version of this incarnation. `None`: no
    /// version of it was ever stored in the primary, or only by a release that did not know branches. Shared by
    /// versions, so that the branch costs a job little memory.
    #[serde(skip)]
    pub branch: Option<Arc<Branch>>,
    /// The reason for the removal; `Some` makes this version a tombstone.
    pub removal: Option<Removal>,
}

impl Job {
    /// Returns whether the last attempt ended in a retry, and no other attempt has begun since.
    pub const fn is_between_attempts(&self) -> bool {
        self.attempt > 0 && self.attempt_start_time.is_none()
    }

    /// Returns the attempts before the current one, and the current one if it ended in a retry.
    pub fn past_attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        let next = self.attempt.saturating_add(i32::from(self.is_between_attempts()));
        self.attempts.iter().filter(move |attempt| attempt.number < next)
    }

    /// Returns the failure of the most recent attempt that ended in a retry.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.past_attempts().rev().find_map(|attempt| attempt.failure.as_ref())
    }

    /// Returns whether callers see the job at `now`: it is not removed, and its retention is not over. An active job
    /// that is in the primary is visible until its expiry has been stored, because only the primary knows when the last
    /// report came.
    pub fn is_visible(&self, now: Timestamp) -> bool {
        let is_decided_by_primary = self.is_recorded() && !self.state.is_terminal();
        self.removal.is_none() && (is_decided_by_primary || self.expire_time.is_none_or(|expires| now < expires))
    }

    /// Returns this version with its times moved by `by` microseconds, except for those on the primary's clock.
    /// Corrects times that were read from a wrong clock.
    #[must_use]
    pub fn moved(&self, by: i64) -> Self {
        let mut job = self.clone();
        let times = [&mut job.create_time, &mut job.update_time].into_iter();
        let others = [
            &mut job.start_time,
            &mut job.report_time,
            &mut job.progress_time,
            &mut job.end_time,
            &mut job.expire_time,
            &mut job.forget_time,
            &mut job.lease.expire_time,
            &mut job.attempt_start_time,
        ];
        let cancel = job.cancel.iter_mut().flat_map(|cancel| {
            let grace = cancel.grace.as_mut().map(|grace| &mut grace.since);
            [&mut cancel.request_time].into_iter().chain(grace)
        });
        let past = job.attempts.iter_mut().flat_map(|past| [&mut past.start_time, &mut past.end_time]);
        for time in times.chain(others.into_iter().flatten()).chain(cancel).chain(past) {
            *time = time.moved(by);
        }
        job
    }

    /// Returns whether any version of this incarnation was ever stored in the primary.
    pub const fn is_recorded(&self) -> bool {
        self.since.is_some()
    }

    /// Returns whether this is a tombstone that no version of the same incarnation can replace: a deletion, or the
    /// expiry of a job that had ended.
    pub const fn is_final_tombstone(&self) -> bool {
        match self.removal {
            Some(Removal::Deleted) => true,
            Some(Removal::Expired) => self.state.is_terminal(),
            None => false,
        }
    }
}

/// The content of a request to create a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewJob {
    /// The id, if the creator chose one.
    pub id: Option<JobId>,
    /// Makes the request idempotent.
    pub request_id: Option<String>,
    /// The kind of work.
    pub kind: String,
    /// The owner; may be empty.
    pub owner: String,
    /// A title for people; may be empty.
    pub title: String,
    /// Key-value pairs, for filters.
    pub labels: Labels,
    /// The creator's own data.
    pub metadata: Option<Document>,
    /// Maximum time between two reports, after which the worker counts as lost. Zero: no lease.
    pub lease_timeout: Duration,
    /// Maximum time that the job waits for a worker. Zero: unlimited.
    pub start_timeout: Duration,
    /// Fails the job when its worker is lost, or when no worker starts it.
    pub fail_when_lost: bool,
    /// Retention after the end. Zero: for ever.
    pub retention: Option<Duration>,
}
