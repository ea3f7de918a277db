//! The attempts of a job: the claim of the current one, and the history of those that ended.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;
use uuid::Uuid;

use super::{ChangeId, Failure, MAX_ATTEMPTS, MAX_PAST_FAILURE_MESSAGE, Timestamp};

/// Identifies one attempt of one incarnation of a job. Unique, and given to the worker that started the attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Claim(Uuid);

impl Claim {
    /// Reads a claim from a request. Malformed text becomes the nil claim, which matches no attempt.
    pub fn parse(text: &str) -> Self {
        Self(Uuid::try_parse(text).unwrap_or_default())
    }

    /// Returns the claim of an attempt that was started without a request id.
    pub fn of_change(incarnation_id: Uuid, attempt: i32, change_id: ChangeId) -> Self {
        let ChangeId { process, counter } = change_id;
        Self::derived(incarnation_id, &format!("{attempt} change {process:x}.{counter:x}"))
    }

    /// Returns the claim of an attempt that was started with a request id. Every replica computes the same claim, so
    /// that the request can be retried on another replica.
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

/// An attempt that ended while its job did not: in a retry, or because another attempt began.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Number of the attempt, from 1.
    pub number: i32,
    /// The worker that reported last; may be empty.
    pub worker: String,
    /// Time of the attempt's first report, or of its claim.
    pub start_time: Timestamp,
    /// Time at which the attempt failed, or at which the next one began.
    pub end_time: Timestamp,
    /// The change that ended the attempt.
    pub ended_by: ChangeId,
    /// The reason for the failure; absent if the next attempt began before this one ended. Only the most recent failure
    /// is kept in full; see `tidy`.
    pub failure: Option<Failure>,
}

impl Attempt {
    /// Returns the key by which one of two records of the same attempt is chosen: a record with a failure has more
    /// information than one without.
    fn rank(&self) -> (bool, Timestamp, ChangeId) {
        (self.failure.is_some(), self.end_time, self.ended_by)
    }

    /// Drops the details and cuts the message of the failure.
    fn shorten(&mut self) {
        if let Some(failure) = &mut self.failure {
            failure.details = None;
            failure.shorten(MAX_PAST_FAILURE_MESSAGE);
        }
    }
}

/// Appends `attempt` to the attempts before it.
pub fn append(attempts: Box<[Attempt]>, attempt: Attempt) -> Box<[Attempt]> {
    let mut attempts = attempts.into_vec();
    debug_assert!(attempts.last().is_none_or(|last| last.number <= attempt.number), "attempts end in their order");
    // Keeps one record of each number, even if a merge has added a record of this attempt from the version that lost.
    attempts.retain(|earlier| earlier.number < attempt.number);
    attempts.push(attempt);
    tidy(attempts)
}

/// Returns the union of the attempts of two versions of a job, with one record for each number.
pub fn union(one: &[Attempt], other: &[Attempt]) -> Box<[Attempt]> {
    let mut all: Vec<_> = one.iter().chain(other).cloned().collect();
    all.sort_by(|a, b| a.number.cmp(&b.number).then_with(|| b.rank().cmp(&a.rank())));
    all.dedup_by_key(|attempt| attempt.number);
    tidy(all)
}

/// Keeps the last [`MAX_ATTEMPTS`] attempts, and only the most recent failure in full.
fn tidy(mut attempts: Vec<Attempt>) -> Box<[Attempt]> {
    let surplus = attempts.len().saturating_sub(MAX_ATTEMPTS);
    attempts.drain(..surplus);
    debug_assert!(attempts.is_sorted_by(|one, next| one.number < next.number), "each attempt has one record");
    let last_failed = attempts.iter().rposition(|attempt| attempt.failure.is_some());
    for earlier in attempts.iter_mut().take(last_failed.unwrap_or_default()) {
        earlier.shorten();
    }
    attempts.into_boxed_slice()
}
