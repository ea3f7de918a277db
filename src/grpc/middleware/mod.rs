//! The middleware of every call: credentials, authorization, rate limits, deadline, log line, metrics, and the
//! conversion of tonic's errors to the form of this server's errors.

pub mod audit;
pub mod auth_failures;
mod authorization;
pub mod context;
mod deadline;
pub mod ending;
pub mod methods;
pub mod whole_messages;

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{body::Body, extract::Request, middleware::Next, response::Response};
use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use http::{HeaderMap, header::CONTENT_TYPE};
use http_body::{Body as HttpBody, Frame, SizeHint};
use pin_project_lite::pin_project;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Code, Status};
use tonic_web::GrpcWebService;
use tracing::{
    Instrument, Level, Span, debug, error_span,
    field::{Empty, display},
    span_enabled,
};

pub use self::authorization::takes_watch_tokens;

use self::{
    audit::Caller,
    auth_failures::AuthFailures,
    authorization::{Rule, authorize, served},
    context::CallContext,
    deadline::Deadline,
    ending::Ending,
    methods::{Method, Methods},
    whole_messages::WholeMessages,
};
use crate::{
    auth::{Authenticator, Grant},
    domain::{Identity, JobError},
    grpc::{
        exchange::Exchange,
        expiry::Expiry,
        status::{code, restate, trailers},
    },
    quota::Quotas,
    telemetry::traces,
};

/// Maximum duration of a bidirectional stream. Only reflection has such streams, and they need less time.
const BIDIRECTIONAL_STREAM_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum size of a request's metadata, as HTTP/2 counts it.
const CALL_METADATA_MAX: usize = 16 * 1024;

/// Bytes that HTTP/2 counts for each header besides its name and value.
const HEADER_OVERHEAD: usize = 32;

/// The stack that serves every request: gRPC-Web, then [`WholeMessages`], then [`CallMiddleware`] and the services.
pub type Stack = GrpcWebService<WholeMessages>;

/// The checks that each call passes before its handler.
pub struct CallMiddleware {
    /// Methods that are served.
    pub methods: Arc<Methods>,
    /// Identifies callers.
    pub authenticator: Authenticator,
    /// Limits and logs failed authentications.
    pub auth_failures: AuthFailures,
    /// Quotas of callers.
    pub quotas: Arc<Quotas>,
    /// Cancelled when the server drains.
    pub drain: CancellationToken,
}

impl CallMiddleware {
    /// Checks whether the caller may make `call` now. Returns the authorization of the caller, if the method needs one.
    fn admit(&self, call: &mut CallRecord, request: &Request) -> Result<Option<Grant>, Status> {
        let headers = request.headers();
        if metadata_size(headers) > CALL_METADATA_MAX {
            return Err(JobError::TooLarge { what: "metadata of the call", limit: CALL_METADATA_MAX }.into());
        }
        let rule = served(call.method.rule)?;
        if rule == Rule::Public {
            return Ok(None);
        }
        let peer = Exchange::of_connection(|connection| connection.peer.clone()).flatten();
        let grant = self.authenticator.authenticate(headers, peer.as_ref());
        let grant = grant.map_err(|error| match error {
            JobError::Unauthenticated(problem) => self.auth_failures.refuse(problem, &call.method, &self.quotas),
            error => error.into(),
        })?;
        Exchange::of_connection(|connection| connection.authentication.mark_authenticated());
        call.note_caller(&grant);
        self.quotas.call(&grant.identity).map_err(JobError::Exhausted)?;
        authorize(&grant, rule)?;
        Ok(Some(grant))
    }
}

/// Checks a call, and passes it on to its handler.
pub async fn call(middleware: Arc<CallMiddleware>, mut request: Request, next: Next) -> Response {
    debug_assert!(is_grpc(request.headers()), "requests that are not gRPC are answered by outer layers");
    let deadline = Deadline::take(request.headers_mut());
    let mut call = CallRecord::begin(middleware.methods.find(request.uri().path()).clone(), &request, deadline);
    let response = match middleware.admit(&mut call, &request) {
        // A call whose deadline has passed does not reach its handler.
        Ok(_) if deadline.has_passed() => Status::from(JobError::DeadlineExceeded).into_http(),
        Ok(grant) => {
            let limit = deadline.for_response(grant.is_some());
            let context = CallContext { deadline, grant };
            Exchange::expire_by(call.expiry(limit, &context));
            if call.method.is_bidirectional {
                request =
                    call.limit(request, Ending::within(BIDIRECTIONAL_STREAM_TIMEOUT, &context, &middleware.drain));
            }
            request.extensions_mut().insert(context);
            let answer = next.run(request).instrument(call.span.clone());
            let answered = timeout_at(limit, WithoutIdleTurn { answer }).await;
            Exchange::release_request();
            match answered {
                Ok(response) => restate(&response, call.method.request_max()).map_or(response, Status::into_http),
                Err(_) => Status::from(JobError::DeadlineExceeded).into_http(),
            }
        }
        Err(refusal) => refusal.into_http(),
    };
    call.follow(response)
}

fn metadata_size(headers: &HeaderMap) -> usize {
    headers.iter().map(|(name, value)| name.as_str().len() + value.len() + HEADER_OVERHEAD).sum()
}

/// Returns whether the content type is gRPC. gRPC-Web requests have been converted by now.
fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Record of a call from its arrival to its end. When it is dropped the call is counted, and logged at debug level.
struct CallRecord {
    method: Arc<Method>,
    deadline: Deadline,
    peer: Option<SocketAddr>,
    /// Caller, if it is identified.
    caller: Option<Arc<Identity>>,
    span: Span,
    /// Final status. It is `Cancelled` until the call has ended, because the caller may cancel the call at any time.
    code: Code,
    /// Condition that ends the call early, for handlers that don't check such conditions themselves.
    cut_off: Option<CutOff>,
}

/// Condition that ends a call early.
struct CutOff {
    reached: Pin<Box<dyn Future<Output = JobError> + Send>>,
    /// Ends the body of the request when it is dropped, so that the handler does not wait for more messages.
    _request: DropGuard,
}

impl CallRecord {
    fn begin(method: Arc<Method>, request: &Request, deadline: Deadline) -> Self {
        method.started();
        let peer = Exchange::of_connection(|connection| connection.address);
        let span = span(&method, peer, traces::caller_context(request.headers()));
        Self { method, deadline, peer, caller: None, span, code: Code::Cancelled, cut_off: None }
    }

    /// Records the caller, and its name in the log lines of the call. Without authentication callers have no names.
    fn note_caller(&mut self, grant: &Grant) {
        self.caller = Some(grant.identity.clone());
        if !self.span.is_none() {
            let label = grant.identity.label();
            if !label.is_empty() {
                self.span.record("caller", &*label);
            }
        }
    }

    /// Returns the conditions that end the response even if the caller does not read it. A unary call ends at `limit`.
    fn expiry(&self, limit: Instant, context: &CallContext) -> Expiry {
        if self.method.is_unary {
            return Expiry { deadline: Some(limit), grant: None };
        }
        let stream_end =
            self.method.is_bidirectional.then(|| context.deadline.arrived() + BIDIRECTIONAL_STREAM_TIMEOUT);
        let deadline = [context.deadline.given(), stream_end].into_iter().flatten().min();
        Expiry { deadline, grant: context.grant.clone().filter(Grant::can_end) }
    }

    /// Ends the call when `ending` is reached, unless it ends earlier.
    fn limit(&mut self, request: Request, ending: Ending) -> Request {
        let over = CancellationToken::new();
        self.cut_off = Some(CutOff { reached: Box::pin(ending.reached()), _request: over.clone().drop_guard() });
        request.map(|body| Body::from_stream(body.into_data_stream().take_until(over.cancelled_owned())))
    }

    /// Ends the call with the status in these trailers.
    fn end(mut self, trailers: &HeaderMap) {
        self.code = code(trailers).unwrap_or(Code::Unknown);
    }

    /// Ends the call with `response`: at once if the response is complete, otherwise with the end of its body.
    fn follow(mut self, response: Response) -> Response {
        match code(response.headers()) {
            Some(code) => self.code = code,
            None if self.method.is_unary => {
                self.method.sent(1);
                self.code = Code::Ok;
            }
            None => return response.map(|inner| Body::new(FollowedBody { inner, call: Some(self), missing: 0 })),
        }
        response
    }
}

impl Drop for CallRecord {
    fn drop(&mut self) {
        // A stream that is cut off at its deadline has no status yet.
        let code = match self.code {
            Code::Cancelled if self.deadline.has_passed() => Code::DeadlineExceeded,
            code => code,
        };
        let duration = self.deadline.arrived().elapsed();
        self.method.handled(code, duration);
        if code == Code::PermissionDenied {
            audit::refused(Caller::new(self.caller.as_deref(), self.peer), self.method.full_name());
        }
        if !self.span.is_none() {
            traces::end_call(&self.span, code);
            self.span.in_scope(|| debug!(?code, ?duration, "call"));
        }
    }
}

/// Returns the span of a call. All log lines within the call show the fields of the span. The span is disabled unless
/// debug lines are logged or the call has a trace context, `caller`.
fn span(method: &Method, peer: Option<SocketAddr>, caller: Option<traces::Context>) -> Span {
    if caller.is_none() && !span_enabled!(Level::DEBUG) {
        return Span::none();
    }
    let name = method.full_name();
    let peer = peer.map(display);
    let span =
        error_span!("call", method = name, peer, caller = Empty, job_id = Empty, trace_id = Empty, otel.kind = Empty);
    let (service, method) = method.names();
    traces::begin_call(&span, caller, service, method);
    span
}

pin_project! {
    /// Runs a call, and ends its turn whenever the call waits, for its caller or for the store: meanwhile another call
    /// of the connection may decode or encode a heavy message. Not an async function, because that would move the large
    /// future once more.
    struct WithoutIdleTurn<F> {
        #[pin]
        answer: F,
    }
}

impl<F: Future> Future for WithoutIdleTurn<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let polled = self.project().answer.poll(cx);
        if polled.is_pending() {
            Exchange::end_idle_turn();
        }
        polled
    }
}

pin_project! {
    /// Body of a response stream. It counts the messages that are sent, and ends the record of the call.
    struct FollowedBody {
        #[pin]
        inner: Body,
        call: Option<CallRecord>,
        // Bytes of the last message that have not passed yet.
        missing: usize,
    }
}

impl HttpBody for FollowedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let this = self.project();
        let Some(followed) = this.call.as_mut() else { return Poll::Ready(None) };
        if let Some(cut_off) = &mut followed.cut_off
            && let Poll::Ready(error) = cut_off.reached.as_mut().poll(cx)
        {
            let trailers = trailers(&error.into());
            if let Some(call) = this.call.take() {
                call.end(&trailers);
            }
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        let span = followed.span.clone();
        let frame = ready!(span.in_scope(|| this.inner.poll_frame(cx)));
        if let (Some(Ok(frame)), Some(call)) = (&frame, this.call.as_ref()) {
            if let Some(data) = frame.data_ref() {
                call.method.sent(begun(data, this.missing));
            } else if let (Some(trailers), Some(call)) = (frame.trailers_ref(), this.call.take()) {
                call.end(trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.call.is_none() || self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Returns the number of messages that begin in `data`. The first `missing` bytes belong to the previous message. A
/// message begins with a prefix of five bytes, the compression flag and the length; tonic never splits this prefix.
fn begun(mut data: &[u8], missing: &mut usize) -> u64 {
    let mut messages = 0;
    loop {
        let rest = data.len().min(*missing);
        data.advance(rest);
        *missing -= rest;
        if data.len() < 5 {
            return messages;
        }
        messages += 1;
        data.advance(1);
        *missing = data.get_u32() as usize;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_where_they_begin() {
        let mut missing = 0;
        assert_eq!(begun(&[], &mut missing), 0);
        assert_eq!(begun(&[0, 0, 0, 0, 2, 7, 7, 0, 0, 0, 0, 0], &mut missing), 2);
        assert_eq!((begun(&[0, 0, 0, 0, 4, 7], &mut missing), missing), (1, 3));
        assert_eq!((begun(&[7, 7], &mut missing), missing), (0, 1));
        assert_eq!((begun(&[7, 1, 0, 0, 0, 1, 7], &mut missing), missing), (1, 0));
    }
}
