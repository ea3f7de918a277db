//! The work on a job: claim, reports, heartbeats, cancellation, end.

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

/// One attempt of a job. A background task sends reports and heartbeats; the work never waits for that task.
///
/// [`finish`](Self::finish), [`fail`](Self::fail), [`retry`](Self::retry) and [`confirm_cancel`](Self::confirm_cancel)
/// end the attempt. If the `Work` is dropped without one of these calls, the job fails with the reason `ABANDONED`, or
/// `PANIC` during a panic; if its cancellation was requested, the job is CANCELLED instead. Dropping does not block. If
/// the runtime stops before this end is sent, the worker counts as lost when its lease expires.
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

    /// Reports the progress of the work. Returns at once: reports that wait to be sent are merged.
    pub fn report(&self, report: Report) {
        self.shared.report(report);
    }

    /// Returns the reason to stop, if there is one.
    pub fn stop_reason(&self) -> Option<Stop> {
        self.shared.stop_reason()
    }

    /// Waits until the work must stop, and returns the reason: the cancellation of the job was requested, or the
    /// attempt no longer belongs to this worker. Cancel-safe: the future can be dropped, and the method called again.
    pub async fn cancelled(&self) -> Stop {
        self.shared.stopped().await
    }

    /// Completes the job. `result` must serialize to a JSON object of at most 1 MiB, or be `()` for no result. With any
    /// other value the job is completed without a result, and an error is returned.
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

    /// Ends the job as CANCELLED, after the work was stopped. If no cancellation was requested, the job fails with the
    /// reason `STOPPED`, and an error is returned.
    pub async fn confirm_cancel(self, message: Option<String>) -> Result<Job, Error> {
        self.end(Outcome::ConfirmCancel(message)).await
    }

    /// Sends the last report and the end. Gives up after the flush timeout.
    async fn end(mut self, outcome: Outcome) -> Result<Job, Error> {
        self.shared.end(outcome);
        let Some(ended) = self.ended.take() else { unreachable!("an attempt ends once") };
        let stopped = |_| Error::new(Code::Cancelled, "", "the runtime stopped before the end was sent");
        ended.await.map_err(stopped)?
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        // The call has no effect if the attempt has ended already.
        self.shared.end(Outcome::Abandon { is_panic: thread::panicking() });
    }
}
