//! Clients that record what they see.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream as Events, StreamExt, TryStreamExt};
use jobtrack::proto::v1::{
    CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, CreateJobRequest, DeleteJobRequest, Event,
    FailJobRequest, Failure, GetJobRequest, Job, JobFilter, Progress, UpdateProgressRequest, WatchJobRequest,
    WatchJobsRequest, job_service_client::JobServiceClient,
};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status, transport::Channel};
use tonic_types::StatusExt;

use super::{
    dice::Dice,
    events::{Watched, open},
};
use crate::{
    robustness::history::{Act, Answer, Call, Ending, Face, Heard, Recorder, Shown, Stream, Terms},
    support::{
        credentials::bearer,
        json::Http,
        watching::{Seen, millis},
    },
};

/// Identity of clients that can see all jobs.
pub const EVERYBODY: &str = "everybody";

/// Identity of clients that can see only the jobs of an owner of that name.
pub const THIEF: &str = "thief";

/// Length of a text that exceeds the maximum size of a message, in bytes.
const OVERSIZED: usize = 3 << 20;

/// Maximum wait of a client for an answer: longer than any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Pause before a failed call is repeated.
const PAUSE: Duration = Duration::from_millis(50);

/// A client that calls and watches.
#[derive(Clone)]
pub struct Client {
    pub name: String,
    /// The only owner whose jobs the client can see; empty: all jobs.
    pub limited_to: String,
    pub channels: Vec<Channel>,
    pub https: Vec<Http>,
    /// The form in which it watches.
    pub face: Face,
    pub recorder: Arc<Recorder>,
}

impl Client {
    /// Returns the same client under another name.
    pub fn named(&self, name: impl Into<String>) -> Self {
        Self { name: name.into(), ..self.clone() }
    }

    /// Returns the same client, which watches in this form.
    pub fn through(self, face: Face) -> Self {
        Self { face, ..self }
    }

    /// Returns a client that can see only jobs of [`THIEF`].
    pub fn thief(&self) -> Self {
        Self { limited_to: THIEF.to_owned(), ..self.named(format!("{}-thief", self.name)) }
    }

    /// Creates a request of this client.
    fn request<T>(&self, message: T) -> Request<T> {
        bearer(self.identity(), message)
    }

    fn identity(&self) -> &str {
        if self.limited_to.is_empty() { EVERYBODY } else { &self.limited_to }
    }

    fn jobs(&self, replica: usize) -> JobServiceClient<Channel> {
        JobServiceClient::new(self.channels[replica].clone())
    }

    /// Makes a call, and records it.
    pub async fn call(&self, replica: usize, job: &str, act: Act) -> Answer {
        let begun = self.recorder.now();
        let answer = timeout(ANSWER_TIMEOUT, self.send(replica, job, &act)).await;
        let answer = answer.unwrap_or_else(|_| Err(Status::cancelled("it took too long")));
        let answer = answer.unwrap_or_else(|status| refused(&status));
        self.note(replica, job, act, begun, answer.clone());
        answer
    }

    fn note(&self, replica: usize, job: &str, act: Act, begun: Duration, answer: Answer) {
        let (client, job, ended) = (self.name.clone(), job.to_owned(), self.recorder.now());
        let limited_to = self.limited_to.clone();
        self.recorder.history().calls.push(Call { client, limited_to, replica, job, act, begun, ended, answer });
    }

    async fn send(&self, replica: usize, job: &str, act: &Act) -> Result<Answer, Status> {
        let mut jobs = self.jobs(replica);
        let job_id = job.to_owned();
        Ok(match act {
            Act::Create(terms) => {
                let answer = jobs.create_job(self.request(creation(job_id, terms))).await?.into_inner();
                shown(answer.job, answer.created)
            }
            Act::Get | Act::Watch => {
                let request = GetJobRequest { job_id, ..GetJobRequest::default() };
                shown(jobs.get_job(self.request(request)).await?.into_inner().job, false)
            }
            Act::Report { .. } | Act::Oversized => {
                let request = self.request(self.report(job_id, act));
                let answer = jobs.update_progress(request).await?.into_inner();
                shown(answer.job, answer.applied)
            }
            Act::Complete { attempt } => {
                let request = CompleteJobRequest { job_id, attempt: Some(*attempt), ..CompleteJobRequest::default() };
                shown(jobs.complete_job(self.request(request)).await?.into_inner().job, true)
            }
            Act::Fail { attempt } => {
                let failure = Some(Failure::default());
                let request = FailJobRequest { job_id, failure, attempt: Some(*attempt), ..FailJobRequest::default() };
                shown(jobs.fail_job(self.request(request)).await?.into_inner().job, true)
            }
            Act::Cancel { force } => {
                let request = CancelJobRequest { job_id, force: *force, ..CancelJobRequest::default() };
                shown(jobs.cancel_job(self.request(request)).await?.into_inner().job, true)
            }
            Act::Confirm => {
                let request = ConfirmCancelRequest { job_id, ..ConfirmCancelRequest::default() };
                shown(jobs.confirm_cancel(self.request(request)).await?.into_inner().job, true)
            }
            Act::Delete => {
                jobs.delete_job(self.request(DeleteJobRequest { job_id, force: true })).await?;
                Answer::Done
            }
        })
    }

    /// Returns a report, which exceeds the maximum size of a message if `act` says so.
    fn report(&self, job_id: String, act: &Act) -> UpdateProgressRequest {
        let Act::Report { sequence, attempt } = act else {
            let progress = Some(Progress { message: Some("x".repeat(OVERSIZED)), ..Progress::default() });
            return UpdateProgressRequest { job_id, progress, ..UpdateProgressRequest::default() };
        };
        let progress = Progress { completed: Some(*sequence), ..Progress::default() };
        UpdateProgressRequest {
            job_id,
            progress: Some(progress),
            worker: self.name.clone(),
            sequence: Some(*sequence),
            attempt: Some(*attempt),
            ..UpdateProgressRequest::default()
        }
    }

    /// Watches a job on random replicas, until it ends or the watcher is told to stop.
    pub async fn watch(self, job: String, mut dice: Dice, stop: CancellationToken) {
        let mut last = None;
        let mut missing = 0;
        while !stop.is_cancelled() && missing < 5 {
            let replica = dice.roll(self.channels.len());
            let (token, revision) = last.clone().unwrap_or_default();
            let begun = self.recorder.now();
            let opening = timeout(ANSWER_TIMEOUT, self.open_job(replica, &job, token)).await;
            match opening.unwrap_or_else(|_| Err(Status::cancelled("it took too long"))) {
                Ok(stream) => {
                    let resumed = last.is_some().then_some(revision);
                    let place = self.open(replica, Some(job.clone()), resumed);
                    let limit = if dice.one_in(3) { 1 + dice.roll(4) } else { usize::MAX };
                    match self.follow(stream, &place, &mut last, limit, &stop).await {
                        Ending::Ok => return,
                        Ending::Left => {}
                        Ending::Broken(_) => sleep(PAUSE).await,
                    }
                }
                Err(status) => {
                    missing += usize::from(status.code() == Code::NotFound);
                    self.note(replica, &job, Act::Watch, begun, refused(&status));
                    sleep(PAUSE).await;
                }
            }
        }
    }

    /// Watches all jobs of the owner named like this client, until it is told to stop: a stream of gRPC always on this
    /// replica, and events as a page behind a proxy, which resumes on another replica.
    pub async fn watch_all(self, mut replica: usize, stop: CancellationToken) {
        let (mut last, mut before) = (None, None);
        while !stop.is_cancelled() {
            let token = last.clone().map(|(token, _): (String, i64)| token).unwrap_or_default();
            if let Ok(Ok(stream)) = timeout(ANSWER_TIMEOUT, self.open_all(replica, &token)).await {
                let place = self.open(replica, None, None);
                if !token.is_empty() {
                    self.resume(&place, before.as_ref());
                }
                self.follow(stream, &place, &mut last, usize::MAX, &stop).await;
                before = Some(place);
            }
            match self.face {
                Face::Grpc => last = None,
                Face::Events => replica = (replica + 1) % self.https.len(),
            }
            sleep(PAUSE).await;
        }
    }

    /// Records that a stream resumes behind another one.
    fn resume(&self, place: &Place, before: Option<&Place>) {
        let mut known = Vec::new();
        before.inspect(|before| self.with(before, |stream| known = stream.last_of_each()));
        self.with(place, |stream| stream.known = known);
    }

    /// Opens a stream of a job.
    async fn open_job(&self, replica: usize, job: &str, token: String) -> Result<Watched, Status> {
        if self.face == Face::Events {
            return open(&self.https[replica], &format!("/v1/jobs/{job}/events"), &token, self.identity()).await;
        }
        let request = WatchJobRequest { job_id: job.to_owned(), resume_token: token, ..WatchJobRequest::default() };
        let opened = self.jobs(replica).watch_job(self.request(request)).await?;
        Ok(opened.into_inner().map_ok(Seen::from).boxed())
    }

    /// Opens a stream of all jobs of the owner named like this client.
    async fn open_all(&self, replica: usize, token: &str) -> Result<Watched, Status> {
        if self.face == Face::Events {
            return open(&self.https[replica], &format!("/v1/events?owner={}", self.name), token, self.identity())
                .await;
        }
        let filter = Some(JobFilter { owner: self.name.clone(), ..JobFilter::default() });
        let request = WatchJobsRequest { filter, ..WatchJobsRequest::default() };
        let opened = self.jobs(replica).watch_jobs(self.request(request)).await?;
        Ok(opened.into_inner().map_ok(Seen::from).boxed())
    }

    /// Records that a stream was opened.
    pub fn open(&self, replica: usize, job: Option<String>, resumed: Option<i64>) -> Place {
        let opened = self.recorder.now();
        let (watcher, face, events) = (self.name.clone(), self.face, Vec::new());
        let mut history = self.recorder.history();
        let known = Vec::new();
        history.streams.push(Stream { watcher, face, replica, job, opened, resumed, known, events, closed: None });
        Place { replica, opened }
    }

    /// Records up to `limit` events. Keeps the last token, and the revision that it stands for.
    pub async fn follow(
        &self,
        mut stream: impl Events<Item = Result<Seen, Status>> + Unpin,
        place: &Place,
        last: &mut Option<(String, i64)>,
        limit: usize,
        stop: &CancellationToken,
    ) -> Ending {
        let mut count = 0;
        let ending = loop {
            if count == limit {
                break Ending::Left;
            }
            let next = tokio::select! {
                next = stream.next() => next,
                () = stop.cancelled() => break Ending::Left,
            };
            match next {
                None => break Ending::Ok,
                Some(Err(status)) => break Ending::Broken(status.code()),
                Some(Ok(seen)) => {
                    let revision = seen.job.as_ref().map(|job| job.revision);
                    let before = last.as_ref().map_or(0, |(_, revision)| *revision);
                    *last = Some((seen.token.clone(), revision.unwrap_or(before)));
                    count += usize::from(seen.event != Event::Bookmark);
                    self.hear(place, &seen);
                }
            }
        };
        let at = self.recorder.now();
        self.with(place, |stream| stream.closed = Some((at, ending)));
        ending
    }

    fn hear(&self, place: &Place, seen: &Seen) {
        let at = self.recorder.now();
        let heard = Heard { at, event: seen.event, shown: seen.job.as_ref().map(Shown::from), reset: seen.reset };
        self.with(place, |stream| stream.events.push(heard));
    }

    fn with(&self, place: &Place, change: impl FnOnce(&mut Stream)) {
        let mut history = self.recorder.history();
        let is_it = |stream: &&mut Stream| {
            (stream.opened, stream.replica, stream.face) == (place.opened, place.replica, self.face)
                && stream.watcher == self.name
        };
        history.streams.iter_mut().rev().find(is_it).map(change);
    }
}

/// The key of a stream in the history.
pub struct Place {
    replica: usize,
    opened: Duration,
}

fn refused(status: &Status) -> Answer {
    let reason = status.get_details_error_info().map(|info| info.reason).unwrap_or_default();
    Answer::Refused { code: status.code(), reason }
}

fn shown(job: Option<Job>, applied: bool) -> Answer {
    Answer::Job { shown: (&job.expect("a job")).into(), applied }
}

fn creation(job_id: String, terms: &Terms) -> CreateJobRequest {
    CreateJobRequest {
        job_id,
        kind: "soak".to_owned(),
        owner: terms.owner.clone(),
        request_id: terms.request.clone(),
        lease_timeout: millis(terms.lease),
        fail_when_lost: terms.fail_when_lost,
        retention: if terms.retention > 0 { millis(terms.retention) } else { None },
        ..CreateJobRequest::default()
    }
}
