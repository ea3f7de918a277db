//! The attempts of a job: what names the one that runs, and the history of those that ended.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::{ChangeId, Failure, MAX_ATTEMPTS, MAX_PAST_FAILURE_MESSAGE, Timestamp};

/// The name of one attempt of one creation of a job, given to the worker that started it. No other attempt has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claim(Uuid);

impl Claim {
    /// Reads a claim from a request. Text that no claim is written as becomes one that no attempt has.
    pub fn parse(text: &str) -> Self {
        Self(Uuid::try_parse(text).unwrap_or_default())
    }

    /// Returns the claim of an attempt that `change_id` starts.
    pub fn of_change(incarnation_id: Uuid, attempt: i32, change_id: ChangeId) -> Self {
        let ChangeId { process, counter } = change_id;
        Self::derived(incarnation_id, &format!("{attempt} change {process:x}.{counter:x}"))
    }

    /// Returns the claim of an attempt that `request_id` starts: the same on every replica, so that the request may be
    /// repeated at another one.
    pub fn of_request(incarnation_id: Uuid, attempt: i32, request_id: &str) -> Self {
        Self::derived(incarnation_id, &format!("{attempt} request {request_id}"))
    }

    fn derived(incarnation_id: Uuid, text: &str) -> Self {
        Self(Uuid::new_v5(&incarnation_id, text.as_bytes()))
    }

    /// Returns the claim with these bytes.
    pub const fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }

    /// Returns the bytes of the claim.
    pub const fn as_bytes(&self) -> &[u8; 16] {
        self.0.as_bytes()
    }

    /// Returns the claim as text.
    pub fn text(&self) -> String {
        self.0.simple().to_string()
    }
}

/// An attempt that ended, and was not the last one.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// Worker that reported last; may be empty.
    pub worker: String,
    /// Time of its first report or of its claim.
    pub start_time: Timestamp,
    /// Time at which it failed, or at which the next one began.
    pub end_time: Timestamp,
    /// The change that ended it.
    pub ended_by: ChangeId,
    /// Reason for which it failed; absent if the next attempt began before it ended. Whole only in the last attempt that
    /// failed.
    pub failure: Option<Failure>,
}

impl Attempt {
    /// Returns the order by which one of two records of the same attempt is kept: a failure tells more than a later
    /// attempt.
    fn rank(&self) -> (bool, Timestamp, ChangeId) {
        (self.failure.is_some(), self.end_time, self.ended_by)
    }

    /// Removes what only the last failure keeps.
    fn shorten(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.details = None;
            failure.shorten(MAX_PAST_FAILURE_MESSAGE);
        }
    }
}

/// Returns the attempts with `attempt` behind those before it.
pub fn record(attempts: Box<[Attempt]>, attempt: Attempt) -> Box<[Attempt]> {
    let mut attempts = attempts.into_vec();
    debug_assert!(attempts.last().is_none_or(|last| last.number <= attempt.number), "attempts end in their order");
    // Only the highest number of all can be used again.
    attempts.retain(|earlier| earlier.number < attempt.number);
    attempts.push(attempt);
    tidy(attempts)
}

/// Returns the attempts that either of two versions of a job knows of.
pub fn union(one: &[Attempt], other: &[Attempt]) -> Box<[Attempt]> {
    let mut all: Vec<_> = one.iter().chain(other).cloned().collect();
    all.sort_by(|a, b| a.number.cmp(&b.number).then_with(|| b.rank().cmp(&a.rank())));
    all.dedup_by_key(|attempt| attempt.number);
    tidy(all)
}

/// Keeps the last attempts, and of their failures only the last one whole.
fn tidy(mut attempts: Vec<Attempt>) -> Box<[Attempt]> {
    let surplus = attempts.len().saturating_sub(MAX_ATTEMPTS);
    attempts.drain(..surplus);
    let last_failed = attempts.iter().rposition(|attempt| attempt.failure.is_some());
    for earlier in attempts.iter_mut().take(last_failed.unwrap_or_default()) {
        earlier.shorten();
    }
    attempts.into_boxed_slice()
}
