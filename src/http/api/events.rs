//! Streams as server-sent events, as the browser's `EventSource` reads them.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::poll;
use http::{
    HeaderMap, HeaderValue, Response,
    header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, X_CONTENT_TYPE_OPTIONS},
};
use http_body::{Body as HttpBody, Frame};
use http_body_util::Full;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status, body::Body};

use super::{
    call,
    errors::retry_delay,
    event::Event,
    frames::Frames,
    response::{Accepted, NO_STORE, no_content},
    routes::Endpoint,
};

/// Interval between comments, which keep proxies from closing a silent stream.
const COMMENT_INTERVAL: Duration = Duration::from_secs(15);

/// Pause after which a browser reconnects.
const RETRY: Duration = Duration::from_secs(1);

/// Header that tells nginx to pass on each event at once.
pub const NO_BUFFERING: (HeaderName, HeaderValue) =
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));

/// Event that follows the last event of a job.
const END: &[u8] = b"event: end\ndata: {}\n\n";

/// Returns the response for a stream that was opened with the result `opened`. `token` is the resume token of the
/// caller.
///
/// An `EventSource` reconnects only after a response with status 200. Therefore a temporary error is answered with 200
/// and without an event. A stream that has ended, and has no event after the token, is answered with 204.
pub async fn response(
    endpoint: &Arc<Endpoint>,
    opened: Result<Response<Body>, Status>,
    token: Option<&str>,
    accepted: Accepted,
) -> Result<Response<Body>, Status> {
    match opened {
        Ok(stream) => {
            let mut events = Events::new(stream.into_body(), endpoint.clone());
            if events.has_nothing_after(token).await {
                // A cache must not return this answer to callers that resume from another token.
                return Ok(no_content(HeaderMap::from_iter([(CACHE_CONTROL, NO_STORE)])));
            }
            events.ready.push_front(format!("retry: {}\n\n", RETRY.as_millis()).into());
            Ok(event_stream(Body::new(events), accepted))
        }
        Err(status) if passes(&status) => Ok(event_stream(Body::new(Full::new(pause(&status))), accepted)),
        Err(status) => Err(status),
    }
}

/// Returns whether an error is temporary: the same request may succeed later.
fn passes(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded) || retry_delay(status).is_some()
}

/// Returns the text of a stream that only tells the browser when to reconnect.
fn pause(status: &Status) -> Bytes {
    let wait = retry_delay(status).unwrap_or_default().max(RETRY);
    format!("retry: {}\n{}", wait.as_millis(), comment(status)).into()
}

fn comment(status: &Status) -> String {
    format!(": {}\n\n", status.message().replace(['\r', '\n'], " "))
}

fn event_stream(body: Body, accepted: Accepted) -> Response<Body> {
    let mut response = Response::new(if accepted.head_only { Body::empty() } else { body });
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, NO_STORE);
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let (name, value) = NO_BUFFERING;
    headers.insert(name, value);
    response
}

/// A gRPC stream as the text of server-sent events.
struct Events {
    stream: Body,
    endpoint: Arc<Endpoint>,
    frames: Frames,
    /// Texts that are ready to be sent.
    ready: VecDeque<Bytes>,
    comment: Pin<Box<Sleep>>,
    is_over: bool,
}

impl Events {
    fn new(stream: Body, endpoint: Arc<Endpoint>) -> Self {
        let comment = Box::pin(sleep(COMMENT_INTERVAL));
        let (frames, ready) = (Frames::default(), VecDeque::new());
        Self { stream, endpoint, frames, ready, comment, is_over: false }
    }

    /// Returns whether the stream has ended and a caller that resumes from `token` has seen all of its events. In that
    /// case the only event, a bookmark or the removal of the job, repeats the token.
    async fn has_nothing_after(&mut self, token: Option<&str>) -> bool {
        let Some(token) = token else { return false };
        // A stream that has ended delivers its first event and its end together with the headers: both are
        // ready without waiting.
        let known = Event::id_line(token.as_bytes());
        while !self.is_over && self.ready.len() < 2 {
            let Poll::Ready(()) = poll!(std::future::poll_fn(|cx| self.poll_more(cx))) else { return false };
        }
        self.ready.len() == 2 && self.ready[0].windows(known.len()).any(|line| line == known) && self.ready[1] == END
    }

    /// Waits for the next frame of the stream, and queues its texts.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let frame = ready!(Pin::new(&mut self.stream).poll_frame(cx));
        match frame.map(|frame| frame.map(Frame::into_data)) {
            Some(Ok(Ok(data))) => {
                self.frames.add(data);
                while let Some(message) = self.frames.next() {
                    self.ready.push_back(Event::text(&self.endpoint.form, &message));
                }
            }
            Some(Ok(Err(trailers))) => self.end(call::check(trailers)),
            Some(Err(status)) => self.end(Err(status)),
            None => self.is_over = true,
        }
        Poll::Ready(())
    }

    /// Ends the events with the outcome of the stream.
    fn end(&mut self, outcome: Result<(), Status>) {
        self.is_over = true;
        self.ready.push_back(match outcome {
            Ok(()) => Bytes::from_static(END),
            Err(status) => comment(&status).into(),
        });
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            if let Some(text) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(text))));
            }
            if self.is_over {
                return Poll::Ready(None);
            }
            if self.poll_more(cx).is_pending() {
                ready!(self.comment.as_mut().poll(cx));
                self.comment.as_mut().reset(Instant::now() + COMMENT_INTERVAL);
                return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b":\n\n")))));
            }
        }
    }
}
