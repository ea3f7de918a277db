//! The composition root: puts a server together, runs it, and takes it down in order.

use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    clock::{Clock, SystemClock},
    config::Config,
    grpc::{self, Face},
    store::MemoryStore,
    tracker::Tracker,
    watch::Hub,
};

/// Serves on `listener` until `shutdown` ends, then drains: health says `NOT_SERVING`, streams end, calls that are under
/// way may end for 20 seconds. Everything that was started has ended when it returns.
pub async fn run(config: &Config, listener: TcpListener, shutdown: impl Future<Output = ()>) {
    run_with_clock(config, listener, shutdown, Arc::new(SystemClock)).await;
}

/// The same, on another clock.
pub async fn run_with_clock(
    config: &Config,
    listener: TcpListener,
    shutdown: impl Future<Output = ()>,
    clock: Arc<dyn Clock>,
) {
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(config.max_memory_jobs, hub.clone()));
    let tracker = Arc::new(Tracker::new(store, hub.clone(), clock, config.retention()));
    let face = Face::new(tracker.clone()).await;

    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move { hub.dispatch().await }));
    tasks.spawn(stop.clone().run_until_cancelled_owned(async move { tracker.sweep().await }));

    let draining = CancellationToken::new();
    let drained = async {
        info!("draining");
        face.drain().await;
    };
    tokio::join!(grpc::serve(listener, face.service.clone(), draining.clone(), drained), async {
        shutdown.await;
        draining.cancel();
    });

    stop.cancel();
    tasks.close();
    tasks.wait().await;
    info!("stopped");
}
