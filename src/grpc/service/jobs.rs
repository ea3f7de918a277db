//! The handlers of `JobService`: each reads a request, calls the tracker and writes the answer.

use std::{pin::pin, sync::Arc};

use futures_util::{TryStreamExt, stream::unfold};
use prost::Message;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tracing::Span;

use super::response::{Events, respond, respond_stored, respond_with, too_large, until};
use crate::{
    auth::WatchTokens,
    domain::{Change, Identity, JobError, JobId, View},
    grpc::{
        convert,
        exchange::Exchange,
        message_size::RESPONSE_MAX,
        middleware::{
            audit,
            context::{caller, grant},
            ending::Ending,
        },
    },
    proto::{EncodedEvent, served::job_service_server::JobService, v1},
    quota::Permit,
    tracker::{Changed, CreateOutcome, Effect, Lookup, Tracker},
};

type Answer<T> = Result<Response<T>, Status>;

/// A function that converts a request to the id of a job and a change of that job.
type Read<R> = fn(R) -> Result<(JobId, Change), JobError>;

/// Serves `JobService`.
pub struct Jobs {
    tracker: Arc<Tracker>,
    watch_tokens: Arc<WatchTokens>,
    drain: CancellationToken,
}

impl Jobs {
    /// Creates the service of `tracker`. Its streams end when `drain` is cancelled. `watch_tokens` makes watch tokens.
    pub const fn new(tracker: Arc<Tracker>, watch_tokens: Arc<WatchTokens>, drain: CancellationToken) -> Self {
        Self { tracker, watch_tokens, drain }
    }

    /// Applies the change that `read` finds in a request. Returns the stored job, and the effect of the change.
    async fn change<R: Message + 'static>(
        &self,
        request: Request<R>,
        read: Read<R>,
    ) -> Result<(v1::Job, Effect), Status> {
        let Changed { stored, effect, .. } = self.stored_change(request, read).await?;
        Ok((convert::job(&stored, self.tracker.now(), View::Full), effect))
    }

    async fn stored_change<R: Message + 'static>(&self, request: Request<R>, read: Read<R>) -> Result<Changed, Status> {
        let caller = caller(&request)?;
        Exchange::hold_decoded(request.get_ref())?;
        let (id, change) = converted(request.into_inner(), read).await?;
        note(&id);
        let changed = self.tracker.on_behalf_of(&caller).change(&id, &change).await?;
        Exchange::release_request();
        Ok(changed)
    }
}

/// Converts a request with `convert`, on another thread if the request is heavy: to check a large document takes
/// milliseconds.
async fn converted<R, T>(
    request: R,
    convert: impl FnOnce(R) -> Result<T, JobError> + Send + 'static,
) -> Result<T, JobError>
where
    R: Send + 'static,
    T: Send + 'static,
{
    if Exchange::has_heavy_request() {
        // Boxed to keep the futures of the other calls small: few requests are heavy.
        return Box::pin(Exchange::offload(move || convert(request))).await;
    }
    convert(request)
}

/// Returns a permit for a watch of `caller` that names this number of `jobs`, which may be 0. The watch is counted
/// until the permit is dropped.
fn permit(tracker: &Tracker, caller: &Arc<Identity>, jobs: usize) -> Result<Permit, JobError> {
    let connection = Exchange::of_connection(|connection| connection.usage.clone());
    tracker.quotas().watch(caller, jobs, connection.as_ref()).map_err(JobError::Exhausted)
}

/// Adds the id of the job to the log lines of the call.
fn note(id: &JobId) {
    Span::current().record("job_id", id.as_str());
}

#[tonic::async_trait]
impl JobService for Jobs {
    type WatchJobStream = Events<EncodedEvent>;
    type WatchJobsStream = Events<EncodedEvent>;

    async fn create_job(&self, request: Request<v1::CreateJobRequest>) -> Answer<v1::CreateJobResponse> {
        let caller = caller(&request)?;
        Exchange::hold_decoded(request.get_ref())?;
        let timeouts = self.tracker.timeouts();
        let new = converted(request.into_inner(), move |request| convert::create(request, timeouts)).await?;
        let created = self.tracker.on_behalf_of(&caller).create(new).await?;
        Exchange::release_request();
        let (stored, created) = match created {
            CreateOutcome::Created(stored) => (stored, true),
            CreateOutcome::Existing(stored) => (stored, false),
        };
        note(&stored.job.id);
        let job = Some(convert::job(&stored, self.tracker.now(), View::Full));
        respond_stored(v1::CreateJobResponse { job, created })
    }

    async fn get_job(&self, request: Request<v1::GetJobRequest>) -> Answer<v1::GetJobResponse> {
        let caller = caller(&request)?;
        let (id, min_revision, view) = convert::get(request.get_ref())?;
        note(&id);
        let stored = self.tracker.on_behalf_of(&caller).get(&id, min_revision).await?;
        let job = Some(convert::job(&stored, self.tracker.now(), caller.view(view)));
        respond(v1::GetJobResponse { job, source: convert::source(stored.source).into() })
    }

    async fn batch_get_jobs(&self, request: Request<v1::BatchGetJobsRequest>) -> Answer<v1::BatchGetJobsResponse> {
        let caller = caller(&request)?;
        let (ids, view) = convert::batch_get(request.get_ref())?;
        let mut looked_up = pin!(self.tracker.on_behalf_of(&caller).batch_get(ids));
        let (mut answer, mut size) = (v1::BatchGetJobsResponse::default(), 0);
        while let Some(lookup) = looked_up.try_next().await? {
            match lookup {
                Lookup::Found(stored) => {
                    let job = convert::job(&stored, self.tracker.now(), view);
                    size += job.encoded_len();
                    answer.jobs.push(job);
                }
                Lookup::Missing(id) => answer.missing_ids.push(id.to_string()),
            }
            // Ends the call before the other jobs are read from the store.
            if size > RESPONSE_MAX {
                return Err(too_large());
            }
        }
        respond(answer)
    }

    async fn list_jobs(&self, request: Request<v1::ListJobsRequest>) -> Answer<v1::ListJobsResponse> {
        let caller = caller(&request)?;
        let query = convert::list(request.into_inner(), &caller, self.tracker.now())?;
        let page = self.tracker.on_behalf_of(&caller).list(&query).await?;
        respond(convert::page(&page, &query, &caller))
    }

    async fn start_attempt(&self, request: Request<v1::StartAttemptRequest>) -> Answer<v1::StartAttemptResponse> {
        let Changed { stored, .. } = self.stored_change(request, convert::start_attempt).await?;
        let claim = stored.job.claim.map(|claim| claim.text()).unwrap_or_default();
        let job = Some(convert::job(&stored, self.tracker.now(), View::Full));
        respond_stored(v1::StartAttemptResponse { job, claim })
    }

    async fn update_progress(&self, request: Request<v1::UpdateProgressRequest>) -> Answer<v1::UpdateProgressResponse> {
        let (job, effect) = self.change(request, convert::update).await?;
        let (applied, ignored) = (effect == Effect::Applied, convert::ignored(effect).into());
        respond_stored(v1::UpdateProgressResponse { job: Some(job), applied, ignored })
    }

    async fn complete_job(&self, request: Request<v1::CompleteJobRequest>) -> Answer<v1::CompleteJobResponse> {
        let (job, _) = self.change(request, convert::complete).await?;
        respond_stored(v1::CompleteJobResponse { job: Some(job) })
    }

    async fn fail_job(&self, request: Request<v1::FailJobRequest>) -> Answer<v1::FailJobResponse> {
        let (job, _) = self.change(request, convert::fail).await?;
        respond_stored(v1::FailJobResponse { job: Some(job) })
    }

    async fn cancel_job(&self, request: Request<v1::CancelJobRequest>) -> Answer<v1::CancelJobResponse> {
        let by_force = request.get_ref().force.then(|| audit::Caller::of(request.extensions()));
        let (job, _) = self.change(request, convert::cancel).await?;
        if let Some(caller) = by_force {
            audit::cancelled_by_force(caller, &job.id);
        }
        respond_stored(v1::CancelJobResponse { job: Some(job) })
    }

    async fn confirm_cancel(&self, request: Request<v1::ConfirmCancelRequest>) -> Answer<v1::ConfirmCancelResponse> {
        let (job, _) = self.change(request, convert::confirm_cancel).await?;
        respond_stored(v1::ConfirmCancelResponse { job: Some(job) })
    }

    async fn delete_job(&self, request: Request<v1::DeleteJobRequest>) -> Answer<v1::DeleteJobResponse> {
        let caller = caller(&request)?;
        let (id, change) = convert::delete(request.get_ref())?;
        note(&id);
        self.tracker.on_behalf_of(&caller).change(&id, &change).await?;
        audit::deleted(audit::Caller::of(request.extensions()), &id, request.get_ref().force);
        respond(v1::DeleteJobResponse {})
    }

    async fn watch_job(&self, request: Request<v1::WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let caller = caller(&request)?;
        let ending = Ending::of(request.extensions(), &self.drain);
        let (id, resume_token, pace, view) = convert::watch_job(request.into_inner())?;
        let view = caller.view(view);
        let permit = permit(&self.tracker, &caller, 1)?;
        note(&id);
        let watch = self.tracker.on_behalf_of(&caller).watch_job(&id, &resume_token, pace).await?;
        let open = (Box::new((watch, permit)), self.tracker.clone());
        let events = unfold(open, move |(mut watch, tracker)| async move {
            let event = watch.0.next().await?.map(|event| convert::event(event, tracker.now(), view));
            Some((event.map_err(Status::from), (watch, tracker)))
        });
        respond_with(until(events, ending)).await
    }

    async fn watch_jobs(&self, request: Request<v1::WatchJobsRequest>) -> Answer<Self::WatchJobsStream> {
        let caller = caller(&request)?;
        let (ending, jobs) = (Ending::of(request.extensions(), &self.drain), request.get_ref().job_ids.len());
        let (scope, resume_token, pace, view) = convert::watch_jobs(request.into_inner())?;
        let view = caller.view(view);
        let session = self.tracker.on_behalf_of(&caller);
        let scope = session.confine(scope)?;
        let permit = permit(&self.tracker, &caller, jobs.max(scope.ids.len()))?;
        let watch = session.watch_jobs(scope, &resume_token, pace);
        let events = unfold(Some((Box::new((watch, permit)), self.tracker.clone())), move |open| async move {
            let (mut watch, tracker) = open?;
            if watch.0.is_over().await {
                return None;
            }
            match watch.0.next().await {
                Ok(event) => Some((Ok(convert::event(event, tracker.now(), view)), Some((watch, tracker)))),
                Err(error) => Some((Err(JobError::from(error).into()), None)),
            }
        });
        respond_with(until(events, ending)).await
    }

    async fn create_watch_token(
        &self,
        request: Request<v1::CreateWatchTokenRequest>,
    ) -> Answer<v1::CreateWatchTokenResponse> {
        let grant = grant(&request)?;
        let (ids, ttl, view) = convert::create_watch_token(request.get_ref())?;
        ids.first().inspect(|id| note(id));
        let jobs = self.tracker.on_behalf_of(&grant.identity).share(ids.clone(), view).await?;
        let token = grant.share(&self.watch_tokens, jobs, ttl)?;
        if let Some(first) = ids.first() {
            audit::shared(audit::Caller::of(request.extensions()), first, ids.len(), token.expires);
        }
        respond(convert::watch_token(token, &ids))
    }
}

#[cfg(test)]
mod tests {
    use std::thread::{ThreadId, current};

    use super::*;
    use crate::{
        grpc::{exchange::ClientConnection, message_size::HEAVY_MIN},
        quota::Quotas,
    };

    /// Returns the thread on which a request of this number of bytes is converted.
    async fn converted_on(bytes: usize) -> ThreadId {
        let connection = Arc::new(ClientConnection::of_test(Quotas::default()));
        let conversion = async {
            Exchange::hold_request(bytes).expect("there is room");
            converted((), |()| Ok(current().id())).await
        };
        Exchange::scope(connection, conversion).await.expect("it is done")
    }

    #[tokio::test]
    async fn heavy_requests_are_converted_on_another_thread() {
        assert_eq!(converted_on(HEAVY_MIN - 1).await, current().id());
        assert_ne!(converted_on(HEAVY_MIN).await, current().id());
    }
}
