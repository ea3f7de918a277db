//! The job of a wrapped command: its creation, its reports and its end.

use std::{future::pending, path::Path, time::Duration};

use jobtrack_client::{Code, Create, Error, Job, Report, Stop, Tracker, Work, WorkBuilder};
use rustix::system::uname;
use tokio::sync::mpsc::UnboundedSender;
use uuid::Uuid;

use super::{
    machine::{End, Event},
    progress::Found,
};
use crate::cli::{connection::Connection, exit::Exit};

/// Maximum time of a call with its retries. It is short, so that an unresponsive tracker is detected soon.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);

/// Limits of the tracker, in bytes. The tracker would reject a whole request because of one longer text.
const STAGE_MAX: usize = 256;
const UNIT_MAX: usize = 32;
const TITLE_MAX: usize = 256;
const NAME_MAX: usize = 128;

/// The job to create.
#[derive(Clone, Debug)]
pub struct NewJob {
    /// Id that the user chose, possibly of an existing job; `None`: a new id is generated.
    pub id: Option<String>,
    pub title: String,
    pub kind: String,
    pub owner: Option<String>,
    pub labels: Vec<(String, String)>,
    pub lease: Duration,
}

/// Channel of messages about the availability of the tracker: the reason for which it is unavailable, or `None` when it
/// is available again.
pub type Troubles = UnboundedSender<Option<String>>;

/// The job, and its current attempt.
pub struct Tracking {
    connection: Connection,
    job: NewJob,
    id: String,
    flush_timeout: Duration,
    troubles: Troubles,
    tracker: Option<Tracker>,
    work: Option<Work>,
    /// A job with this id is known to exist: this command has created it, or somebody else.
    exists: bool,
    /// Number of the last claimed attempt; 0 before the first claim.
    last_attempt: i32,
    /// The reason to stop was already returned.
    is_stopped: bool,
    last: Option<Found>,
}

impl Tracking {
    pub fn new(connection: Connection, job: NewJob, flush_timeout: Duration, troubles: Troubles) -> Self {
        let id = job.id.clone().unwrap_or_else(|| Uuid::now_v7().to_string());
        Self {
            connection,
            job,
            id,
            flush_timeout,
            troubles,
            tracker: None,
            work: None,
            exists: false,
            last_attempt: 0,
            is_stopped: false,
            last: None,
        }
    }

    /// Returns the variables that tell the command its job. They include the number of the attempt only if that is
    /// certain.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        let claimed = self.work.as_ref().and_then(Work::attempt);
        // A generated id is known to nobody else: no other worker can claim an attempt of the job.
        let next = (self.job.id.is_none() || self.last_attempt > 0).then_some(self.last_attempt + 1);
        let mut variables =
            vec![("JOBTRACK_JOB_ID", self.id.clone()), ("JOBTRACK_SERVER", self.connection.server().to_owned())];
        variables.extend(claimed.or(next).map(|attempt| ("JOBTRACK_ATTEMPT", attempt.to_string())));
        variables
    }

    /// Creates and claims the job before the command starts. The caller must [adopt](Self::adopt) the returned work.
    pub fn claim(&mut self) -> impl Future<Output = (Event, Option<Work>)> + use<> {
        let builders = self.builder(self.exists).and_then(|first| Ok((first, self.builder(true)?)));
        async move {
            let (new, existing) = match builders {
                Ok(builders) => builders,
                Err(problem) => return (Event::ClaimFailed(problem, Exit::Usage), None),
            };
            let work = match new.strict(true).start().await {
                Err(error) if error.code == Code::AlreadyExists => existing.strict(true).start().await,
                other => other,
            };
            match work {
                Ok(work) => (Event::Claimed, Some(work)),
                Err(error) => {
                    let problem = format!("the job is not tracked: {error}");
                    (Event::ClaimFailed(problem, Exit::of_error(&error)), None)
                }
            }
        }
    }

    /// Uses the work of a claimed job.
    pub fn adopt(&mut self, work: Work) {
        self.work = Some(work);
    }

    /// Claims the job while the command runs, unless it is claimed already. Returns an event if that is impossible.
    pub fn begin(&mut self) -> Option<Event> {
        if self.work.is_some() {
            return None;
        }
        self.is_stopped = false;
        let work =
            self.builder(self.exists).and_then(|builder| builder.start_detached().map_err(|error| error.to_string()));
        match work {
            Ok(work) => {
                self.work = Some(work);
                None
            }
            Err(problem) => Some(Event::Lost(format!("the job is not tracked: {problem}"))),
        }
    }

    /// Reports progress.
    pub fn report(&mut self, found: Found) {
        if let Some(work) = &self.work {
            work.report(report(&found));
        }
        self.last = Some(found);
    }

    /// Waits until the command must stop or is no longer tracked. Returns `None` if the job turned out to exist and is
    /// claimed instead.
    pub async fn stopped(&mut self) -> Option<Event> {
        let stop = match &self.work {
            Some(work) if !self.is_stopped => work.cancelled().await,
            _ => pending().await,
        };
        self.is_stopped = true;
        match stop {
            Stop::Requested { .. } => Some(Event::Cancelled),
            Stop::Fenced(error) if error.metadata.get("state").is_some_and(|state| state == "CANCELLED") => {
                Some(Event::CancelledByForce)
            }
            Stop::Refused(error) if self.is_taken(&error) => {
                self.work = None;
                let problem = self.begin();
                if let Some(last) = self.last.take() {
                    self.report(last);
                }
                problem
            }
            Stop::Fenced(error) | Stop::Refused(error) => {
                self.work = None;
                Some(Event::Lost(format!("the job is not tracked: {error}")))
            }
            _ => None,
        }
    }

    /// Sends the end of the attempt.
    pub fn end(&mut self, end: End, message: String, duration: Duration) -> impl Future<Output = Event> + use<> {
        let (work, id) = (self.work.take(), self.id.clone());
        if let Some(attempt) = work.as_ref().and_then(Work::attempt) {
            (self.exists, self.last_attempt) = (true, attempt);
        }
        // A short command may end before the tracker answers that a job with this id exists.
        let existing = if self.exists { None } else { self.builder(true).ok() };
        let last = self.last.clone();
        async move {
            let Some(work) = work else { return Event::Reported };
            let mut ended = finish(work, end, message.clone(), duration).await;
            if let (Err(error), Some(existing)) = (&ended, existing)
                && error.code == Code::AlreadyExists
                && let Ok(work) = existing.start_detached()
            {
                if let Some(last) = last {
                    work.report(report(&last));
                }
                ended = finish(work, end, message, duration).await;
            }
            match ended {
                Ok(_) => Event::Reported,
                Err(error) => {
                    let problem = format!("the end of job {id} was not reported: {error}");
                    Event::NotReported(problem, Exit::of_error(&error))
                }
            }
        }
    }

    /// Returns whether the creation failed because a job with this id exists. That job is claimed instead.
    fn is_taken(&mut self, error: &Error) -> bool {
        let is_taken = error.code == Code::AlreadyExists && !self.exists;
        self.exists |= is_taken;
        is_taken
    }

    fn builder(&mut self, exists: bool) -> Result<WorkBuilder, String> {
        let tracker = if let Some(tracker) = &self.tracker {
            tracker.clone()
        } else {
            let builder = self.connection.builder().timeout(CALL_TIMEOUT).wait_for_ready(false);
            let tracker = builder.connect_lazy().map_err(|error| error.to_string())?;
            self.tracker.insert(tracker).clone()
        };
        let builder = if exists {
            // If the end of the previous attempt could not be stored, that attempt still counts as running.
            tracker.work(&self.id).takeover(self.last_attempt > 0)
        } else {
            self.create(&tracker).work()
        };
        let troubles = self.troubles.clone();
        let builder = builder.worker(worker()).lease(self.job.lease).flush_timeout(self.flush_timeout);
        // The send fails only if the receiver is dropped, at the end of this process.
        Ok(builder.on_trouble(move |trouble| _ = troubles.send(trouble.map(ToString::to_string))))
    }

    fn create(&self, tracker: &Tracker) -> Create {
        let NewJob { title, kind, owner, labels, lease, .. } = &self.job;
        let create = tracker.create(cut(kind, NAME_MAX)).id(&self.id).title(cut(title, TITLE_MAX)).lease(*lease);
        let create = create.fail_when_lost(true).owner(owner.as_deref().unwrap_or_default());
        labels.iter().fold(create, |create, (key, value)| create.label(key, value))
    }
}

async fn finish(work: Work, end: End, message: String, duration: Duration) -> Result<Job, Error> {
    match end {
        End::Complete => work.finish(()).await,
        End::Fail(ending) => work.fail(ending.failure(message, duration)).await,
        End::Retry(ending) => work.retry(ending.failure(message, duration)).await,
        End::ConfirmCancel => work.confirm_cancel(None).await,
    }
}

/// Returns the name of this worker.
fn worker() -> String {
    let system = uname();
    let host = system.nodename().to_string_lossy();
    format!("{}:{}", cut(&host, NAME_MAX - 16), std::process::id())
}

fn report(found: &Found) -> Report {
    let Found { percent, completed, total, unit, stage, message } = found;
    let mut report = Report::new();
    if let Some(percent) = percent {
        report = report.percent(*percent);
    }
    if let Some(completed) = completed {
        report = report.completed(*completed);
    }
    if let Some(total) = total {
        report = report.total(*total);
    }
    if let Some(unit) = unit {
        report = report.unit(cut(unit, UNIT_MAX));
    }
    if let Some(stage) = stage {
        report = report.stage(cut(stage, STAGE_MAX));
    }
    match message {
        Some(message) => report.message(message),
        None => report,
    }
}

/// Returns the beginning of a text, at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let mut end = text.len().min(max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// Returns the kind of a job that runs this program.
pub fn kind(program: &str) -> String {
    let name = Path::new(program).file_name().map_or_else(|| program.into(), |name| name.to_string_lossy());
    if name.is_empty() { "command".to_owned() } else { name.into_owned() }
}
