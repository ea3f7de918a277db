//! Start of the work on a job.

use std::{fmt, sync::Arc, time::Duration};

use tokio::{spawn, sync::oneshot, time::timeout};
use uuid::Uuid;

use super::{
    Work,
    reporter::{AttemptStart, Claim, Reporter},
    shared::Shared,
};
use crate::{
    Error, Tracker,
    job::duration,
    proto::v1::{CreateJobRequest, StartAttemptRequest},
};

/// Default of the minimum time between two reports.
const REPORT_INTERVAL: Duration = Duration::from_millis(500);

/// Default of the maximum time to send the last report and the end.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// Maximum time to wait for the claim before the work begins without it, unless the builder is strict.
const CLAIM_TIMEOUT: Duration = Duration::from_secs(1);

/// Function that is called when the tracker becomes unavailable, with the error, and when it is available again.
pub type OnTrouble = Arc<dyn Fn(Option<&Error>) + Send + Sync>;

/// The settings of an attempt of a job.
pub struct WorkBuilder {
    tracker: Tracker,
    /// Request that creates the job before the claim; `None`: the job exists.
    create: Option<Result<CreateJobRequest, Error>>,
    start: StartAttemptRequest,
    strict: bool,
    report_interval: Duration,
    flush_timeout: Duration,
    on_trouble: Option<OnTrouble>,
}

impl fmt::Debug for WorkBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkBuilder").field("create", &self.create).field("start", &self.start).finish_non_exhaustive()
    }
}

impl WorkBuilder {
    fn new(tracker: Tracker, job_id: String, create: Option<Result<CreateJobRequest, Error>>) -> Self {
        let start = StartAttemptRequest { job_id, request_id: Uuid::new_v4().to_string(), ..Default::default() };
        Self {
            tracker,
            create,
            start,
            strict: false,
            report_interval: REPORT_INTERVAL,
            flush_timeout: FLUSH_TIMEOUT,
            on_trouble: None,
        }
    }

    pub(crate) fn of_job(tracker: Tracker, job_id: String) -> Self {
        Self::new(tracker, job_id, None)
    }

    pub(crate) fn of_new_job(tracker: Tracker, create: Result<CreateJobRequest, Error>) -> Self {
        let job_id = create.as_ref().map(|create| create.job_id.clone()).unwrap_or_default();
        Self::new(tracker, job_id, Some(create))
    }

    /// Sets the name of this worker.
    pub fn worker(mut self, worker: impl Into<String>) -> Self {
        self.start.worker = worker.into();
        self
    }

    /// Replaces the random id of the claim request. A worker that restarts and sends the same request id gets the same
    /// attempt. A good choice is the id that a queue gives to a delivery.
    pub fn request_id(mut self, id: impl Into<String>) -> Self {
        self.start.request_id = id.into();
        self
    }

    /// Sets the lease of the job: the time without a report after which this worker counts as lost. Heartbeats are sent
    /// at intervals of a third of the lease, at most 30 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.start.lease_timeout = Some(duration(lease));
        self
    }

    /// Sets whether the claim ends a running attempt, whichever worker runs that attempt.
    pub fn takeover(mut self, takeover: bool) -> Self {
        self.start.takeover = takeover;
        self
    }

    /// Sets the minimum time between two reports. Default: 0.5 s.
    pub fn report_interval(mut self, interval: Duration) -> Self {
        self.report_interval = interval;
        self
    }

    /// Sets the maximum time to send the last report and the end. Default: 5 s.
    pub fn flush_timeout(mut self, timeout: Duration) -> Self {
        self.flush_timeout = timeout;
        self
    }

    /// Sets whether [`start`](Self::start) fails if the tracker is unavailable. Otherwise the work begins without a
    /// claim, and the job is claimed when the tracker is available.
    pub fn strict(mut self, strict: bool) -> Self {
        self.strict = strict;
        self
    }

    /// Sets a function that is called with an error when the tracker becomes unavailable, and with `None` when it is
    /// available again. The function must not block.
    pub fn on_trouble(mut self, told: impl Fn(Option<&Error>) + Send + Sync + 'static) -> Self {
        self.on_trouble = Some(Arc::new(told));
        self
    }

    /// Claims the next attempt of the job. After an error the work must not begin: the job does not exist or has ended,
    /// or another worker runs it (`ATTEMPT_RUNNING`). If the tracker is unavailable or rejects the credentials, the
    /// work begins without a claim, unless the builder is [`strict`](Self::strict).
    pub async fn start(self) -> Result<Work, Error> {
        let attempt = self.attempt()?;
        if self.strict {
            let claimed = attempt.claim().await?;
            return Ok(self.spawn(attempt, Some(claimed)));
        }
        match timeout(CLAIM_TIMEOUT, attempt.claim()).await {
            Ok(Ok(claimed)) => Ok(self.spawn(attempt, Some(claimed))),
            Ok(Err(error)) if error.is_final() => Err(error),
            _ => Ok(self.spawn(attempt, None)),
        }
    }

    /// Begins the work at once; a task claims the attempt in the background. If the tracker refuses the claim,
    /// [`Work::cancelled`] returns the reason. Must be called within a tokio runtime.
    pub fn start_detached(self) -> Result<Work, Error> {
        let attempt = self.attempt()?;
        Ok(self.spawn(attempt, None))
    }

    fn attempt(&self) -> Result<AttemptStart, Error> {
        Ok(AttemptStart {
            tracker: self.tracker.clone(),
            create: self.create.clone().transpose()?,
            start: self.start.clone(),
        })
    }

    fn spawn(self, attempt: AttemptStart, claimed: Option<Claim>) -> Work {
        let shared = Arc::new(Shared::new(self.start.job_id));
        if let Some(claim) = &claimed {
            shared.set_claimed(claim.claimed.clone());
        }
        let (done, ended) = oneshot::channel();
        let reporter = Reporter::new(shared.clone(), attempt, self.report_interval, self.on_trouble);
        let flush_timeout = self.flush_timeout;
        spawn(async move {
            // The send fails if the `Work` was dropped, and then the answer is not needed.
            _ = done.send(reporter.run(claimed, flush_timeout).await);
        });
        Work { shared, ended: Some(ended) }
    }
}
