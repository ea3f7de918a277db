//! HTTP: metrics and probes on a port of their own, and the HTTP API on the port of gRPC.

pub mod api;
mod scrape;

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::warn;

pub use scrape::MetricsSource;

use crate::{socket::watch_peer, store::StorageMode, telemetry::metrics::TEXT_FORMAT};

/// Maximum duration of a connection, which serves one request: by then a scraper has given up.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time to receive the headers of a request.
const HEADER_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum number of connections that are served concurrently; further ones wait.
const CONNECTIONS_MAX: usize = 256;

/// Pause after a connection could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The phase of the server's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The server does not accept calls yet.
    Starting,
    /// The server accepts calls.
    Serving,
    /// The server accepts no more calls.
    Draining,
}

/// The data that the pages show.
pub struct Pages {
    /// The metrics.
    pub source: MetricsSource,
    /// Phase of the server.
    pub phase: watch::Receiver<Phase>,
}

/// Serves `/metrics`, `/livez` and `/readyz` on `listener`, until the future is dropped.
pub async fn serve(listener: TcpListener, pages: Pages) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get("alive\n"))
        .route("/readyz", get(ready))
        .fallback((StatusCode::NOT_FOUND, "not found: the pages are /metrics, /livez and /readyz\n"))
        .with_state(Arc::new(pages));
    let mut http = Builder::new(TokioExecutor::new()).http1_only();
    http.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).keep_alive(false);
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = slots.clone().acquire_owned().await.expect("it is never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                warn!(%error, "an HTTP connection can't be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        _ = watch_peer(&stream);
        let service = TowerToHyperService::new(router.clone());
        let connection = http.serve_connection(TokioIo::new(stream), service).into_owned();
        connections.spawn(async move {
            // A client that went away or was too slow is not worth a log line.
            _ = timeout(CONNECTION_TIMEOUT, connection).await;
            drop(slot);
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn metrics(State(pages): State<Arc<Pages>>) -> Response {
    match pages.source.scrape().await {
        Ok(text) => ([(CONTENT_TYPE, TEXT_FORMAT), (CACHE_CONTROL, "no-store")], text).into_response(),
        Err(error) => {
            warn!(%error, "the metrics can't be written");
            (StatusCode::INTERNAL_SERVER_ERROR, "the metrics can't be written; the log says why\n").into_response()
        }
    }
}

async fn ready(State(pages): State<Arc<Pages>>) -> (StatusCode, &'static str) {
    match (*pages.phase.borrow(), pages.source.mode()) {
        (Phase::Starting, _) => (StatusCode::SERVICE_UNAVAILABLE, "starting\n"),
        (Phase::Draining, _) => (StatusCode::SERVICE_UNAVAILABLE, "draining: no more calls are accepted\n"),
        (Phase::Serving, StorageMode::Degraded) => {
            (StatusCode::OK, "ready: Redis is unavailable, calls are answered from memory\n")
        }
        (Phase::Serving, StorageMode::Memory | StorageMode::Redis) => (StatusCode::OK, "ready\n"),
    }
}
