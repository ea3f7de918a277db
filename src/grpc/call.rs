//! What holds for each call of every service: its deadline, its log line, and that errors are ours.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{
    body::Body,
    extract::Request,
    middleware::Next,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::timeout_at;
use tonic::{Code, Status};
use tracing::{Instrument, Level, Span, debug, debug_span, enabled, field::Empty};

use super::{deadline::Deadline, status::restate};
use crate::domain::JobError;

/// Passes a call on to its handler.
pub async fn call(mut request: Request, next: Next) -> Response {
    if !is_grpc(request.headers()) {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    let deadline = Deadline::of(request.headers());
    request.extensions_mut().insert(deadline);
    // tonic's own timer would answer CANCELLED.
    request.headers_mut().remove("grpc-timeout");

    let log = CallLog::start(&request);
    let span = log.as_ref().map_or_else(Span::none, |log| log.span.clone());
    // A call that came too late is not begun.
    let answered = if deadline.has_passed() {
        None
    } else {
        timeout_at(deadline.for_response(), next.run(request).instrument(span)).await.ok()
    };
    let response = match answered {
        Some(response) => restate(&response).map_or(response, Status::into_http),
        None => Status::from(JobError::DeadlineExceeded).into_http(),
    };
    match log {
        Some(log) => log.follow(response),
        None => response,
    }
}

/// Whether the request says that it is gRPC; gRPC-Web has become that by now.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// The log line of one call, written when its response has ended. Only where debug logging is on.
struct CallLog {
    span: Span,
    started: Instant,
}

impl CallLog {
    fn start(request: &Request) -> Option<Self> {
        enabled!(Level::DEBUG).then(|| {
            let method = request.uri().path().trim_start_matches('/');
            Self { span: debug_span!("call", method, job_id = Empty), started: Instant::now() }
        })
    }

    fn follow(self, response: Response) -> Response {
        if response.headers().contains_key("grpc-status") {
            self.finish(Some(response.headers()));
            return response;
        }
        response.map(|inner| Body::new(LoggedBody { inner, log: Some(self) }))
    }

    /// Writes the line. Without trailers the caller went away first.
    fn finish(&self, trailers: Option<&HeaderMap>) {
        let status = trailers.and_then(|trailers| trailers.get("grpc-status"));
        let code = status.map_or(Code::Cancelled, |status| Code::from_bytes(status.as_bytes()));
        let duration = self.started.elapsed();
        self.span.in_scope(|| debug!(?code, ?duration, "call"));
    }
}

pin_project! {
    /// A response body that writes its call's log line at its end.
    struct LoggedBody {
        #[pin]
        inner: Body,
        log: Option<CallLog>,
    }

    impl PinnedDrop for LoggedBody {
        fn drop(this: Pin<&mut Self>) {
            if let Some(log) = this.project().log.take() {
                log.finish(None);
            }
        }
    }
}

impl HttpBody for LoggedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let frame = ready!(this.inner.poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(log) = this.log.take()
        {
            log.finish(Some(trailers));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
