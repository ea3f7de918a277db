//! Cancellation requests, and their confirmation.

use super::Result;
use crate::domain::{Applied, Cancellation, Change, ChangeContext, Claim, Grace, Job, Rejected, State};

impl Job {
    pub(super) fn request_cancel(&self, change: &Change, at: &ChangeContext) -> Result {
        let Change::Cancel { reason, requester, force, grace } = change else { return Ok(Applied::Unchanged) };
        match self.state {
            State::Cancelled => return Ok(Applied::Unchanged),
            State::Succeeded | State::Failed => return Err(Rejected::Finished),
            State::Pending | State::Running => {}
        }
        let at_once = *force || self.state == State::Pending;
        let limits = |cancel: &Cancellation| cancel.grace.is_none() && !grace.is_zero();
        if !at_once && self.cancel.as_ref().is_some_and(|cancel| !limits(cancel)) {
            return Ok(Applied::Unchanged);
        }
        Ok(self.next(at, |job, now| {
            let request = || Cancellation {
                request_time: now,
                reason: reason.clone(),
                requester: requester.clone(),
                grace: None,
            };
            let cancel = job.cancel.get_or_insert_with(|| Box::new(request()));
            if limits(cancel) {
                cancel.grace = Some(Grace { since: now, length: *grace });
            }
            if at_once {
                job.end(State::Cancelled, None, now);
            }
        }))
    }

    pub(super) fn confirm_cancel(
        &self,
        attempt: Option<i32>,
        claim: Option<Claim>,
        message: Option<&String>,
        at: &ChangeContext,
    ) -> Result {
        if !self.may_end(State::Cancelled, attempt, claim, None)? {
            return Ok(Applied::Unchanged);
        }
        if self.cancel.is_none() {
            return Err(Rejected::CancelNotRequested);
        }
        Ok(self.next(at, |job, now| {
            job.begin(attempt, now);
            if let Some(message) = message {
                job.progress.message = Some(message.clone());
            }
            job.end(State::Cancelled, None, now);
        }))
    }
}
