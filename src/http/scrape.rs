//! The answer to a scrape: the collected metrics, and the current statistics.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    domain::State,
    store::{RedisStats, StorageMode},
    telemetry::{
        log::dropped_lines,
        metrics::Measured,
        registry::{Registry, Snapshot},
    },
    tls::Tls,
    tracker::{Tracker, TrackerStats},
};

/// Maximum time to read the statistics; without them a scrape has the other metrics.
const STATS_TIMEOUT: Duration = Duration::from_secs(1);

/// Minimum interval between reads of the statistics, which query Redis, however many scrapes there are.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// The source of the metrics.
pub struct MetricsSource {
    registry: Registry,
    tracker: Arc<Tracker>,
    connections: TaskTracker,
    tls: Option<Tls>,
    /// Time of the last read of the statistics, and its result if it succeeded. The lock is held during a read, so that
    /// concurrent scrapes share one read.
    stats: Mutex<Option<(Instant, Option<TrackerStats>)>>,
}

impl MetricsSource {
    /// Creates a source of the metrics of `measured`, `tracker`, the open `connections` and the certificate of `tls`.
    pub fn new(measured: &[&dyn Measured], tracker: Arc<Tracker>, connections: TaskTracker, tls: Option<Tls>) -> Self {
        Self { registry: Registry::of(measured), tracker, connections, tls, stats: Mutex::default() }
    }

    /// Returns the current storage mode.
    pub fn mode(&self) -> StorageMode {
        *self.tracker.mode().borrow()
    }

    /// Returns the metrics in the text format of Prometheus. Metrics whose values are unknown now are left out.
    pub async fn scrape(&self) -> anyhow::Result<String> {
        let mut now = Snapshot::default();
        now.gauge_of(
            "jobtrack_build_info",
            "Always 1; the label has the version.",
            "version",
            [(env!("CARGO_PKG_VERSION"), 1)],
        );
        let lost = "Log lines that were dropped because standard error was not read fast enough.";
        now.counter("jobtrack_log_lines_lost_total", lost, dropped_lines());
        now.gauge("jobtrack_connections", "Connections that are open.", self.connections.len());
        if let Some(left) = self.tls.as_ref().and_then(Tls::seconds_left) {
            let help = "Time until the server's certificate expires; negative after that.";
            now.gauge("jobtrack_tls_certificate_remaining_seconds", help, left);
        }
        let watches = self.tracker.quotas().health_watches();
        now.gauge("jobtrack_health_watches", "Open watches of health, which need no credentials.", watches);
        let mode = self.mode();
        let modes =
            [("memory", StorageMode::Memory), ("redis", StorageMode::Redis), ("degraded", StorageMode::Degraded)];
        let modes = modes.map(|(name, other)| (name, u8::from(mode == other)));
        now.gauge_of(
            "jobtrack_storage_mode",
            "Storage of jobs: 1 for the current mode, 0 for the others.",
            "mode",
            modes,
        );
        let mut stats = self.stats.lock().await;
        if stats.as_ref().is_none_or(|(read, _)| read.elapsed() >= STATS_INTERVAL) {
            let read = timeout(STATS_TIMEOUT, self.tracker.stats()).await;
            *stats = Some((Instant::now(), read.ok().and_then(Result::ok)));
        }
        if let Some((_, Some(stats))) = &*stats {
            add_stats(&mut now, stats);
        }
        drop(stats);
        self.registry.text(&now)
    }
}

fn add_stats(now: &mut Snapshot, stats: &TrackerStats) {
    now.gauge("jobtrack_uptime_seconds", "Time since the start.", stats.uptime.as_secs_f64());
    now.gauge("jobtrack_watches", "Open streams of WatchJob and WatchJobs.", stats.watchers);
    let help = "Bytes of requests, and of answers that are large or wait for their readers, in memory.";
    now.gauge("jobtrack_calls_held_bytes", help, stats.call_bytes);
    let store = &stats.store;
    now.gauge("jobtrack_jobs_held", "Jobs that this process holds in memory.", store.held);
    let help = "Estimated size of the jobs and tombstones in memory, in bytes.";
    now.gauge("jobtrack_jobs_held_bytes", help, store.bytes);
    if let Some(counts) = store.counts {
        let counts = State::ALL.iter().zip(counts).map(|(state, count)| (state.name(), count));
        let help = "Jobs by state in Redis, or in memory while Redis is unavailable; absent while unknown.";
        now.gauge_of("jobtrack_jobs", help, "state", counts);
    }
    if let Some(cache) = store.cache {
        let reads = [("hit", cache.hits), ("miss", cache.misses), ("error", cache.errors)];
        let help = "Reads of jobs: answered from memory, by Redis, or not at all.";
        now.counter_of("jobtrack_cache_reads_total", help, "result", reads);
        now.gauge(
            "jobtrack_dirty_jobs",
            "Jobs whose changes were accepted here and are not in Redis yet.",
            store.dirty,
        );
    }
    if let Some(redis) = &store.redis {
        add_redis(now, redis);
    }
}

fn add_redis(now: &mut Snapshot, redis: &RedisStats) {
    now.gauge("jobtrack_redis_up", "1 if Redis answers, otherwise 0.", u8::from(redis.ping.is_some()));
    if let Some(ping) = redis.ping {
        now.gauge("jobtrack_redis_ping_seconds", "Round-trip time of a ping of Redis.", ping.as_secs_f64());
    }
    let help = "Connections to Redis that carry calls, by whether they carry commands now.";
    let connections = [("in_use", redis.in_use), ("idle", redis.idle)];
    now.gauge_of("jobtrack_redis_pool_connections", help, "state", connections);
    now.gauge("jobtrack_redis_pool_waiting", "Callers that wait for a connection to Redis.", redis.waiting);
}
