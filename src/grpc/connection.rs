//! Connections: accepting them, what each may use, and letting them go.

use std::{future::pending, pin::pin, sync::Arc, time::Duration};

use http::Request;
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::TcpListener, time::sleep};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt;
use tracing::{debug, warn};

use super::{
    Service,
    context::PeerAddress,
    gather::gather,
    link::{FIRST_BYTES, Link},
};
use crate::{limits::Limits, tls::Tls};

/// How long draining may take; then what is still open is cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait where a connection can't be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves every connection that `limits` allow, under `tls` if there is one and each as one of `connections`, until
/// `shutdown` is cancelled and `drained` has told the callers; then lets calls end, for a limited time, and returns when
/// the last connection is closed.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    service: Service,
    connections: TaskTracker,
    limits: Arc<Limits>,
    shutdown: CancellationToken,
    drained: impl Future<Output = ()>,
) {
    let http = http();
    let graceful = GracefulShutdown::new();
    let cut_off = CancellationToken::new();
    let mut stop = pin!(shutdown.cancelled());
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
        if !limits.allows_connection(connections.len()) {
            debug!(peer = %address, "connection rejected: --max-connections reached");
            continue;
        }
        let (http, service, watcher) = (http.clone(), service.clone(), graceful.watcher());
        let (shutdown, tls, count) = (shutdown.clone(), tls.clone(), limits.connection());
        connections.spawn(cut_off.clone().run_until_cancelled_owned(async move {
            let link = match shutdown.run_until_cancelled(Link::open(stream, tls.as_ref())).await {
                Some(Ok(link)) => link,
                Some(Err(error)) => return debug!(peer = %address, %error, "a connection was closed before it spoke"),
                None => return,
            };
            let (peer, check) = link.peer(tls.as_ref()).unzip();
            let service = TowerToHyperService::new(service.map_request(move |mut request: Request<Incoming>| {
                request.extensions_mut().insert(PeerAddress(address));
                peer.clone().map(|peer| request.extensions_mut().insert(peer));
                count.clone().map(|count| request.extensions_mut().insert(count));
                request
            }));
            let connection =
                gather(link, |link| watcher.watch(http.serve_connection(TokioIo::new(link), service).into_owned()));
            let check = async {
                if let Some(check) = check {
                    check.await;
                }
                pending::<()>().await;
            };
            tokio::select! {
                biased;
                ended = connection => {
                    match ended {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => debug!(peer = %address, error, "a connection ended early"),
                        Err(error) => debug!(peer = %address, %error, "a connection broke"),
                    }
                }
                () = check => {}
            }
        }));
    }
    drop(listener);
    connections.close();
    drained.await;
    tokio::select! {
        () = async { graceful.shutdown().await; connections.wait().await } => {}
        () = sleep(DRAIN_LIMIT) => {
            warn!(open = connections.len(), "cutting off what has not ended in time");
            cut_off.cancel();
            connections.wait().await;
        }
    }
}

/// Limits that hold for every connection.
fn http() -> Builder<TokioExecutor> {
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(FIRST_BYTES);
    http.http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(1000)
        .max_pending_accept_reset_streams(1000)
        .max_local_error_reset_streams(1024)
        .max_send_buf_size(64 * 1024)
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(10));
    http
}
