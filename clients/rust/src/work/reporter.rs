//! The background task that sends the reports of a worker.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tokio::{
    select,
    time::{Instant, sleep, sleep_until},
};
use tonic::Code;

use super::{
    Stop,
    builder::OnTrouble,
    report::Waiting,
    shared::{Claimed, Outcome, Shared},
};
use crate::{
    Error, Job, Tracker,
    channel::Repeat,
    create::create,
    pause::Pause,
    proto::v1::{
        CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest, FailJobRequest, Failure, StartAttemptRequest,
        UpdateProgressRequest,
    },
    tracker::Jobs,
};

/// Interval between heartbeats of a job without a lease, and the maximum for any job. The answer to a heartbeat also
/// tells whether cancellation was requested.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Factor by which pauses are longer after credentials were refused.
const REFUSED_FACTOR: u32 = 15;

/// Reasons of errors that mean that the attempt no longer belongs to this worker.
const FENCED: [&str; 3] = ["STALE_ATTEMPT", "JOB_FINISHED", "JOB_NOT_FOUND"];

/// The requests that begin an attempt.
#[derive(Clone, Debug)]
pub struct AttemptStart {
    pub tracker: Tracker,
    pub create: Option<CreateJobRequest>,
    pub start: StartAttemptRequest,
}

/// A claim that was confirmed.
#[derive(Debug)]
pub struct Claim {
    pub claimed: Claimed,
    job: Job,
}

impl AttemptStart {
    /// Creates the job, if there is a request for that, and claims the attempt. A repeated call has the same result.
    pub async fn claim(&self) -> Result<Claim, Error> {
        if let Some(request) = &self.create {
            create(&self.tracker, request.clone()).await?;
        }
        let send = async |mut jobs: Jobs, request| jobs.start_attempt(request).await;
        let answer = self.tracker.connections.call(Repeat::Safe, self.start.clone(), send).await?;
        let job = answer.job.unwrap_or_default();
        Ok(Claim { claimed: Claimed { attempt: job.attempt, claim: answer.claim }, job })
    }
}

/// Sends the reports, heartbeats and the end of a worker, in a background task.
pub struct Reporter {
    shared: Arc<Shared>,
    attempt_start: AttemptStart,
    report_interval: Duration,
    heartbeat_interval: Duration,
    on_trouble: Option<OnTrouble>,
    claim: String,
    /// Sequence number of the last report. The first number is the current time: if a process restarts with the same
    /// claim, its reports have higher numbers than those before the restart.
    sequence: i64,
    /// Reports that were sent and not acknowledged.
    unacknowledged: Option<Waiting>,
}

impl Reporter {
    pub fn new(
        shared: Arc<Shared>,
        attempt_start: AttemptStart,
        report_interval: Duration,
        on_trouble: Option<OnTrouble>,
    ) -> Self {
        let heartbeat_interval = HEARTBEAT_INTERVAL_MAX;
        Self {
            shared,
            attempt_start,
            report_interval,
            heartbeat_interval,
            on_trouble,
            claim: String::new(),
            sequence: microseconds(),
            unacknowledged: None,
        }
    }

    /// Sends reports until the attempt ends, then sends the end. Returns the job as it was stored. Gives up when
    /// `flush_timeout` has passed since the end.
    pub async fn run(mut self, claim: Option<Claim>, flush_timeout: Duration) -> Result<Job, Error> {
        let shared = self.shared.clone();
        let end_of_flush = async {
            shared.outcome().await;
            sleep(flush_timeout).await;
        };
        select! {
            answer = self.work(claim) => answer,
            () = end_of_flush => {
                let cause = shared.trouble().map(|error| format!(": {error}")).unwrap_or_default();
                let problem = format!("the end of the job could not be sent within {flush_timeout:?}{cause}");
                Err(Error::new(Code::Unavailable, "NOT_FLUSHED", problem))
            }
        }
    }

    async fn work(&mut self, claim: Option<Claim>) -> Result<Job, Error> {
        let claim = match claim {
            Some(claim) => claim,
            None => self.claim().await?,
        };
        self.begin(claim);
        let outcome = self.report().await?;
        self.end(outcome).await
    }

    /// Claims the attempt, as soon as the tracker is available.
    async fn claim(&mut self) -> Result<Claim, Error> {
        let mut pause = Pause::reconnect();
        loop {
            match self.attempt_start.claim().await {
                Ok(claim) => {
                    self.set_trouble(None);
                    return Ok(claim);
                }
                Err(error) if error.is_final() => return Err(self.refused(error)),
                Err(error) => {
                    self.set_trouble(Some(&error));
                    sleep(pause_after(&error, &mut pause)).await;
                }
            }
        }
    }

    fn begin(&mut self, Claim { claimed, job }: Claim) {
        self.claim.clone_from(&claimed.claim);
        self.shared.set_claimed(claimed);
        self.note(&job);
    }

    /// Sends reports and heartbeats until the attempt has an outcome. Returns the outcome.
    async fn report(&mut self) -> Result<Outcome, Error> {
        let shared = self.shared.clone();
        let mut pause = Pause::reconnect();
        let mut sent = Instant::now();
        // The first report is sent at once.
        let mut next = sent;
        loop {
            let heartbeat = sent + self.heartbeat_interval;
            let due = if shared.has_waiting() { next.min(heartbeat) } else { heartbeat };
            select! {
                biased;
                outcome = shared.outcome() => return Ok(outcome),
                // The time of the next report may have changed.
                () = shared.reported.notified() => continue,
                () = sleep_until(due) => {}
            }
            sent = Instant::now();
            next = sent + self.report_interval;
            // A report to an unresponsive server must not use up the time for the end.
            let outcome = select! {
                outcome = shared.outcome() => return Ok(outcome),
                outcome = self.send_newest() => outcome,
            };
            match outcome {
                Ok(()) => pause.reset(),
                Err(error) if is_fenced(&error) => return Err(self.refused(error)),
                Err(error) => {
                    self.set_trouble(Some(&error));
                    // An empty report causes the retry even if the failed call was a heartbeat.
                    shared.put_back(Waiting::default());
                    next = Instant::now() + pause_after(&error, &mut pause);
                }
            }
        }
    }

    /// Sends the waiting report, or a heartbeat if no report waits. Cancel-safe: the report is not lost if the future
    /// is dropped.
    async fn send_newest(&mut self) -> Result<(), Error> {
        if let Some(waiting) = self.unacknowledged.take() {
            self.shared.put_back(waiting);
        }
        let waiting = self.shared.take_waiting().unwrap_or_default();
        self.sequence += 1;
        let request = UpdateProgressRequest {
            job_id: self.shared.job_id.clone(),
            progress: Some(waiting.report.0.clone()),
            worker: self.attempt_start.start.worker.clone(),
            sequence: Some(self.sequence),
            claim: self.claim.clone(),
            ..Default::default()
        };
        self.unacknowledged = Some(waiting);
        let send = async |mut jobs: Jobs, request| jobs.update_progress(request).await;
        match self.attempt_start.tracker.connections.call(Repeat::Safe, request, send).await {
            Ok(answer) => {
                self.unacknowledged = None;
                self.set_trouble(None);
                self.note(&answer.job.unwrap_or_default());
                Ok(())
            }
            Err(error) => {
                // An invalid report is not sent again: each retry would fail, and would hold up later reports.
                if error.is_final() {
                    self.unacknowledged = None;
                }
                Err(error)
            }
        }
    }

    /// Sends the last report and the end. Retries both for as long as the tracker is unavailable.
    async fn end(&mut self, mut outcome: Outcome) -> Result<Job, Error> {
        let mut pause = Pause::reconnect();
        let mut problem = None;
        loop {
            let has_report = self.unacknowledged.is_some() || self.shared.has_waiting();
            let flushed = if has_report { self.send_newest().await } else { Ok(()) };
            let ended = match flushed {
                // The end is sent even if the last report is invalid.
                Err(error) if !error.is_final() || is_fenced(&error) => Err(error),
                _ => self.send_end(outcome.clone()).await,
            };
            match (ended, problem.take()) {
                (Ok(job), None) => return Ok(job),
                (Ok(_), Some(problem)) => return Err(problem),
                (Err(error), known) if error.is_final() => match fallback_outcome(&outcome, &error) {
                    Some(fallback) => (outcome, problem) = (fallback, known.or(Some(error))),
                    None => return Err(self.refused(error)),
                },
                (Err(error), known) => {
                    self.set_trouble(Some(&error));
                    problem = known;
                    sleep(pause_after(&error, &mut pause)).await;
                }
            }
        }
    }

    async fn send_end(&self, outcome: Outcome) -> Result<Job, Error> {
        match outcome {
            Outcome::Complete(result) => {
                let (job_id, claim) = self.attempt();
                let request = CompleteJobRequest { job_id, claim, result, ..Default::default() };
                let send = async |mut jobs: Jobs, request| jobs.complete_job(request).await;
                Ok(self
                    .attempt_start
                    .tracker
                    .connections
                    .call(Repeat::Safe, request, send)
                    .await?
                    .job
                    .unwrap_or_default())
            }
            Outcome::Fail { failure, retry } => self.send_failure(failure, retry).await,
            Outcome::ConfirmCancel(message) => self.send_cancel(message).await,
            Outcome::Abandon { .. } if matches!(self.shared.stop_reason(), Some(Stop::Requested { .. })) => {
                self.send_cancel(None).await
            }
            Outcome::Abandon { is_panic: true } => {
                self.send_failure(Failure::of("PANIC", "the worker panicked"), false).await
            }
            Outcome::Abandon { is_panic: false } => {
                self.send_failure(Failure::of("ABANDONED", "the worker stopped before the end of the job"), false).await
            }
        }
    }

    async fn send_failure(&self, failure: Failure, retry: bool) -> Result<Job, Error> {
        let (job_id, claim) = self.attempt();
        let request = FailJobRequest { job_id, claim, failure: Some(failure), retry, ..Default::default() };
        let send = async |mut jobs: Jobs, request| jobs.fail_job(request).await;
        Ok(self.attempt_start.tracker.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    async fn send_cancel(&self, message: Option<String>) -> Result<Job, Error> {
        let (job_id, claim) = self.attempt();
        let request = ConfirmCancelRequest { job_id, claim, message, ..Default::default() };
        let send = async |mut jobs: Jobs, request| jobs.confirm_cancel(request).await;
        Ok(self.attempt_start.tracker.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    fn attempt(&self) -> (String, String) {
        (self.shared.job_id.clone(), self.claim.clone())
    }

    /// Processes a stored version of the job: sets the heartbeat interval for its lease, and tells the worker if
    /// cancellation was requested.
    fn note(&mut self, job: &Job) {
        let lease = job.lease().map_or(HEARTBEAT_INTERVAL_MAX, |lease| lease / 3);
        self.heartbeat_interval = lease.min(HEARTBEAT_INTERVAL_MAX);
        if let Some(cancel) = &job.cancel {
            let (reason, requester) = (cancel.reason.clone(), cancel.requester.clone());
            self.shared.stop(Stop::Requested { reason, requester });
        }
    }

    /// Tells the worker that the server refused a call for good.
    fn refused(&self, error: Error) -> Error {
        self.shared.stop(if is_fenced(&error) { Stop::Fenced(error.clone()) } else { Stop::Refused(error.clone()) });
        error
    }

    /// Records a temporary error, or with `None` that the tracker is available. Calls the callback after a change.
    fn set_trouble(&self, trouble: Option<&Error>) {
        if self.shared.set_trouble(trouble.cloned())
            && let Some(told) = &self.on_trouble
        {
            told(trouble);
        }
    }
}

/// Returns whether an error means that the attempt no longer belongs to this worker.
fn is_fenced(error: &Error) -> bool {
    FENCED.contains(&error.reason.as_str())
}

/// Returns the end to send instead of an end that the server has refused for good. Without it the worker would count as
/// lost, only because a document is invalid or because the work stopped without a request.
fn fallback_outcome(outcome: &Outcome, error: &Error) -> Option<Outcome> {
    match outcome {
        Outcome::Complete(Some(_)) if error.code == Code::InvalidArgument => Some(Outcome::Complete(None)),
        Outcome::Fail { failure, retry } if error.code == Code::InvalidArgument && failure.details.is_some() => {
            Some(Outcome::Fail { failure: Failure { details: None, ..failure.clone() }, retry: *retry })
        }
        Outcome::ConfirmCancel(message) if error.reason == "CANCEL_NOT_REQUESTED" => {
            let message = message.as_deref().unwrap_or("the worker stopped, and nobody had requested that");
            Some(Outcome::Fail { failure: Failure::of("STOPPED", message), retry: false })
        }
        _ => None,
    }
}

/// Returns the pause after a temporary error.
fn pause_after(error: &Error, pause: &mut Pause) -> Duration {
    // The server limits failed authentications of an address, which other workers may share.
    let is_refused = matches!(error.code, Code::Unauthenticated | Code::PermissionDenied);
    let pause = pause.next() * if is_refused { REFUSED_FACTOR } else { 1 };
    pause.max(error.retry_after.unwrap_or_default())
}

fn microseconds() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.as_micros().try_into().unwrap_or_default()
}
