//! The server's side of an HTTP/2 connection.
//!
//! h2 speaks the protocol. A response is given to it only as fast as its reader takes it, so that at any time the rest
//! can be dropped: a framework that hands over whole messages can't take them back, and a peer that opens no window
//! would keep them in memory for as long as it likes.

mod body;
mod response;

use std::{
    future::poll_fn,
    pin::pin,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use h2::{Ping, PingPong, server::SendResponse};
use http::Request;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{sleep, timeout},
};
use tower::Service as _;
use tracing::debug;

use self::body::RequestBody;
use super::{
    Service,
    exchange::{ClientConnection, Exchange},
};

/// Streams that a peer may have open on a connection.
const MAX_STREAMS: u32 = 1000;

/// Streams that a peer may reset before they are looked at.
const MAX_EARLY_RESETS: usize = 1000;

/// Streams that a peer may have reset by its mistakes.
const MAX_ERROR_RESETS: usize = 1024;

/// Bytes that a peer may send on a stream, and on a connection, before they are read.
const RECEIVE_WINDOW: u32 = 1024 * 1024;

/// Bytes of a response that h2 holds at most.
const MAX_SEND_BUFFER: usize = 64 * 1024;

/// Bytes of a request's metadata, beyond which h2 answers by itself, without a gRPC status.
const MAX_HEADERS: u32 = 64 * 1024;

/// How often a peer is asked for a sign of life.
const PING_INTERVAL: Duration = Duration::from_secs(30);

/// How long it may take to give one.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Serves the calls that come over `io`, until the peer ends or breaks the connection; after its `drain` is cancelled, those
/// that have come by then.
pub async fn serve<T>(io: T, mut service: Service, origin: Arc<ClientConnection>) -> Result<(), h2::Error>
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = h2::server::Builder::new()
        .initial_window_size(RECEIVE_WINDOW)
        .initial_connection_window_size(RECEIVE_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        .max_pending_accept_reset_streams(MAX_EARLY_RESETS)
        .max_local_error_reset_streams(Some(MAX_ERROR_RESETS))
        .max_send_buffer_size(MAX_SEND_BUFFER)
        .max_header_list_size(MAX_HEADERS)
        .handshake(io)
        .await?;
    let mut silent = pin!(silence(connection.ping_pong(), &origin));
    let mut drained = pin!(origin.drain.cancelled());
    let mut is_draining = false;
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
            () = &mut silent => {
                debug!(peer = %origin.address, "a connection was closed: its peer does not answer, or has nothing to say");
                return Ok(());
            }
        }
    }
}

/// Begins the answer to `request`, in a task of its own.
async fn begin(
    service: &mut Service,
    origin: Arc<ClientConnection>,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
) {
    origin.calls.fetch_add(1, Relaxed);
    let Ok(()) = poll_fn(|cx| tower::Service::<Request<RequestBody>>::poll_ready(service, cx)).await;
    let response = service.call(request.map(RequestBody::new));
    tokio::spawn(response::send(Exchange::scope(origin, response), respond));
}

/// Waits until the peer no longer answers, or has said nothing for long and not authenticated before.
async fn silence(pings: Option<PingPong>, origin: &Arc<ClientConnection>) {
    let mut pings = pings.expect("nobody else has taken them");
    let mut calls = 0;
    loop {
        sleep(PING_INTERVAL).await;
        // Each call has the connection in hand, and one more does: who serves it.
        let is_idle = Arc::strong_count(origin) == 1 && origin.calls.load(Relaxed) == calls;
        if is_idle && !origin.newcomer.is_authenticated() {
            return;
        }
        calls = origin.calls.load(Relaxed);
        // That the connection has broken is told elsewhere.
        if timeout(PING_TIMEOUT, pings.ping(Ping::opaque())).await.is_err() {
            return;
        }
    }
}
