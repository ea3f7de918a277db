//! What one scrape tells: the metrics that were gathered, and how the server is at this moment.

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
        log::lost_lines,
        metrics::Measured,
        registry::{Registry, Snapshot},
    },
    tls::Tls,
    tracker::{Tracker, TrackerStats},
};

/// How long the statistics may take; without them the rest is told.
const PATIENCE: Duration = Duration::from_secs(1);

/// Minimum interval between two reads of the statistics, which ask Redis for its counts, however many scrape.
const STATS_INTERVAL: Duration = Duration::from_secs(1);

/// Where the metrics come from.
pub struct Source {
    registry: Registry,
    tracker: Arc<Tracker>,
    connections: TaskTracker,
    tls: Option<Tls>,
    /// The statistics of the last read, if it succeeded, and its time. Held over the next read, so that scrapes that
    /// come together share it.
    stats: Mutex<Option<(Instant, Option<TrackerStats>)>>,
}

impl Source {
    /// The metrics of all of `measured`, and those of `tracker`, the open `connections` and the certificate of `tls`.
    pub fn new(measured: &[&dyn Measured], tracker: Arc<Tracker>, connections: TaskTracker, tls: Option<Tls>) -> Self {
        Self { registry: Registry::of(measured), tracker, connections, tls, stats: Mutex::default() }
    }

    /// Where jobs are kept at the moment.
    pub fn mode(&self) -> StorageMode {
        *self.tracker.mode().borrow()
    }

    /// The metrics as Prometheus reads them. What can't be told now is left out.
    pub async fn scrape(&self) -> anyhow::Result<String> {
        let mut now = Snapshot::default();
        now.gauge_of(
            "jobtrack_build_info",
            "Always 1; tells the version.",
            "version",
            [(env!("CARGO_PKG_VERSION"), 1)],
        );
        let lost = "Log lines that were lost because standard error was not read fast enough.";
        now.counter("jobtrack_log_lines_lost_total", lost, lost_lines());
        now.gauge("jobtrack_connections", "Connections that are open.", self.connections.len());
        if let Some(left) = self.tls.as_ref().and_then(Tls::seconds_left) {
            let help = "Time until the server's certificate expires; negative since it has.";
            now.gauge("jobtrack_tls_certificate_remaining_seconds", help, left);
        }
        let watches = self.tracker.limits().health_watches();
        now.gauge("jobtrack_health_watches", "Open watches of health, which need no credentials.", watches);
        let mode = self.mode();
        let modes =
            [("memory", StorageMode::Memory), ("redis", StorageMode::Redis), ("degraded", StorageMode::Degraded)];
        let modes = modes.map(|(name, other)| (name, u8::from(mode == other)));
        now.gauge_of("jobtrack_storage_mode", "Where jobs are kept: 1 for the present mode.", "mode", modes);
        let mut stats = self.stats.lock().await;
        if stats.as_ref().is_none_or(|(read, _)| read.elapsed() >= STATS_INTERVAL) {
            let read = timeout(PATIENCE, self.tracker.stats()).await;
            *stats = Some((Instant::now(), read.ok().and_then(Result::ok)));
        }
        if let Some((_, Some(stats))) = &*stats {
            tell(&mut now, stats);
        }
        drop(stats);
        self.registry.text(&now)
    }
}

fn tell(now: &mut Snapshot, stats: &TrackerStats) {
    now.gauge("jobtrack_uptime_seconds", "Time since the start.", stats.uptime.as_secs_f64());
    now.gauge("jobtrack_watches", "Open streams of WatchJob and WatchJobs.", stats.watchers);
    let help = "Bytes of requests and of answers that callers are slow to read, in memory.";
    now.gauge("jobtrack_calls_held_bytes", help, stats.call_bytes);
    let store = &stats.store;
    now.gauge("jobtrack_jobs_held", "Jobs that this process holds in memory.", store.held);
    let help = "Estimated size of these jobs and of the tombstones in memory, in bytes.";
    now.gauge("jobtrack_jobs_held_bytes", help, store.bytes);
    if let Some(counts) = store.counts {
        let counts = State::ALL.iter().zip(counts).map(|(state, count)| (state.name(), count));
        let help = "Jobs by state in the store of record, or held here while Redis is away; absent while not known.";
        now.gauge_of("jobtrack_jobs", help, "state", counts);
    }
    if let Some(cache) = store.cache {
        let reads = [("hit", cache.hits), ("miss", cache.misses), ("error", cache.errors)];
        let help = "Reads of jobs: answered from memory, by Redis, or not at all.";
        now.counter_of("jobtrack_cache_reads_total", help, "result", reads);
        now.gauge("jobtrack_dirty_jobs", "Jobs that were accepted here and that Redis does not have yet.", store.dirty);
    }
    if let Some(redis) = &store.redis {
        tell_redis(now, redis);
    }
}

fn tell_redis(now: &mut Snapshot, redis: &RedisStats) {
    now.gauge("jobtrack_redis_up", "Whether Redis answers.", u8::from(redis.ping.is_some()));
    if let Some(ping) = redis.ping {
        now.gauge("jobtrack_redis_ping_seconds", "How long an answer of Redis takes.", ping.as_secs_f64());
    }
    let help = "Connections to Redis that carry calls, by whether they carry commands now.";
    let connections = [("in_use", redis.in_use), ("idle", redis.idle)];
    now.gauge_of("jobtrack_redis_pool_connections", help, "state", connections);
    now.gauge("jobtrack_redis_pool_waiting", "Callers that wait for a connection to Redis.", redis.waiting);
}
