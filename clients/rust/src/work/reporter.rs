//! The task that reports for a worker.

use std::{sync::Arc, time::Duration};

use tokio::{
    select,
    time::{Instant, sleep, sleep_until, timeout},
};
use tonic::Code;

use super::{
    Report, Stop,
    builder::OnTrouble,
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

/// Time between two heartbeats of a job without a lease, and the maximum for any job: a heartbeat also brings news of a
/// cancellation.
const HEARTBEAT_INTERVAL_MAX: Duration = Duration::from_secs(30);

/// Maximum time of one try to send a report: a silent server must not hold up newer reports.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);

/// Reasons of errors that say that the attempt is not this worker's any more.
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
    /// Creates the job, if that is wanted, and claims its attempt. May be repeated.
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

/// See the module.
pub struct Reporter {
    shared: Arc<Shared>,
    attempt_start: AttemptStart,
    report_interval: Duration,
    heartbeat_interval: Duration,
    on_trouble: Option<OnTrouble>,
    claim: String,
    /// Number of the last report, which the server compares.
    sequence: i64,
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
            sequence: 0,
        }
    }

    /// Reports until the attempt ends, then sends the end. Returns the job as it was stored. Gives up when `flush_timeout`
    /// has passed since the end.
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
        let mut pause = reconnect_pause();
        loop {
            match self.attempt_start.claim().await {
                Ok(claim) => {
                    self.set_trouble(None);
                    return Ok(claim);
                }
                Err(error) if error.is_final() => return Err(self.refused(error)),
                Err(error) => self.set_trouble(Some(&error)),
            }
            sleep(pause.next()).await;
        }
    }

    fn begin(&mut self, Claim { claimed, job }: Claim) {
        self.claim.clone_from(&claimed.claim);
        self.shared.set_claimed(claimed);
        self.note(&job);
    }

    /// Sends reports and heartbeats until there is an outcome. Returns that.
    async fn report(&mut self) -> Result<Outcome, Error> {
        let mut pause = reconnect_pause();
        let mut sent = Instant::now();
        // The first report is sent at once.
        let mut next = sent;
        loop {
            let heartbeat = sent + self.heartbeat_interval;
            let due = if self.shared.has_report() { next.min(heartbeat) } else { heartbeat };
            select! {
                biased;
                outcome = self.shared.outcome() => return Ok(outcome),
                // The time to the next report may be another one now.
                () = self.shared.reported.notified() => {}
                () = sleep_until(due) => {
                    sent = Instant::now();
                    next = sent + self.report_interval;
                    match self.send_newest().await {
                        Ok(()) => pause.reset(),
                        Err(error) if is_fenced(&error) => return Err(self.refused(error)),
                        Err(error) => {
                            self.set_trouble(Some(&error));
                            // A heartbeat that failed is repeated, too.
                            self.shared.put_back(Report::new());
                            next = Instant::now() + pause.next();
                        }
                    }
                }
            }
        }
    }

    /// Sends the newest report, or a heartbeat if there is none.
    async fn send_newest(&mut self) -> Result<(), Error> {
        let report = self.shared.take_report().unwrap_or_default();
        self.sequence += 1;
        let request = UpdateProgressRequest {
            job_id: self.shared.job_id.clone(),
            progress: Some(report.0.clone()),
            worker: self.attempt_start.start.worker.clone(),
            sequence: Some(self.sequence),
            claim: self.claim.clone(),
            ..Default::default()
        };
        let send = async |mut jobs: Jobs, request| jobs.update_progress(request).await;
        let call = self.attempt_start.tracker.connections.call(Repeat::Safe, request, send);
        let silent = || Error::new(Code::DeadlineExceeded, "", format!("no answer within {REPORT_TIMEOUT:?}"));
        match timeout(REPORT_TIMEOUT, call).await.unwrap_or_else(|_| Err(silent())) {
            Ok(answer) => {
                self.set_trouble(None);
                self.note(&answer.job.unwrap_or_default());
                Ok(())
            }
            Err(error) => {
                // A report that is invalid would be so again, and would hold up those after it.
                if !error.is_final() {
                    self.shared.put_back(report);
                }
                Err(error)
            }
        }
    }

    /// Sends the last report and the end. Repeats that for as long as the tracker is unavailable.
    async fn end(&mut self, outcome: Outcome) -> Result<Job, Error> {
        let mut pause = reconnect_pause();
        loop {
            let flushed = if self.shared.has_report() { self.send_newest().await } else { Ok(()) };
            let ended = match flushed {
                // The end counts even if the last report is invalid.
                Err(error) if !error.is_final() || is_fenced(&error) => Err(error),
                _ => self.send_end(outcome.clone()).await,
            };
            match ended {
                Ok(job) => return Ok(job),
                Err(error) if error.is_final() => return Err(self.refused(error)),
                Err(error) => self.set_trouble(Some(&error)),
            }
            sleep(pause.next()).await;
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

    /// Learns from a stored version: the length of the lease, and whether cancellation was requested.
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

    /// Notes an error that passes, or that there is none any more, and tells what is new.
    fn set_trouble(&self, trouble: Option<&Error>) {
        if self.shared.set_trouble(trouble.cloned())
            && let Some(told) = &self.on_trouble
        {
            told(trouble);
        }
    }
}

/// Returns whether an error says that the attempt is not this worker's any more.
fn is_fenced(error: &Error) -> bool {
    FENCED.contains(&error.reason.as_str())
}

fn reconnect_pause() -> Pause {
    Pause::new(Duration::from_millis(200), Duration::from_secs(2))
}
