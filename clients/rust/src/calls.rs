//! Calls with all fields of their requests, for operators and for programs that are not workers.

use tonic::transport::Channel;

use crate::{
    Error, Job, Tracker,
    channel::Repeat,
    proto::v1::{self, admin_service_client::AdminServiceClient},
    tracker::Jobs,
};

/// The generated client of operators.
type Admin = AdminServiceClient<Channel>;

impl Tracker {
    /// Claims the next attempt of a job. Workers should use [`work`](Self::work) instead. A request without a
    /// `request_id` is not retried if its answer was lost.
    pub async fn start_attempt(&self, request: v1::StartAttemptRequest) -> Result<v1::StartAttemptResponse, Error> {
        let repeat = if request.request_id.is_empty() { Repeat::Unsent } else { Repeat::Safe };
        let send = async |mut jobs: Jobs, request| jobs.start_attempt(request).await;
        self.connections.call(repeat, request, send).await
    }

    /// Completes a job, with more options than [`complete`](Self::complete).
    pub async fn complete_with(&self, request: v1::CompleteJobRequest) -> Result<Job, Error> {
        let send = async |mut jobs: Jobs, request| jobs.complete_job(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Ends a job, or with `retry` its attempt, with a failure.
    pub async fn fail_with(&self, request: v1::FailJobRequest) -> Result<Job, Error> {
        // Without the number or the claim of the attempt, a retry could end the next attempt.
        let is_named = !request.retry || !request.claim.is_empty() || request.attempt.is_some();
        let repeat = if is_named { Repeat::Safe } else { Repeat::Unsent };
        let send = async |mut jobs: Jobs, request| jobs.fail_job(request).await;
        Ok(self.connections.call(repeat, request, send).await?.job.unwrap_or_default())
    }

    /// Requests the cancellation of a job with more options than [`cancel`](Self::cancel).
    pub async fn cancel_with(&self, request: v1::CancelJobRequest) -> Result<Job, Error> {
        let send = async |mut jobs: Jobs, request| jobs.cancel_job(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Confirms that the worker of a job has stopped after a cancellation was requested.
    pub async fn confirm_cancel(&self, request: v1::ConfirmCancelRequest) -> Result<Job, Error> {
        let send = async |mut jobs: Jobs, request| jobs.confirm_cancel(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Creates a watch token, whose holder can follow some jobs and do nothing else.
    pub async fn create_watch_token(
        &self,
        request: v1::CreateWatchTokenRequest,
    ) -> Result<v1::CreateWatchTokenResponse, Error> {
        let send = async |mut jobs: Jobs, request| jobs.create_watch_token(request).await;
        self.connections.call(Repeat::Safe, request, send).await
    }

    /// Returns statistics of the server.
    pub async fn stats(&self) -> Result<v1::GetStatsResponse, Error> {
        let send = async |mut admin: Admin, request| admin.get_stats(request).await;
        self.connections.call_of(Admin::new, Repeat::Safe, v1::GetStatsRequest {}, send).await
    }

    /// Deletes one batch of the finished jobs that match, the oldest first. If the answer has a `next_page_token`, more
    /// jobs match: repeat the call with that token.
    pub async fn purge(&self, request: v1::PurgeJobsRequest) -> Result<v1::PurgeJobsResponse, Error> {
        // A retry would not count the jobs that the first call has deleted.
        let repeat = if request.dry_run { Repeat::Safe } else { Repeat::Unsent };
        let send = async |mut admin: Admin, request| admin.purge_jobs(request).await;
        self.connections.call_of(Admin::new, repeat, request, send).await
    }
}
