//! A stream that reconnects by itself.

use std::{
    collections::VecDeque,
    future::Future,
    mem::replace,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, Streaming};

use super::Event;
use crate::{
    Error, Job, Tracker,
    pause::Pause,
    proto::v1::{Event as Kind, Removal, WatchJobRequest, WatchJobResponse, WatchJobsRequest, WatchJobsResponse},
};

/// Time without a message after which a stream counts as broken.
const SILENCE_MAX: Duration = Duration::from_secs(50);

/// Minimum life of a stream after which the pauses between connections start with the shortest one again.
const STREAM_LIFE_MIN: Duration = Duration::from_secs(5);

/// Codes of final errors: a new connection would fail again.
const FINAL: [Code; 6] = [
    Code::NotFound,
    Code::InvalidArgument,
    Code::PermissionDenied,
    Code::Unauthenticated,
    Code::Unimplemented,
    Code::FailedPrecondition,
];

/// Function that is called with each error after which a stream reconnects, and with `None` when the stream is open.
type OnTrouble = Arc<dyn Fn(Option<&Error>) + Send + Sync>;

/// A message of a stream of one job or of many jobs.
struct Message {
    kind: Kind,
    job: Job,
    skipped: i64,
    resume_token: String,
    reset: bool,
    removal: Removal,
    snapshot_pending: bool,
}

impl From<WatchJobResponse> for Message {
    fn from(from: WatchJobResponse) -> Self {
        let (kind, removal) = (from.event(), from.removal());
        let WatchJobResponse { job, skipped, resume_token, reset, .. } = from;
        Self { kind, job: job.unwrap_or_default(), skipped, resume_token, reset, removal, snapshot_pending: false }
    }
}

impl From<WatchJobsResponse> for Message {
    fn from(from: WatchJobsResponse) -> Self {
        let (kind, removal) = (from.event(), from.removal());
        let WatchJobsResponse { job, skipped, resume_token, reset, snapshot_pending, .. } = from;
        Self { kind, job: job.unwrap_or_default(), skipped, resume_token, reset, removal, snapshot_pending }
    }
}

/// The stream of one connection.
enum Incoming {
    One(Streaming<WatchJobResponse>),
    Many(Streaming<WatchJobsResponse>),
}

impl Incoming {
    async fn message(&mut self) -> Result<Option<Message>, Status> {
        Ok(match self {
            Self::One(stream) => stream.message().await?.map(Message::from),
            Self::Many(stream) => stream.message().await?.map(Message::from),
        })
    }
}

/// The request of a stream, with the resume token.
pub enum Request {
    One(WatchJobRequest),
    Many(Box<WatchJobsRequest>),
}

impl Request {
    fn set_token(&mut self, token: String) {
        match self {
            Self::One(request) => request.resume_token = token,
            Self::Many(request) => request.resume_token = token,
        }
    }
}

/// An open stream, and its state.
struct Open {
    incoming: Incoming,
    /// Number of the replica.
    replica: usize,
    since: Instant,
    has_sent: bool,
}

/// Calls the user's function when the stream breaks, and when it is open again.
#[derive(Default)]
pub struct Trouble {
    pub on_trouble: Option<OnTrouble>,
    /// The function was called with `None`, because the stream is open.
    is_over: bool,
}

impl Trouble {
    fn tell(&mut self, error: &Error) {
        self.is_over = false;
        if let Some(told) = &self.on_trouble {
            told(Some(error));
        }
    }

    /// Records that the stream is open.
    fn end(&mut self) {
        if !replace(&mut self.is_over, true)
            && let Some(told) = &self.on_trouble
        {
            told(None);
        }
    }
}

/// A stream that reconnects by itself.
pub struct Watcher {
    tracker: Tracker,
    pub request: Request,
    pub trouble: Trouble,
    open: Option<Open>,
    /// Events to return before the next message is read.
    events: VecDeque<Event>,
    /// The server is sending all existing jobs again, after a reset.
    is_starting_over: bool,
    /// All jobs that match were sent.
    is_synced: bool,
    pause: Pause,
    has_ended: bool,
}

impl Watcher {
    pub fn new(tracker: Tracker, request: Request) -> Self {
        Self {
            tracker,
            request,
            trouble: Trouble::default(),
            open: None,
            events: VecDeque::new(),
            is_starting_over: false,
            is_synced: false,
            pause: Pause::reconnect(),
            has_ended: false,
        }
    }

    /// Returns the next event, or `None` after the end of the stream. Also returns the watcher itself, for the next
    /// call.
    async fn next(mut self) -> (Option<Result<Event, Error>>, Self) {
        loop {
            if let Some(event) = self.events.pop_front() {
                return (Some(Ok(event)), self);
            }
            if self.has_ended {
                return (None, self);
            }
            match self.message().await {
                Ok(Some(message)) => {
                    self.trouble.end();
                    self.take(message);
                }
                // A stream of one job ends after the end of the job. A stream of many jobs ends when no event can
                // follow.
                Ok(None) => self.has_ended = true,
                Err(error) if self.is_final(&error) => {
                    self.has_ended = true;
                    return (Some(Err(error)), self);
                }
                Err(error) => self.reconnect(&error).await,
            }
        }
    }

    /// Returns the next message. Opens the stream first, unless it is open.
    async fn message(&mut self) -> Result<Option<Message>, Error> {
        let silent = |_| Error::new(Code::DeadlineExceeded, "", format!("the server sent nothing for {SILENCE_MAX:?}"));
        let open = match &mut self.open {
            Some(open) => open,
            closed => closed.insert(timeout(SILENCE_MAX, open(&self.tracker, &self.request)).await.map_err(silent)??),
        };
        let message = timeout(SILENCE_MAX, open.incoming.message()).await.map_err(silent)??;
        open.has_sent |= message.is_some();
        Ok(message)
    }

    /// Queues the events that a message stands for.
    fn take(&mut self, message: Message) {
        let Message { kind, job, skipped, resume_token, reset, removal, snapshot_pending } = message;
        self.request.set_token(resume_token);
        if reset && !self.is_starting_over {
            (self.is_starting_over, self.is_synced) = (true, false);
            self.events.push_back(Event::Reset);
        }
        let is_one = matches!(self.request, Request::One(_));
        match kind {
            Kind::Snapshot | Kind::Update => {
                // The server ends the stream next. Its end may be lost with the connection, so the watcher does not
                // wait for it.
                self.has_ended = is_one && job.has_ended();
                self.is_starting_over &= !is_one;
                self.events.push_back(Event::Job { job, skipped });
            }
            Kind::Removed => {
                self.has_ended = is_one;
                self.events.push_back(Event::Removed { job, removal });
            }
            Kind::Bookmark if !snapshot_pending => {
                self.is_starting_over = false;
                if !is_one && !replace(&mut self.is_synced, true) {
                    self.events.push_back(Event::Synced);
                }
            }
            Kind::Bookmark | Kind::Unspecified => {}
        }
    }

    /// Returns whether an error is final: a new connection would fail again. `Unauthenticated` is not final for a
    /// stream that was open: its credentials were replaced, and the new ones may be valid.
    fn is_final(&self, error: &Error) -> bool {
        let was_open = self.open.as_ref().is_some_and(|open| open.has_sent);
        FINAL.contains(&error.code) && !(error.code == Code::Unauthenticated && was_open)
    }

    /// Closes the stream, switches to another replica if there are several, and pauses.
    async fn reconnect(&mut self, error: &Error) {
        self.trouble.tell(error);
        let current = self.tracker.connections.current();
        let (replica, lived) =
            self.open.take().map_or((current, Duration::ZERO), |open| (open.replica, open.since.elapsed()));
        // Another replica would enforce the same quota.
        if error.code != Code::ResourceExhausted {
            self.tracker.connections.leave(replica);
        }
        if lived >= STREAM_LIFE_MIN {
            self.pause.reset();
        }
        sleep(self.pause.next().max(error.retry_after.unwrap_or_default())).await;
    }
}

async fn open(tracker: &Tracker, request: &Request) -> Result<Open, Error> {
    let connections = &tracker.connections;
    let replica = connections.current();
    let mut jobs = connections.jobs(replica);
    let failed = |status| connections.error(replica, status);
    let incoming = match request {
        Request::One(request) => {
            Incoming::One(jobs.watch_job(connections.request(request.clone())?).await.map_err(failed)?.into_inner())
        }
        Request::Many(request) => {
            let request = connections.request(WatchJobsRequest::clone(request))?;
            Incoming::Many(jobs.watch_jobs(request).await.map_err(failed)?.into_inner())
        }
    };
    Ok(Open { incoming, replica, since: Instant::now(), has_sent: false })
}

type Step = Pin<Box<dyn Future<Output = (Option<Result<Event, Error>>, Watcher)> + Send>>;

/// A watcher, together with the state of its current poll.
pub enum PollState {
    Idle(Box<Watcher>),
    Waiting(Step),
    Ended,
}

impl PollState {
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Event, Error>>> {
        loop {
            *self = match replace(self, Self::Ended) {
                Self::Idle(watcher) => Self::Waiting(Box::pin(watcher.next())),
                Self::Waiting(mut step) => {
                    let Poll::Ready((event, watcher)) = step.as_mut().poll(context) else {
                        *self = Self::Waiting(step);
                        return Poll::Pending;
                    };
                    if event.is_some() {
                        *self = Self::Idle(Box::new(watcher));
                    }
                    return Poll::Ready(event);
                }
                Self::Ended => return Poll::Ready(None),
            };
        }
    }
}
