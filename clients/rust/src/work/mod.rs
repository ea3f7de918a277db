//! Working on a job: claim, reports, heartbeats, cancellation, end.

mod builder;
pub(crate) mod report;
mod reporter;
mod shared;

use std::{sync::Arc, thread};

use serde::Serialize;
use tokio::sync::oneshot;
use tonic::Code;

use self::shared::{Outcome, Shared};
pub use self::{builder::WorkBuilder, report::Report, shared::Stop};
use crate::{Error, Job, job::document, proto::v1::Failure};

/// One attempt at a job. Reports and heartbeats are sent by a task beside the work, which never waits for them.
///
/// [`finish`](Self::finish), [`fail`](Self::fail), [`retry`](Self::retry) and [`confirm_cancel`](Self::confirm_cancel)
/// end the attempt. If the `Work` is dropped without one of these calls, the job fails with the reason `ABANDONED`, or
/// `PANIC` during a panic, or counts as cancelled if that was requested. Dropping does not block. If the runtime stops
/// before that is sent, the worker counts as lost when its lease runs out.
#[derive(Debug)]
pub struct Work {
    shared: Arc<Shared>,
    ended: Option<oneshot::Receiver<Result<Job, Error>>>,
}

impl Work {
    /// Returns the id of the job.
    pub fn job_id(&self) -> &str {
        &self.shared.job_id
    }

    /// Returns the number of the attempt, from 1; `None` until the server has confirmed the claim.
    pub fn attempt(&self) -> Option<i32> {
        self.shared.claimed().map(|claimed| claimed.attempt)
    }

    /// Reports how far the work is. It returns at once: of several reports that wait, the newest values are sent.
    pub fn report(&self, report: Report) {
        self.shared.report(report);
    }

    /// Returns why the work is to stop, if it is.
    pub fn stop_reason(&self) -> Option<Stop> {
        self.shared.stop_reason()
    }

    /// Waits until the work is to stop, and returns the reason: somebody requested the cancellation, or the attempt is
    /// not this worker's any more. The future can be dropped and requested again.
    pub async fn cancelled(&self) -> Stop {
        self.shared.stopped().await
    }

    /// Completes the job. `result` serializes to a JSON object of at most 1 MiB, or is `()` for none. With any other
    /// result the job is completed without a result, and the error says why.
    pub async fn finish(self, result: impl Serialize) -> Result<Job, Error> {
        match document(result) {
            Ok(result) => self.end(Outcome::Complete(result)).await,
            Err(invalid) => self.end(Outcome::Complete(None)).await.and(Err(invalid)),
        }
    }

    /// Ends the job with a failure.
    pub async fn fail(self, failure: Failure) -> Result<Job, Error> {
        self.end(Outcome::Fail { failure, retry: false }).await
    }

    /// Ends this attempt with a failure; another attempt may follow.
    pub async fn retry(self, failure: Failure) -> Result<Job, Error> {
        self.end(Outcome::Fail { failure, retry: true }).await
    }

    /// Ends the job as cancelled, after the work was stopped. If nobody has requested that, the job fails with the
    /// reason `STOPPED`, and the error says so.
    pub async fn confirm_cancel(self, message: Option<String>) -> Result<Job, Error> {
        self.end(Outcome::ConfirmCancel(message)).await
    }

    /// Sends the last report and the end. Gives up after the time to flush.
    async fn end(mut self, outcome: Outcome) -> Result<Job, Error> {
        self.shared.end(outcome);
        let Some(ended) = self.ended.take() else { unreachable!("an attempt ends once") };
        let stopped = |_| Error::new(Code::Cancelled, "", "the runtime stopped before the end was sent");
        ended.await.map_err(stopped)?
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // Has no effect after an end.
        self.shared.end(Outcome::Abandon { is_panic: thread::panicking() });
    }
}
