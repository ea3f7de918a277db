//! The server's side of an HTTP/2 connection.
//!
//! The crate h2 implements the protocol. A response is passed to h2 only as fast as the peer's flow-control window
//! allows, so that the rest can be dropped at any time. A framework that passes on whole messages can't take them back:
//! a peer that opens no window would keep them in memory for as long as it likes.

mod body;
mod response;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::OptionFuture;
use h2::{Ping, PingPong, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tonic::body::Body;
use tracing::debug;

use self::{body::RequestBody, response::SEND_BUFFER_MAX};
use crate::grpc::{
    exchange::{ClientConnection, Exchange},
    transport::request_service::RequestService,
};

/// Maximum open streams of a connection.
const MAX_STREAMS: u32 = 1000;

/// Maximum number of streams that the peer has reset before they were accepted.
const MAX_EARLY_RESETS: usize = 1000;

/// Maximum number of streams that are reset because of errors of the peer.
const MAX_ERROR_RESETS: usize = 1024;

/// Bytes that a peer may send on a stream before they are read: the window of flow control.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// Bytes that a peer may send on a connection before they are read. More than the window of a stream, so that a stream
/// that is not read does not block the others.
const RECEIVE_WINDOW_IN_ALL: u32 = 4 * RECEIVE_WINDOW;

/// Maximum bytes of a request's headers that h2 passes on; it answers larger ones with 431, without a gRPC status. The
/// middleware rejects less already, with a status.
const MAX_HEADERS: u32 = 64 * 1024;

/// Interval between PINGs.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// Maximum time until a PING is answered. On a slow link the answer waits behind all data that is in flight.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Maximum duration of the graceful end of an idle connection.
const IDLE_END_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the calls on `io` until the peer ends or breaks the connection. After `drain` of the connection is cancelled,
/// no more calls are accepted, and open calls are served to their end.
pub async fn serve<T, S>(io: T, mut service: S, origin: Arc<ClientConnection>) -> Result<(), h2::Error>
where
    S: RequestService,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = builder().handshake(io).await?;
    let mut silent = pin!(silence(connection.ping_pong(), &origin));
    let mut drained = pin!(origin.drain.cancelled());
    let (mut is_draining, mut is_watched) = (false, true);
    let mut idle_end = pin!(OptionFuture::default());
    loop {
        tokio::select! {
            biased;
            accepted = connection.accept() => match accepted.transpose()? {
                Some((request, respond)) => begin(&mut service, origin.clone(), request, respond).await,
                None => return Ok(()),
            },
            () = &mut drained, if !is_draining => {
                connection.graceful_shutdown();
                is_draining = true;
            }
            silence = &mut silent, if is_watched => match silence {
                Silence::Dead => {
                    debug!(peer = %origin.address, "connection closed: the peer answered no PING");
                    return Ok(());
                }
                // Sends GOAWAY first, so that a call that is in flight is not lost.
                Silence::Idle => {
                    debug!(peer = %origin.address, "idle connection closed");
                    connection.graceful_shutdown();
                    (is_draining, is_watched) = (true, false);
                    idle_end.set(Some(sleep(IDLE_END_TIMEOUT)).into());
                }
            },
            Some(()) = &mut idle_end => return Ok(()),
        }
    }
}

/// Returns the builder of connections, with all limits set.
fn builder() -> h2::server::Builder {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW_IN_ALL)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_EARLY_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_send_buffer_size(SEND_BUFFER_MAX)
        .max_header_list_size(MAX_HEADERS);
    builder
}

/// Spawns a task that answers `request`.
async fn begin<S: RequestService>(
    service: &mut S,
    origin: Arc<ClientConnection>,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) {
    origin.calls.fetch_add(1, Relaxed);
    let Ok(()) = poll_fn(|cx| service.poll_ready(cx)).await;
    let response = service.call(request.map(|stream| Body::new(RequestBody::new(stream))));
    tokio::spawn(response::send(Exchange::scope(origin, response), respond));
}

/// A reason to close a connection.
enum Silence {
    /// The peer answered no PING in time.
    Dead,
    /// No caller has authenticated, and there was no call for two intervals.
    Idle,
}

/// Waits until the peer answers no PING, or until a connection without an authenticated caller was idle for two
/// intervals.
async fn silence(pings: Option<PingPong>, origin: &Arc<ClientConnection>) -> Silence {
    let mut pings = pings.expect("they are taken only here");
    let (mut calls, mut idle_intervals) = (0, 0);
    loop {
        sleep(PING_INTERVAL).await;
        // The task that serves the connection has one reference to it, and each open call has another.
        let is_idle = Arc::strong_count(origin) == 1 && origin.calls.load(Relaxed) == calls;
        idle_intervals = if is_idle && !origin.authentication.is_authenticated() { idle_intervals + 1 } else { 0 };
        if idle_intervals == 2 {
            return Silence::Idle;
        }
        calls = origin.calls.load(Relaxed);
        // An error means that the connection broke, which `accept` reports as well.
        if timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await.is_err() {
            return Silence::Dead;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::Response;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
        sync::{Semaphore, mpsc},
    };
    use tower::service_fn;

    use super::*;
    use crate::{domain::Identity, quota::Quotas};

    const DATA: u8 = 0;
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const SETTINGS: u8 = 4;
    const GOAWAY: u8 = 7;
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    /// A POST to `http:///`, as three indexed fields of HPACK.
    const POST: [u8; 3] = [0x83, 0x86, 0x84];

    async fn write_frame(to: &mut DuplexStream, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).expect("a short frame").to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        to.write_all(&[&head, payload].concat()).await.expect("the connection is open");
    }

    /// Returns the kind of the next frame, and its stream.
    async fn read_frame(from: &mut DuplexStream) -> (u8, u32) {
        let mut head = [0; 9];
        from.read_exact(&mut head).await.expect("the connection is open");
        let [_, a, b, kind, _, stream @ ..] = head;
        from.read_exact(&mut vec![0; u16::from_be_bytes([a, b]).into()]).await.expect("a frame");
        (kind, u32::from_be_bytes(stream))
    }

    #[tokio::test]
    async fn several_calls_or_a_watch_may_have_several_writes_at_a_time() {
        let (ours, mut theirs) = duplex(1 << 16);
        let (begun, mut begins) = mpsc::unbounded_channel();
        let may_end = Arc::new(Semaphore::new(0));
        let permits = may_end.clone();
        let answer = move |_| {
            begun.send(()).expect("the test waits for it");
            let permits = permits.clone();
            async move {
                permits.acquire().await.expect("it is never closed").forget();
                Ok::<_, Infallible>(Response::new(Body::empty()))
            }
        };
        let origin = Arc::new(ClientConnection::of_test(Quotas::default()));
        let (may_batch, usage, quotas) = (origin.may_batch(), origin.usage.clone(), origin.quotas.clone());
        tokio::spawn(serve(ours, service_fn(answer), origin));
        theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it listens");
        write_frame(&mut theirs, SETTINGS, 0, 0, &[]).await;
        assert!(!may_batch());
        for (stream, several) in [(1, false), (3, true)] {
            write_frame(&mut theirs, HEADERS, END_HEADERS | END_STREAM, stream, &POST).await;
            begins.recv().await.expect("the call begins");
            assert_eq!(may_batch(), several, "after stream {stream}");
        }
        may_end.add_permits(1);
        while read_frame(&mut theirs).await.0 != HEADERS {}
        assert!(!may_batch(), "one call has ended");
        let watch = quotas.watch(&Arc::new(Identity::stranger("a")), 1, Some(&usage)).expect("its first watch");
        assert!(may_batch());
        drop(watch);
        assert!(!may_batch());
    }

    #[tokio::test]
    async fn bodies_that_arrive_after_their_responses_do_not_end_the_connection() {
        let (ours, mut theirs) = duplex(1 << 16);
        let answer = |_| async { Ok::<_, Infallible>(Response::new(Body::empty())) };
        let origin = Arc::new(ClientConnection::of_test(Quotas::default()));
        tokio::spawn(serve(ours, service_fn(answer), origin));
        theirs.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("it listens");
        write_frame(&mut theirs, SETTINGS, 0, 0, &[]).await;
        for request in 0..2 * u32::try_from(MAX_ERROR_RESETS).expect("a small number") {
            let id = 2 * request + 1;
            write_frame(&mut theirs, HEADERS, END_HEADERS, id, &POST).await;
            loop {
                let (kind, stream) = read_frame(&mut theirs).await;
                assert_ne!(kind, GOAWAY, "after {request} requests");
                if stream == id && kind == HEADERS {
                    break;
                }
                assert_ne!((kind, stream), (RST_STREAM, id), "the rest of the request is read");
            }
            write_frame(&mut theirs, DATA, END_STREAM, id, b"late").await;
        }
    }
}
