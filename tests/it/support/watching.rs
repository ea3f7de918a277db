//! Streams as a client sees them. Every stream of every test is also checked against the laws of all streams.

use std::{
    collections::HashMap,
    fmt::{self, Debug, Formatter},
    pin::Pin,
    time::Duration,
};

use futures_util::{Stream, StreamExt, TryStreamExt};
use jobtrack::proto::{
    EncodedStruct,
    v1::{
        CancelJobRequest, CompleteJobRequest, CreateJobRequest, DeleteJobRequest, Event, FailJobRequest, Failure, Job,
        Removal, UpdateProgressRequest, WatchJobRequest, WatchJobResponse, WatchJobsRequest, WatchJobsResponse,
        job::State, job_service_client::JobServiceClient,
    },
};
use jobtrack_client::{self as client, WatchMany};
use tokio::time::timeout;
use tonic::{Code, Status, transport::Endpoint};

use super::{Client, Server, large_document, new_job};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// An event of either stream.
#[derive(Clone, PartialEq)]
pub struct Seen {
    pub event: Event,
    pub job: Option<Job>,
    pub skipped: i64,
    pub token: String,
    pub reset: bool,
    pub removal: Removal,
    /// More snapshots follow this bookmark.
    pub pending: bool,
}

impl From<WatchJobsResponse> for Seen {
    fn from(from: WatchJobsResponse) -> Self {
        let (event, removal) = (from.event(), from.removal());
        let (token, pending) = (from.resume_token, from.snapshot_pending);
        Self { event, job: from.job, skipped: from.skipped, token, reset: from.reset, removal, pending }
    }
}

impl From<WatchJobResponse> for Seen {
    fn from(from: WatchJobResponse) -> Self {
        let (event, removal) = (from.event(), from.removal());
        let (token, pending) = (from.resume_token, false);
        Self { event, job: from.job, skipped: from.skipped, token, reset: from.reset, removal, pending }
    }
}

impl Seen {
    /// Returns the job of an event that has one.
    pub fn job(&self) -> &Job {
        self.job.as_ref().unwrap_or_else(|| panic!("no job in {self:?}"))
    }

    pub fn id(&self) -> &str {
        self.job.as_ref().map_or("", |job| &job.id)
    }

    pub fn revision(&self) -> i64 {
        self.job().revision
    }

    pub fn state(&self) -> State {
        self.job().state()
    }

    /// Returns the event with the id and the revision of its job.
    pub fn brief(&self) -> (Event, &str, i64) {
        (self.event, self.id(), self.job.as_ref().map_or(0, |job| job.revision))
    }

    fn is_end(&self) -> bool {
        self.event == Event::Removed || self.job.as_ref().is_some_and(|job| is_terminal(job.state()))
    }
}

impl Debug for Seen {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.event)?;
        if let Some(job) = &self.job {
            write!(f, " {} revision {} {:?} owner {:?}", job.id, job.revision, job.state(), job.owner)?;
        }
        write!(f, " skipped {} reset {} {:?} token {}", self.skipped, self.reset, self.removal, self.token)
    }
}

/// Returns whether the state is final.
pub fn is_terminal(state: State) -> bool {
    matches!(state, State::Succeeded | State::Failed | State::Cancelled)
}

/// An open stream.
pub struct Watch {
    stream: Pin<Box<dyn Stream<Item = Result<Seen, Status>> + Send>>,
    laws: Laws,
}

/// Opens a stream of one job.
pub async fn try_watch_job(client: &Client, request: WatchJobRequest) -> Result<Watch, Status> {
    let stream = client.clone().watch_job(request).await?.into_inner();
    Ok(Watch { stream: stream.map_ok(Seen::from).boxed(), laws: Laws { single: true, ..Laws::default() } })
}

/// Opens a stream of many jobs.
pub async fn try_watch_jobs(client: &Client, request: WatchJobsRequest) -> Result<Watch, Status> {
    let stream = client.clone().watch_jobs(request).await?.into_inner();
    Ok(Watch { stream: stream.map_ok(Seen::from).boxed(), laws: Laws::default() })
}

/// Watches a job with `request`.
pub async fn watch_job(client: &Client, request: WatchJobRequest) -> Watch {
    try_watch_job(client, request).await.expect("the job can be watched")
}

/// Watches a job without a token.
pub async fn watch(client: &Client, id: &str) -> Watch {
    resume(client, id, "").await
}

/// Watches a job from a token on.
pub async fn resume(client: &Client, id: &str, token: &str) -> Watch {
    watch_job(client, about(id, token)).await
}

/// Returns a request to watch a job from a token on.
pub fn about(id: &str, token: &str) -> WatchJobRequest {
    WatchJobRequest { job_id: id.to_owned(), resume_token: token.to_owned(), ..WatchJobRequest::default() }
}

/// Watches jobs with `request`.
pub async fn watch_jobs(client: &Client, request: WatchJobsRequest) -> Watch {
    try_watch_jobs(client, request).await.expect("jobs can be watched")
}

/// Fails unless the job can't be watched because it does not exist.
pub async fn assert_not_found(client: &Client, id: &str, token: &str) {
    let Err(status) = try_watch_job(client, about(id, token)).await else { panic!("{id} can be watched") };
    assert_eq!((status.code(), super::reason(&status)), (Code::NotFound, "JOB_NOT_FOUND".to_owned()));
}

impl Watch {
    /// Returns the next event, an error, or the end. Fails if nothing comes.
    pub async fn outcome(&mut self) -> Option<Result<Seen, Status>> {
        let outcome = timeout(WAIT_TIMEOUT, self.stream.next()).await;
        let outcome = outcome.unwrap_or_else(|_| panic!("the stream is silent after {:?}", self.laws.last_event));
        if let Some(Ok(seen)) = &outcome {
            self.laws.check(seen);
        }
        outcome
    }

    /// Returns the next event.
    pub async fn next(&mut self) -> Seen {
        let outcome = self.outcome().await;
        outcome.unwrap_or_else(|| panic!("it ended after {:?}", self.laws.last_event)).expect("the stream goes on")
    }

    /// Returns the next event, which must be of this type.
    pub async fn expect(&mut self, event: Event) -> Seen {
        let seen = self.next().await;
        assert_eq!(seen.event, event, "{seen:?}");
        seen
    }

    /// Returns the job of the next event, which must be an update.
    pub async fn update(&mut self) -> Job {
        self.expect(Event::Update).await.job().clone()
    }

    /// Returns all events up to the first one for which `last` holds.
    pub async fn until(&mut self, last: impl Fn(&Seen) -> bool) -> Vec<Seen> {
        let mut all = Vec::new();
        loop {
            all.push(self.next().await);
            if all.last().is_some_and(&last) {
                return all;
            }
        }
    }

    /// Returns all events up to the first bookmark after which no more snapshots follow.
    pub async fn until_bookmark(&mut self) -> Vec<Seen> {
        self.until(|seen| seen.event == Event::Bookmark && !seen.pending).await
    }

    /// Returns all events up to the first one of this job.
    pub async fn until_job(&mut self, id: &str) -> Vec<Seen> {
        self.until(|seen| seen.id() == id).await
    }

    /// Returns all events up to the end of the stream, which must be OK.
    pub async fn rest(&mut self) -> Vec<Seen> {
        let mut all = Vec::new();
        while let Some(outcome) = self.outcome().await {
            all.push(outcome.expect("the stream ends OK"));
        }
        all
    }

    /// Fails unless the stream ends OK now.
    pub async fn end(mut self) {
        assert_eq!(self.rest().await, []);
    }
}

/// The laws that every stream must obey.
#[derive(Default)]
struct Laws {
    single: bool,
    last: HashMap<String, Seen>,
    last_event: Option<Seen>,
}

impl Laws {
    fn check(&mut self, seen: &Seen) {
        let before = self.last_event.replace(seen.clone());
        assert_ne!(seen.event, Event::Unspecified, "{seen:?}");
        assert!(!seen.token.is_empty(), "no token in {seen:?}");
        assert_eq!(seen.job.is_none(), seen.event == Event::Bookmark, "{seen:?}");
        assert_eq!(seen.removal != Removal::Unspecified, seen.event == Event::Removed, "{seen:?}");
        assert!(!seen.pending || seen.event == Event::Bookmark, "{seen:?}");
        assert!(!seen.reset || matches!(seen.event, Event::Snapshot | Event::Bookmark), "{seen:?}");
        let counts = matches!(seen.event, Event::Update | Event::Removed);
        assert!(seen.skipped == 0 || (counts && seen.skipped > 0), "{seen:?}");
        if self.single {
            let ended = before.as_ref().is_some_and(Seen::is_end);
            assert!(!ended, "{seen:?} after the end {before:?}");
        }
        let goes_on = |before: &Seen| before.reset && (before.event == Event::Snapshot || before.pending);
        if seen.reset && !before.as_ref().is_some_and(goes_on) {
            self.last.clear();
        }
        if seen.job.is_some() {
            self.check_job(seen);
            self.last.insert(seen.id().to_owned(), seen.clone());
        }
    }

    fn check_job(&self, seen: &Seen) {
        let Some(before) = self.last.get(seen.id()) else {
            assert!(self.single || seen.skipped == 0, "the first event of a job skips nothing: {seen:?}");
            return;
        };
        assert!(seen.revision() > before.revision(), "revisions rise: {seen:?} after {before:?}");
        assert_ne!(seen.event, Event::Snapshot, "{seen:?} after {before:?}");
        let gap = seen.revision() - before.revision() - 1;
        let same_incarnation = seen.job().create_time == before.job().create_time;
        assert!(seen.skipped == gap || (seen.skipped == 0 && !same_incarnation), "{seen:?} after {before:?}");
        let end_passed_over = seen.event == Event::Removed && is_terminal(seen.state()) && !before.is_end();
        assert!(!(same_incarnation && end_passed_over), "the end was passed over: {seen:?} after {before:?}");
    }
}

/// Returns a client whose receive window is as small as the protocol's default, so that the server blocks unless the
/// client reads.
pub async fn narrow(server: &Server) -> Client {
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).expect("an address is a URI");
    let endpoint = endpoint.initial_stream_window_size(65_535).initial_connection_window_size(65_535);
    JobServiceClient::new(endpoint.connect().await.expect("the server listens"))
}

/// Returns a request to create a job whose events have nearly the maximum size of events without a result.
pub fn large(id: &str) -> CreateJobRequest {
    CreateJobRequest { metadata: Some(large_document(15_000)), ..new_job(id) }
}

/// Creates more large jobs than a [`narrow`] client can receive without reading.
pub async fn clog(client: &mut Client) {
    for number in 0..40 {
        make(client, large(&format!("clog-{number}"))).await;
    }
}

/// Creates a job.
pub async fn make(client: &mut Client, request: CreateJobRequest) -> Job {
    client.create_job(request).await.expect("it can be created").into_inner().job.expect("a job")
}

/// Reports on a job.
pub async fn report(client: &mut Client, id: &str) -> Job {
    try_report(client, id).await.expect("it can be reported on")
}

/// Reports on a job, which may be rejected.
pub async fn try_report(client: &mut Client, id: &str) -> Result<Job, Status> {
    let request = UpdateProgressRequest { job_id: id.to_owned(), ..UpdateProgressRequest::default() };
    Ok(client.update_progress(request).await?.into_inner().job.expect("a job"))
}

/// Completes a job.
pub async fn complete(client: &mut Client, id: &str) -> Job {
    try_complete(client, id, None).await.expect("it can be completed")
}

/// Completes a job with a result, which may be rejected.
pub async fn try_complete(client: &mut Client, id: &str, result: Option<EncodedStruct>) -> Result<Job, Status> {
    let request = CompleteJobRequest { job_id: id.to_owned(), result, ..CompleteJobRequest::default() };
    Ok(client.complete_job(request).await?.into_inner().job.expect("a job"))
}

/// Fails a job.
pub async fn fail(client: &mut Client, id: &str) -> Job {
    let failure = Some(Failure { reason: "BROKEN".to_owned(), ..Failure::default() });
    let request = FailJobRequest { job_id: id.to_owned(), failure, ..FailJobRequest::default() };
    client.fail_job(request).await.expect("it can fail").into_inner().job.expect("a job")
}

/// Requests the cancellation of a job.
pub async fn cancel(client: &mut Client, id: &str, force: bool) -> Job {
    let request = CancelJobRequest { job_id: id.to_owned(), force, ..CancelJobRequest::default() };
    client.cancel_job(request).await.expect("it can be cancelled").into_inner().job.expect("a job")
}

/// Deletes a job, even an active one.
pub async fn delete(client: &mut Client, id: &str) {
    let request = DeleteJobRequest { job_id: id.to_owned(), force: true };
    client.delete_job(request).await.expect("it can be deleted");
}

/// Returns a duration as in a request.
#[expect(clippy::unnecessary_wraps, reason = "fields of messages are optional")]
pub fn millis(millis: i64) -> Option<prost_types::Duration> {
    let nanos = i32::try_from(millis % 1000 * 1_000_000).expect("less than a second");
    Some(prost_types::Duration { seconds: millis / 1000, nanos })
}

/// Waits at most `limit` for a version of a job that fulfils a condition, through the client library.
pub async fn until_version(mut watch: WatchMany, limit: Duration, is_so: impl Fn(&Job) -> bool) -> Job {
    let found = async {
        loop {
            match watch.next().await.expect("it goes on").expect("an event") {
                client::Event::Job { job, .. } if is_so(&job) => return job,
                _ => {}
            }
        }
    };
    timeout(limit, found).await.expect("no version is so")
}
