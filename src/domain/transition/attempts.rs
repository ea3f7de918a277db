//! Start and end of attempts.

use std::mem::take;

use super::Result;
use crate::domain::{
    Applied, Attempt, ChangeContext, Claim, Completion, Failure, Job, Liveness, Progress, Rejected, Start, State,
    Timestamp, attempt,
};

impl Job {
    pub(super) fn start_attempt(&self, start: &Start, at: &ChangeContext) -> Result {
        if self.state.is_terminal() {
            return Err(Rejected::Finished);
        }
        let incarnation_id = self.version.incarnation_id;
        let claimed = |attempt| start.request_id.as_ref().map(|id| Claim::of_request(incarnation_id, attempt, id));
        if self.claim.is_some() && claimed(self.attempt) == self.claim {
            return if self.is_between_attempts() { Err(Rejected::StaleAttempt) } else { Ok(Applied::Unchanged) };
        }
        let attempt = self.attempt.saturating_add(1);
        let next = self.next_version(at, |job, now| {
            job.open_attempt(attempt, now);
            job.claim = claimed(attempt).or(Some(Claim::of_change(incarnation_id, attempt, at.change_id)));
            job.start_time.get_or_insert(now);
            job.state = State::Running;
            job.worker.clone_from(&start.worker);
            job.hear(start.lease_timeout, now, at);
        });
        let is_free = self.state == State::Pending || start.takeover;
        let has_decision = self.lease.fail_when_lost || self.cancel.is_some();
        if is_free {
            Ok(Applied::Changed(next))
        } else if self.liveness(at.now) == Liveness::Lost && !has_decision {
            Ok(Applied::ChangedIfLost(next))
        } else {
            Err(Rejected::AttemptRunning)
        }
    }

    pub(super) fn retry(&self, end: &Completion<Failure>, at: &ChangeContext) -> Result {
        let is_same = end.claim.is_none_or(|claim| self.claim == Some(claim))
            && end.attempt.is_none_or(|attempt| attempt == self.attempt);
        if self.is_between_attempts() && is_same && matches!(self.state, State::Pending | State::Cancelled) {
            return Ok(Applied::Unchanged);
        }
        self.check_attempt(end.attempt, end.claim)?;
        if self.state.is_terminal() {
            return Err(Rejected::Finished);
        }
        self.check_revision(end.expected_revision)?;
        Ok(self.next(at, |job, now| {
            job.begin(end.attempt, now);
            job.close_attempt(Some(&end.outcome), now);
            if job.cancel.is_some() {
                return job.end(State::Cancelled, None, now);
            }
            job.state = State::Pending;
            job.hear(None, now, at);
        }))
    }

    /// Rejects a request for an attempt that has ended, or with a claim that is not the current one.
    pub(super) fn check_attempt(
        &self,
        attempt: Option<i32>,
        claim: Option<Claim>,
    ) -> std::result::Result<(), Rejected> {
        let has_ended = self.is_between_attempts() && self.state == State::Pending;
        let is_current = |claim| !has_ended && self.claim == Some(claim) && attempt.is_none_or(|it| it == self.attempt);
        let is_over = |attempt: i32| attempt < self.attempt || has_ended && attempt == self.attempt;
        if claim.is_some_and(|claim| !is_current(claim)) || attempt.is_some_and(is_over) {
            return Err(Rejected::StaleAttempt);
        }
        Ok(())
    }

    /// Begins a new attempt if `attempt` is higher than the current one, or if no attempt is running.
    pub(super) fn begin(&mut self, attempt: Option<i32>, now: Timestamp) {
        let current = self.attempt.saturating_add(i32::from(self.is_between_attempts()));
        let attempt = attempt.unwrap_or(current).max(1);
        if attempt > self.attempt || self.is_between_attempts() {
            self.open_attempt(attempt, now);
        }
        self.start_time.get_or_insert(now);
    }

    /// Begins attempt `number`, without a claim.
    fn open_attempt(&mut self, number: i32, now: Timestamp) {
        self.close_attempt(None, now);
        self.attempt = number;
        self.attempt_start_time = Some(now);
        self.claim = None;
        self.worker.clear();
        self.progress = Progress::default();
        self.progress_time = None;
        self.sequence = None;
    }

    /// Records the end of the current attempt, if one is running: it failed and is to be retried, or another one
    /// begins.
    fn close_attempt(&mut self, failure: Option<&Failure>, now: Timestamp) {
        let Some(start_time) = self.attempt_start_time.take() else { return };
        let ended = Attempt {
            number: self.attempt,
            worker: self.worker.clone(),
            start_time,
            end_time: now,
            ended_by: self.version.change_id,
            failure: failure.cloned(),
        };
        self.attempts = attempt::append(take(&mut self.attempts), ended);
    }
}
