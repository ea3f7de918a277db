//! Connections: accepting them, what each may use, and letting them go.

use std::{io, pin::pin, time::Duration};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, warn};

use super::Service;

/// What HTTP/2 clients send first.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may take until it has said which protocol it speaks.
const FIRST_BYTES: Duration = Duration::from_secs(10);

/// How long draining may take; then what is still open is cut off.
const DRAIN_LIMIT: Duration = Duration::from_secs(20);

/// How long to wait where a connection can't be accepted, as when no file descriptor is left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves every connection, each as one of `connections`, until `shutdown` is cancelled and `drained` has told the callers; then lets calls end, for
/// a limited time, and returns when the last connection is closed.
pub async fn serve(
    listener: TcpListener,
    service: Service,
    connections: TaskTracker,
    shutdown: CancellationToken,
    drained: impl Future<Output = ()>,
) {
    let http = http();
    let graceful = GracefulShutdown::new();
    let cut_off = CancellationToken::new();
    let mut stop = pin!(shutdown.cancelled());
    loop {
        let stream = tokio::select! {
            () = &mut stop => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    warn!(%error, "a connection can't be accepted");
                    sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
        };
        let (http, service, watcher) = (http.clone(), service.clone(), graceful.watcher());
        let shutdown = shutdown.clone();
        connections.spawn(cut_off.clone().run_until_cancelled_owned(async move {
            match shutdown.run_until_cancelled(expect_protocol(&stream)).await {
                Some(Ok(())) => {}
                Some(Err(error)) => return debug!(%error, "a connection was closed before it spoke"),
                None => return,
            }
            let service = TowerToHyperService::new(service);
            let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(error, "a connection ended early");
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

/// Waits until the peer has said which protocol it speaks: the whole preface of HTTP/2, or something else.
async fn expect_protocol(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let spoken = async {
        let mut seen = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut seen).await? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n if n == PREFACE.len() || seen[..n] != PREFACE[..n] => return Ok(()),
                // What was peeked at stays readable, so there is no signal for more.
                _ => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    timeout(FIRST_BYTES, spoken).await?
}
