//! Creation of jobs.

use std::time::Duration;

use serde::Serialize;
use uuid::Uuid;

use crate::{
    Error, Job, Tracker, WorkBuilder,
    channel::Repeat,
    job::{document, duration},
    proto::v1::CreateJobRequest,
    tracker::Jobs,
};

/// A job to create. Retries create only one job: the request has an id, by which the server recognizes it.
#[derive(Debug)]
pub struct Create {
    tracker: Tracker,
    request: CreateJobRequest,
    /// The error, if the metadata is not a document.
    problem: Option<Error>,
}

impl Create {
    pub(crate) fn new(tracker: Tracker, kind: String) -> Self {
        let request_id = Uuid::new_v4().to_string();
        Self { tracker, request: CreateJobRequest { kind, request_id, ..Default::default() }, problem: None }
    }

    /// Sets the id, 1 to 128 characters of `A-Z a-z 0-9 . _ : -`. By default the server generates an id.
    pub fn id(mut self, id: impl Into<String>) -> Self {
        self.request.job_id = id.into();
        self
    }

    /// Replaces the random id of this request. If a process restarts and sends the same request id, it gets the job
    /// that it has created before.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.request.request_id = id.into();
        self
    }

    /// Sets the name of the job that is shown to people.
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.request.title = title.into();
        self
    }

    /// Sets the tenant or client that the job belongs to.
    pub fn owner(mut self, owner: impl Into<String>) -> Self {
        self.request.owner = owner.into();
        self
    }

    /// Adds a label, by which jobs can be filtered.
    pub fn label(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.request.labels.insert(key.into(), value.into());
        self
    }

    /// Sets the creator's own data, a value that serializes to a JSON object.
    pub fn metadata(mut self, metadata: impl Serialize) -> Self {
        match document(metadata) {
            Ok(document) => self.request.metadata = document,
            Err(error) => self.problem = Some(error),
        }
        self
    }

    /// Sets the time without a report after which the worker counts as lost.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.request.lease_timeout = Some(duration(lease));
        self
    }

    /// Sets whether the job fails when its worker is lost.
    pub fn fail_when_lost(mut self, fail: bool) -> Self {
        self.request.fail_when_lost = fail;
        self
    }

    /// Sets the time to keep the job after its end.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.request.retention = Some(duration(retention));
        self
    }

    /// Sets the maximum time that the job waits for a worker before the job counts as lost.
    pub fn start_timeout(mut self, timeout: Duration) -> Self {
        self.request.start_timeout = Some(duration(timeout));
        self
    }

    /// Creates the job and returns it.
    pub async fn send(self) -> Result<Job, Error> {
        create(&self.tracker.clone(), self.request()?).await
    }

    /// Returns a builder that creates the job and claims its first attempt: call [`WorkBuilder::start`]. Unless an id
    /// is set, a random one is generated here: the job has its id even while the tracker can't be reached.
    pub fn work(mut self) -> WorkBuilder {
        if self.request.job_id.is_empty() {
            self.request.job_id = Uuid::now_v7().to_string();
        }
        let tracker = self.tracker.clone();
        WorkBuilder::of_new_job(tracker, self.request())
    }

    fn request(self) -> Result<CreateJobRequest, Error> {
        self.problem.map_or(Ok(self.request), Err)
    }
}

/// Creates a job, or returns the one that this request has created.
pub(crate) async fn create(tracker: &Tracker, request: CreateJobRequest) -> Result<Job, Error> {
    let send = async |mut jobs: Jobs, request| jobs.create_job(request).await;
    Ok(tracker.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
}
