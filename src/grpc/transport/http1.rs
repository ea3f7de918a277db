//! The server's side of an HTTP/1.1 connection, for gRPC-Web and the HTTP API.

use std::{
    convert::Infallible,
    io::{self, IoSlice},
    mem::take,
    pin::{Pin, pin},
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::{body::Incoming, server::conn::http1::Builder, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::sleep,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{Status, body::Body};
use tower::ServiceExt;

use super::{client_stream::PREFACE_TIMEOUT, request_service::RequestService};
use crate::grpc::{
    exchange::{ClientConnection, Exchange},
    expiry::Expiry,
};

/// Time in which a response that must end may still end by itself, with a status. Then its connection is closed.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum bytes of a response that are passed to hyper at a time.
const MAX_PART: usize = 16 * 1024;

/// Maximum bytes that hyper buffers, of a request's head and of a response.
const MAX_BUFFER: usize = 64 * 1024;

/// Serves the calls that arrive on `io`, one after the other, until the peer ends or breaks the connection. After
/// `drain` of the connection is cancelled, only the current call is served to its end.
pub async fn serve<T, S>(io: T, service: S, origin: Arc<ClientConnection>) -> Result<(), hyper::Error>
where
    S: RequestService,
    T: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let cut_off = CancellationToken::new();
    let unflushed = Unflushed::default();
    let answer =
        service_fn(|request| answer(service.clone(), origin.clone(), cut_off.clone(), unflushed.clone(), request));
    let mut http = Builder::new();
    http.timer(TokioTimer::new()).header_read_timeout(PREFACE_TIMEOUT).max_buf_size(MAX_BUFFER);
    let mut connection =
        pin!(http.serve_connection(TokioIo::new(Flushed { io, unflushed: unflushed.clone() }), answer));
    let mut drained = pin!(origin.drain.cancelled());
    let mut is_draining = false;
    loop {
        tokio::select! {
            biased;
            ended = &mut connection => return ended,
            () = &mut drained, if !is_draining => {
                connection.as_mut().graceful_shutdown();
                is_draining = true;
            }
            () = cut_off.cancelled() => return Ok(()),
        }
    }
}

/// Answers one request. Cancels `cut_off` if the response must end, and its reader has not read all of it.
async fn answer<S: RequestService>(
    service: S,
    origin: Arc<ClientConnection>,
    cut_off: CancellationToken,
    unflushed: Unflushed,
    request: Request<Incoming>,
) -> Result<Response<Limited>, Infallible> {
    let mut exchange = Box::pin(Exchange::scope(origin, service.oneshot(request.map(Body::new))));
    let response = exchange.as_mut().await?;
    let mut exchange = exchange.as_mut().take_value().expect("it was not taken before");
    let end = take(exchange.expiry());
    let sent = CancellationToken::new();
    if !response.body().is_end_stream() {
        tokio::spawn(sent.clone().run_until_cancelled_owned(end_unread(end, cut_off)));
    }
    let sent = Some(sent.drop_guard());
    Ok(response.map(|inner| Limited { inner, rest: Bytes::new(), exchange, sent, unflushed }))
}

/// Cancels `cut_off` when a response should have ended [`END_TIMEOUT`] ago.
async fn end_unread(end: Expiry, cut_off: CancellationToken) {
    end.reached().await;
    sleep(END_TIMEOUT).await;
    cut_off.cancel();
}

/// Guard of a response that hyper has buffered completely but not written completely. While it exists, the response
/// still has its deadline: a peer that does not read must not keep the connection, however little is left.
#[derive(Clone, Default)]
struct Unflushed(Arc<Mutex<Option<DropGuard>>>);

impl Unflushed {
    fn replace(&self, guard: Option<DropGuard>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = guard;
    }
}

/// A connection that notices when all responses are written: hyper flushes it only then.
struct Flushed<T> {
    io: T,
    unflushed: Unflushed,
}

impl<T: AsyncRead + Unpin> AsyncRead for Flushed<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buffer)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Flushed<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        self.unflushed.replace(None);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Body of a response. A message is passed on in parts: hyper would accept a whole message at once, which would hide
/// that the peer does not read.
struct Limited {
    inner: Body,
    /// Rest of the current frame.
    rest: Bytes,
    exchange: Exchange,
    /// Ends the task that waits for the end of the response.
    sent: Option<DropGuard>,
    unflushed: Unflushed,
}

impl Drop for Limited {
    fn drop(&mut self) {
        self.unflushed.replace(self.sent.take());
    }
}

impl HttpBody for Limited {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if self.rest.is_empty() {
            let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
            // A frame that is passed on in parts stays counted until the last part.
            if !matches!(&frame, Some(Ok(frame)) if frame.data_ref().is_some_and(|data| data.len() > MAX_PART)) {
                self.exchange.release_response();
            }
            match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) if data.len() > MAX_PART => {
                    if let Err(error) = self.exchange.hold_response(data.len()) {
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    self.rest = data;
                }
                Some(Ok(Ok(data))) => return Poll::Ready(Some(Ok(Frame::data(data)))),
                Some(Ok(Err(other))) => return Poll::Ready(Some(Ok(other))),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
        let part = self.rest.len().min(MAX_PART);
        // Copied, because a slice would keep the whole message in memory until hyper has written the slice.
        let part = Bytes::copy_from_slice(&self.rest.split_to(part));
        if self.rest.is_empty() {
            self.rest = Bytes::new();
            self.exchange.release_response();
        }
        Poll::Ready(Some(Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
