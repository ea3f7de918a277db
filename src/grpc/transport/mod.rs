//! Connections: accepting them, what each may use, and letting them go.

mod batching;
mod client_stream;
mod http1;
mod http2;

use std::{future::pending, net::SocketAddr, pin::pin, sync::Arc, time::Duration};

use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use self::{batching::batch_writes, client_stream::ClientStream};
use crate::{
    grpc::{
        exchange::ClientConnection,
        middleware::Stack,
        unauthenticated::{AuthenticationState, UnauthenticatedConnections},
    },
    limits::{Connection, Limits},
    tls::Tls,
};

/// How long draining may take; then what is still open is cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait where a connection can't be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often the log says that there are as many connections as may be.
const FULL_INTERVAL: Duration = Duration::from_secs(60);

/// Serves every connection that `limits` allow, under `tls` if there is one and each as one of `connections`, until
/// `shutdown` is cancelled and `drained` has told the callers; then lets calls end, for a limited time, and returns when
/// the last connection is closed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    service: Stack,
    connections: TaskTracker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    drained: impl Future<Output = ()>,
) {
    let cut_off = CancellationToken::new();
    let drain = CancellationToken::new();
    let full_lines = Quota::with_period(FULL_INTERVAL).expect("it is not zero");
    let full_lines = Arc::new(RateLimiter::direct(full_lines));
    let acceptor = Acceptor {
        tls,
        service,
        limits,
        unauthenticated: UnauthenticatedConnections::default(),
        full_lines,
        shutdown,
        drain,
    };
    let mut stop = pin!(acceptor.shutdown.cancelled());
    loop {
        let (stream, address) = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        if !acceptor.makes_room(connections.len()) {
            debug!(peer = %address, "connection rejected: --max-connections reached");
            continue;
        }
        let authentication = acceptor.unauthenticated.register();
        let closed = authentication.closed().clone();
        let connection = acceptor.clone().serve_one(stream, address, authentication);
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
            warn!(open = connections.len(), "cutting off what has not ended in time");
            cut_off.cancel();
            connections.wait().await;
        }
    }
}

/// What each connection is served with.
#[derive(Clone)]
struct Acceptor {
    tls: Option<Tls>,
    service: Stack,
    limits: Arc<Limits>,
    unauthenticated: UnauthenticatedConnections,
    /// How often the log says that there are as many connections as may be.
    full_lines: Arc<DefaultDirectRateLimiter>,
    /// A connection that has not said which protocol it speaks is not waited for.
    shutdown: CancellationToken,
    /// Connections take no more calls.
    drain: CancellationToken,
}

impl Acceptor {
    /// Sees to it that a connection may be opened besides `open` others: where there are as many as may be, the oldest on
    /// which nobody has authenticated gives way, so that silent peers keep nobody out. Returns whether one may be opened.
    fn makes_room(&self, open: usize) -> bool {
        if !self.limits.allows_connection(open) {
            self.tell_full(open);
            return self.unauthenticated.close_oldest();
        }
        if !self.limits.allows_unauthenticated(self.unauthenticated.count()) {
            self.unauthenticated.close_oldest();
        }
        true
    }

    /// Tells the log that there are as many connections as may be, once in a while.
    fn tell_full(&self, open: usize) {
        if self.full_lines.check().is_ok() {
            warn!(
                open,
                "as many connections as may be are open: --max-connections, or the limit of open files, is reached"
            );
        }
    }

    /// Serves a connection to its end.
    async fn serve_one(self, stream: TcpStream, address: SocketAddr, authentication: AuthenticationState) {
        let tls = self.tls.as_ref();
        let stream = match self.shutdown.run_until_cancelled(ClientStream::open(stream, tls)).await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => return debug!(peer = %address, %error, "a connection was closed before it spoke"),
            None => return,
        };
        let (peer, check) = stream.peer(tls).unzip();
        if peer.is_some() {
            authentication.mark_authenticated();
        }
        let (calls, watches) = (0.into(), Connection::default());
        let (drain, limits) = (self.drain.child_token(), self.limits.clone());
        let turn = ClientConnection::turns();
        let origin = Arc::new(ClientConnection { address, peer, calls, watches, authentication, drain, limits, turn });
        let (service, is_http2) = (self.service, stream.is_http2());
        let connection = batch_writes(stream, |stream| async move {
            if is_http2 {
                http2::serve(stream, service, origin).await.map_err(|error| error.to_string())
            } else {
                http1::serve(stream, service, origin).await.map_err(|error| error.to_string())
            }
        });
        let check = async {
            if let Some(check) = check {
                check.await;
            }
            // Calls are told what has become of the certificate.
            pending::<()>().await;
        };
        tokio::select! {
            biased;
            ended = connection => match ended {
                Ok(Ok(())) => {}
                Ok(Err(error)) => debug!(peer = %address, error, "a connection ended early"),
                Err(error) => debug!(peer = %address, %error, "a connection broke"),
            },
            () = check => {}
        }
    }
}
