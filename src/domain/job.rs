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

use super::{Attempt, Cancellation, Claim, Document, Failure, Labels, Lease, MAX_ID, Outcome, Timestamp, Version};

/// A job's name: 1 to 128 of `A-Z a-z 0-9 . _ : -`, so that it is safe in a key, a log line and a shell.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct JobId(Arc<str>);

impl JobId {
    /// Takes `raw` for an id if it is one.
    pub fn parse(raw: &str) -> Option<Self> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-');
        ((1..=MAX_ID).contains(&raw.len()) && raw.bytes().all(allowed)).then(|| Self(raw.into()))
    }

    /// The id of a job that is made by `request_id` of `owner` without a name: always the same.
    pub fn derived(owner: &str, request_id: &str) -> Self {
        const NAMESPACE: Uuid = Uuid::from_u128(0x5a1f_6d1c_0b3e_4c52_9d55_7f0c_2e8b_91a4);
        Self::from(Uuid::new_v5(&NAMESPACE, format!("{}:{owner}{request_id}", owner.len()).as_bytes()))
    }

    /// Sorts before every id, and is none.
    pub(crate) fn lower_bound() -> Self {
        Self("".into())
    }

    /// The id as text.
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

/// Where a job is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum State {
    /// No worker has reported yet.
    Pending,
    /// A worker has reported.
    Running,
    /// Ended well.
    Succeeded,
    /// Ended badly.
    Failed,
    /// Stopped on request.
    Cancelled,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [Self; 5] = [Self::Pending, Self::Running, Self::Succeeded, Self::Failed, Self::Cancelled];

    /// Whether nothing comes after it.
    pub const fn is_terminal(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled)
    }

    /// The state's name as callers know it, without the prefix of its enum.
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

/// How far a job is. Also the patch that a report carries: what is `None` there keeps its value.
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
    /// What is counted.
    pub unit: Option<String>,
    /// The current step.
    pub stage: Option<String>,
    /// Which step this is.
    pub stage_index: Option<i32>,
    /// How many steps there are.
    pub stage_count: Option<i32>,
    /// A line for people.
    pub message: Option<String>,
    /// The worker's own data.
    pub details: Option<Document>,
}

/// Why a job is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Removal {
    /// Somebody deleted or purged it.
    Deleted,
    /// Its time was over, or it was evicted, or after an outage another job stands under its id.
    Expired,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// One version of a job: the job itself, or its tombstone once [`removal`](Job::removal) is set.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Job {
    /// Its name.
    pub id: JobId,
    /// Which version of it this is.
    pub version: Version,
    /// The request that made it, if that can be repeated.
    pub request_id: Option<String>,
    /// What sort of work it is.
    pub kind: String,
    /// Whom it belongs to; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub owner: String,
    /// The name for people; may be empty.
    #[serde(default, skip_serializing_if = "str::is_empty")]
    pub title: Box<str>,
    /// Pairs to filter by.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The creator's own data.
    pub metadata: Option<Document>,
    /// Where it is in its life; in a tombstone, where it was.
    pub state: State,
    /// Which try this is: 0 before the first report or finish.
    pub attempt: i32,
    /// Time at which this attempt began. `None`: it ended in a retry, or there was none yet.
    #[serde(default)]
    pub attempt_start_time: Option<Timestamp>,
    /// The claim of this attempt, if a worker claimed it.
    #[serde(default)]
    pub claim: Option<Claim>,
    /// The attempts before this one, and this one if it ended in a retry; the last [`MAX_ATTEMPTS`](super::MAX_ATTEMPTS),
    /// by their numbers. After a merge it may hold some that have no part in the version that stands.
    #[serde(default, skip_serializing_if = "<[_]>::is_empty")]
    pub attempts: Box<[Attempt]>,
    /// The last report's number within the attempt.
    pub sequence: Option<i64>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: Progress,
    /// Who reported last; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub worker: String,
    /// The request to stop it.
    pub cancel: Option<Box<Cancellation>>,
    /// What was promised about reports.
    #[serde(default, skip_serializing_if = "is_default")]
    pub lease: Lease,
    /// How long it is kept after its end, if not as its state says. Zero: for ever.
    pub retention: Option<Duration>,
    /// When it was created.
    pub create_time: Timestamp,
    /// When the first report or finish came.
    pub start_time: Option<Timestamp>,
    /// When it last changed through a call.
    pub update_time: Timestamp,
    /// When a worker reported last; it names that report, too.
    pub report_time: Option<Timestamp>,
    /// Time when the work last advanced in this attempt: when the percentage, the number of units done or the stage last
    /// changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_time: Option<Timestamp>,
    /// When it ended.
    pub end_time: Option<Timestamp>,
    /// From when on it counts as gone.
    pub expire_time: Option<Timestamp>,
    /// When this tombstone is forgotten.
    pub forget_time: Option<Timestamp>,
    /// What came of it.
    pub outcome: Option<Outcome>,
    /// When this job's end first entered the primary, on the primary's clock.
    #[serde(skip)]
    pub durable_time: Option<Timestamp>,
    /// When the primary first knew this id taken by this chain of incarnations, each made over the tombstone of the one
    /// before, on its clock. `None`: no version of this incarnation was ever in the primary.
    #[serde(skip)]
    pub since: Option<Timestamp>,
    /// When the newest report, or else the job, entered the primary, on its clock. Leases run from here.
    #[serde(skip)]
    pub heard: Option<Timestamp>,
    /// Set: this is a tombstone.
    pub removal: Option<Removal>,
}

impl Job {
    /// Returns whether the last attempt ended in a retry, and no other has begun since.
    pub const fn is_between_attempts(&self) -> bool {
        self.attempt > 0 && self.attempt_start_time.is_none()
    }

    /// Returns the attempts that ended before this version's own, or were ended by it.
    pub fn past_attempts(&self) -> impl DoubleEndedIterator<Item = &Attempt> {
        let next = self.attempt.saturating_add(i32::from(self.is_between_attempts()));
        self.attempts.iter().filter(move |attempt| attempt.number < next)
    }

    /// Returns the last failure that was followed by another attempt.
    pub fn last_failure(&self) -> Option<&Failure> {
        self.past_attempts().rev().find_map(|attempt| attempt.failure.as_ref())
    }

    /// Whether the job is there for callers at `now`: not removed, and its retention is not over. An active job that was
    /// recorded is there until its expiry is stored: only the primary can tell whether its worker was heard.
    pub fn is_visible(&self, now: Timestamp) -> bool {
        let is_decided_by_primary = self.is_recorded() && !self.state.is_terminal();
        self.removal.is_none() && (is_decided_by_primary || self.expire_time.is_none_or(|expires| now < expires))
    }

    /// This version with all its times moved by this number of microseconds: they were read from a clock that was wrong
    /// by as much.
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

    /// Whether any version of this incarnation was ever in the primary.
    pub const fn is_recorded(&self) -> bool {
        self.since.is_some()
    }

    /// Whether this is a tombstone that no version of the same incarnation overrules: a deletion, or the expiry of a job
    /// that had ended.
    pub const fn is_final_tombstone(&self) -> bool {
        match self.removal {
            Some(Removal::Deleted) => true,
            Some(Removal::Expired) => self.state.is_terminal(),
            None => false,
        }
    }
}

/// What a creator says of a job.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct NewJob {
    /// Its name, if the creator chose one.
    pub id: Option<JobId>,
    /// Makes the request safe to repeat.
    pub request_id: Option<String>,
    /// What sort of work it is.
    pub kind: String,
    /// Whom it belongs to; may be empty.
    pub owner: String,
    /// The name for people; may be empty.
    pub title: String,
    /// Pairs to filter by.
    pub labels: Labels,
    /// The creator's own data.
    pub metadata: Option<Document>,
    /// How long without a report until the worker counts as lost. Zero: no lease.
    pub lease_timeout: Duration,
    /// Maximum time that it waits for a worker. Zero: unlimited.
    pub start_timeout: Duration,
    /// The job fails when its worker is lost, or no worker starts it.
    pub fail_when_lost: bool,
    /// How long it is kept after its end. Zero: for ever.
    pub retention: Option<Duration>,
}
