//! Connections: accepts, serves and drains them.

mod batching;
mod client_stream;
mod counted_stream;
mod http1;
mod http2;
mod lazy_writer;
mod other_protocol;
mod request_service;

use std::{future::pending, io, net::SocketAddr, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{
    net::{TcpListener, TcpStream},
    task::yield_now,
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

pub use self::request_service::RequestService;

use self::{batching::batch_writes, client_stream::ClientStream};
use crate::{
    grpc::{
        exchange::ClientConnection,
        unauthenticated::{AuthenticationState, UnauthenticatedConnections},
    },
    quota::{ConnectionUsage, Quotas},
    tls::Tls,
};

/// Maximum duration of draining. Calls that are still open then are cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// Pause after a connection could not be accepted, for example because no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Minimum interval between log lines about the maximum number of connections, and about clients of another protocol.
const LINE_INTERVAL: Duration = Duration::from_secs(60);

/// Accepts and serves connections within `quotas`, with TLS if `tls` is given, each as a task of `connections`. After
/// `shutdown` is cancelled no more connections are accepted. When `drained` has completed, open calls have 20 seconds
/// to end. Returns when the last connection is closed.
pub async fn serve<S: RequestService>(
    listener: TcpListener,
    tls: Option<Tls>,
    service: S,
    connections: TaskTracker,
    quotas: Arc<Quotas>,
    shutdown: CancellationToken,
    drained: impl Future<Output = ()>,
) {
    let cut_off = CancellationToken::new();
    let acceptor = Acceptor::new(tls, service, quotas, shutdown);
    while let Some((stream, address)) = acceptor.shutdown.run_until_cancelled(accept(&listener)).await {
        if !acceptor.admit(&connections).await {
            debug!(peer = %address, "connection rejected: --max-connections reached");
            continue;
        }
        let authentication = acceptor.unauthenticated.register();
        let closed = authentication.closed().clone();
        // Boxed, because each of the two wrappers below would otherwise reserve room for the whole future twice.
        let connection = Box::pin(acceptor.clone().serve_one(stream, address, authentication));
        let connection = cut_off.clone().run_until_cancelled_owned(connection);
        connections.spawn(closed.run_until_cancelled_owned(connection));
    }
    drop(listener);
    connections.close();
    drained.await;
    acceptor.drain.cancel();
    tokio::select! {
        () = connections.wait() => {}
        () = sleep(DRAIN_LIMIT) => {
            warn!(open = connections.len(), "drain timed out: closing connections with open calls");
            cut_off.cancel();
            connections.wait().await;
        }
    }
}

/// Accepts the next connection. Waits while none can be accepted.
async fn accept(listener: &TcpListener) -> (TcpStream, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => warn!(%error, "connection not accepted"),
        }
        sleep(ACCEPT_PAUSE).await;
    }
}

/// State with which each connection is accepted and served.
#[derive(Clone)]
struct Acceptor<S> {
    tls: Option<Tls>,
    service: S,
    quotas: Arc<Quotas>,
    unauthenticated: UnauthenticatedConnections,
    /// Limits the log lines about the maximum number of connections.
    full_lines: Arc<DefaultDirectRateLimiter>,
    /// Limits the log lines about clients that speak another protocol.
    protocol_lines: Arc<DefaultDirectRateLimiter>,
    /// Cancelled when the server stops: connections whose first bytes have not arrived are closed.
    shutdown: CancellationToken,
    /// Cancelled when connections accept no more calls.
    drain: CancellationToken,
}

impl<S: RequestService> Acceptor<S> {
    fn new(tls: Option<Tls>, service: S, quotas: Arc<Quotas>, shutdown: CancellationToken) -> Self {
        let lines = || {
            let quota = Quota::with_period(LINE_INTERVAL).expect("it is not zero");
            Arc::new(RateLimiter::direct(quota))
        };
        let (full_lines, protocol_lines) = (lines(), lines());
        let (unauthenticated, drain) = (UnauthenticatedConnections::default(), CancellationToken::new());
        Self { tls, service, quotas, unauthenticated, full_lines, protocol_lines, shutdown, drain }
    }

    /// Admits a connection besides the open `connections`. At the maximum, the oldest unauthenticated connection is
    /// closed first, so that silent peers do not keep callers out. Returns whether the connection is admitted.
    async fn admit(&self, connections: &TaskTracker) -> bool {
        let open = connections.len();
        if !self.quotas.allows_connection(open) {
            self.log_full(open);
            if !self.unauthenticated.close_oldest() {
                return false;
            }
        } else if self.quotas.allows_unauthenticated(self.unauthenticated.count())
            || !self.unauthenticated.close_oldest()
        {
            return true;
        }
        // The closed connection keeps its file descriptor until its task ends, which happens as soon as the task runs.
        // Without waiting, connections that arrive quickly would use up all file descriptors.
        while connections.len() >= open {
            yield_now().await;
        }
        true
    }

    /// Logs that the maximum number of connections is open, at a limited rate.
    fn log_full(&self, open: usize) {
        if self.full_lines.check().is_ok() {
            warn!(open, "maximum number of connections open: --max-connections or the limit of open files is reached");
        }
    }

    /// Serves a connection to its end.
    async fn serve_one(self, stream: TcpStream, address: SocketAddr, authentication: AuthenticationState) {
        let tls = self.tls.as_ref();
        // Boxed, so that the memory of the handshake is free after it.
        let stream = match self.shutdown.run_until_cancelled(Box::pin(ClientStream::open(stream, tls))).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) if error.kind() == io::ErrorKind::Unsupported && self.protocol_lines.check().is_ok() => {
                return warn!(peer = %address, %error, "connection closed: the client uses another protocol");
            }
            Some(Err(error)) => return debug!(peer = %address, %error, "connection closed before its first bytes"),
            None => return,
        };
        let (peer, check) = stream.peer(tls).unzip();
        if peer.is_some() {
            authentication.mark_authenticated();
        }
        let (calls, usage) = (0.into(), ConnectionUsage::default());
        let (drain, quotas) = (self.drain.child_token(), self.quotas.clone());
        let turn = ClientConnection::turns();
        let origin = Arc::new(ClientConnection { address, peer, calls, usage, authentication, drain, quotas, turn });
        let connection = serve_calls(stream, self.service, origin);
        let check = async {
            if let Some(check) = check {
                check.await;
            }
            // Never ends the connection: when the certificate is no longer valid, calls are refused, and the connection
            // stays open so that callers receive the refusals.
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            ended = connection => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(peer = %address, error, "connection ended early"),
                Err(error) => debug!(peer = %address, %error, "connection broke"),
            },
            () = check => {}
        }
    }
}

/// Serves the calls of a connection, in the version of HTTP that the client speaks. Not itself `async`, because its
/// future would reserve room for `stream` twice.
fn serve_calls<S: RequestService>(
    stream: ClientStream,
    service: S,
    origin: Arc<ClientConnection>,
) -> impl Future<Output = io::Result<Result<(), String>>> {
    let is_http2 = stream.is_http2();
    batch_writes(stream, origin.may_batch(), move |stream| async move {
        if is_http2 {
            http2::serve(stream, service, origin).await.map_err(|error| error.to_string())
        } else {
            // Boxed, so that connections of HTTP/2 reserve no room for it.
            Box::pin(http1::serve(stream, service, origin)).await.map_err(|error| error.to_string())
        }
    })
}
