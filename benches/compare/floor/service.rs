//! The measured calls; all other calls are unimplemented.

use std::{pin::Pin, sync::Arc, time::SystemTime};

use futures_util::{
    Stream, StreamExt,
    stream::{once, unfold},
};
use jobtrack::proto::v1::{
    BatchGetJobsRequest, BatchGetJobsResponse, CancelJobRequest, CancelJobResponse, CompleteJobRequest,
    CompleteJobResponse, ConfirmCancelRequest, ConfirmCancelResponse, CreateJobRequest, CreateJobResponse,
    CreateWatchTokenRequest, CreateWatchTokenResponse, DeleteJobRequest, DeleteJobResponse, Durability, FailJobRequest,
    FailJobResponse, GetJobRequest, GetJobResponse, Job, ListJobsRequest, ListJobsResponse, Progress, Source,
    StartAttemptRequest, StartAttemptResponse, UpdateProgressRequest, UpdateProgressResponse, WatchJobRequest,
    WatchJobResponse, WatchJobsRequest, WatchJobsResponse, job::State, job_service_server::JobService,
};
use tokio::sync::broadcast::error::RecvError;
use tonic::{Request, Response, Status, async_trait};

use super::{
    map::{Events, Map},
    redis::Link,
};

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Jobs in a map, and in Redis if it is configured.
pub struct Floor {
    map: Map,
    link: Option<Link>,
}

impl Floor {
    pub fn new(link: Option<Link>) -> Self {
        Self { map: Map::new(), link }
    }

    /// Stores a version of a job.
    async fn put(&self, job: Job) -> Result<(), Status> {
        if let Some(link) = &self.link {
            let stored = link.put(&job).await.map_err(|error| Status::unavailable(error.to_string()))?;
            if !stored {
                return Err(Status::aborted("another call was first"));
            }
        }
        self.map.put(job);
        Ok(())
    }

    fn durability(&self) -> i32 {
        if self.link.is_some() { Durability::Durable.into() } else { Durability::Volatile.into() }
    }
}

#[async_trait]
impl JobService for Floor {
    async fn create_job(&self, request: Request<CreateJobRequest>) -> Answer<CreateJobResponse> {
        let CreateJobRequest { job_id, kind, owner, labels, .. } = request.into_inner();
        let now = Some(SystemTime::now().into());
        let job = Job {
            id: job_id,
            kind,
            owner,
            labels,
            state: State::Pending.into(),
            create_time: now,
            update_time: now,
            revision: 1,
            durability: self.durability(),
            ..Job::default()
        };
        self.put(job.clone()).await?;
        Ok(Response::new(CreateJobResponse { job: Some(job), created: true }))
    }

    async fn get_job(&self, request: Request<GetJobRequest>) -> Answer<GetJobResponse> {
        let id = request.into_inner().job_id;
        let (found, source) = match &self.link {
            None => (self.map.get(&id), Source::Memory),
            Some(link) => {
                let found = link.get(&id).await.map_err(|error| Status::unavailable(error.to_string()))?;
                (found, Source::Redis)
            }
        };
        let job = found.ok_or_else(missing)?;
        Ok(Response::new(GetJobResponse { job: Some(job), source: source.into() }))
    }

    async fn update_progress(&self, request: Request<UpdateProgressRequest>) -> Answer<UpdateProgressResponse> {
        let UpdateProgressRequest { job_id, progress, worker, .. } = request.into_inner();
        let mut job = self.map.get(&job_id).ok_or_else(missing)?;
        job.progress = progress.map(with_percent);
        job.worker = worker;
        job.state = State::Running.into();
        job.attempt = 1;
        job.update_time = Some(SystemTime::now().into());
        job.start_time = job.start_time.or(job.update_time);
        job.revision += 1;
        self.put(job.clone()).await?;
        Ok(Response::new(UpdateProgressResponse { job: Some(job), applied: true, ignored: 0 }))
    }

    type WatchJobStream = Streamed<WatchJobResponse>;

    async fn watch_job(&self, request: Request<WatchJobRequest>) -> Answer<Self::WatchJobStream> {
        let (first, events) = self.map.watch(&request.into_inner().job_id).ok_or_else(missing)?;
        let events = once(async { first }).chain(unfold(events, next));
        Ok(Response::new(events.map(|event| Ok(WatchJobResponse::clone(&event))).boxed()))
    }

    type WatchJobsStream = Streamed<WatchJobsResponse>;

    async fn watch_jobs(&self, _: Request<WatchJobsRequest>) -> Answer<Self::WatchJobsStream> {
        Err(not_measured())
    }

    async fn batch_get_jobs(&self, _: Request<BatchGetJobsRequest>) -> Answer<BatchGetJobsResponse> {
        Err(not_measured())
    }

    async fn list_jobs(&self, _: Request<ListJobsRequest>) -> Answer<ListJobsResponse> {
        Err(not_measured())
    }

    async fn start_attempt(&self, _: Request<StartAttemptRequest>) -> Answer<StartAttemptResponse> {
        Err(not_measured())
    }

    async fn complete_job(&self, _: Request<CompleteJobRequest>) -> Answer<CompleteJobResponse> {
        Err(not_measured())
    }

    async fn fail_job(&self, _: Request<FailJobRequest>) -> Answer<FailJobResponse> {
        Err(not_measured())
    }

    async fn cancel_job(&self, _: Request<CancelJobRequest>) -> Answer<CancelJobResponse> {
        Err(not_measured())
    }

    async fn confirm_cancel(&self, _: Request<ConfirmCancelRequest>) -> Answer<ConfirmCancelResponse> {
        Err(not_measured())
    }

    async fn delete_job(&self, _: Request<DeleteJobRequest>) -> Answer<DeleteJobResponse> {
        Err(not_measured())
    }

    async fn create_watch_token(&self, _: Request<CreateWatchTokenRequest>) -> Answer<CreateWatchTokenResponse> {
        Err(not_measured())
    }
}

/// Returns the next event. A subscriber that is too slow continues with the oldest event that is left.
async fn next(mut events: Events) -> Option<(Arc<WatchJobResponse>, Events)> {
    loop {
        match events.recv().await {
            Ok(event) => return Some((event, events)),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

fn with_percent(mut progress: Progress) -> Progress {
    if let (Some(completed), Some(total)) = (progress.completed, progress.total) {
        #[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
        let percent = completed as f64 / total as f64 * 100.0;
        progress.percent = Some(percent);
    }
    progress
}

fn missing() -> Status {
    Status::not_found("there is no such job")
}

fn not_measured() -> Status {
    Status::unimplemented("the floor has only what is measured")
}
