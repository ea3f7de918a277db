//! The composition root: puts a server together, runs it, and takes it down in order.

use std::{sync::Arc, time::Duration};

use anyhow::{Error, Result};
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    auth::Authenticator,
    clock::{Clock, SteadyClock, SteeredClock, SystemClock},
    config::{Config, SecurityConfig},
    files::room_for_connections,
    grpc::{self, GrpcServer},
    http::{self, Pages, Phase, Source},
    limits::Limits,
    reload::{Refresh, follow},
    store::{FallbackStore, LocalCache, MemoryStore, Presence, RedisStore, redis::Options},
    telemetry::metrics::Measured,
    tls::Tls,
    tracker::Tracker,
    watch::Hub,
};

/// How long a stop may take from the signal on; connections are drained before.
const STOP_TIMEOUT: Duration = Duration::from_secs(24);

/// How long changes are pushed to Redis at least, however long the connections took.
const FLUSH_MIN: Duration = Duration::from_secs(3);

/// How many of the jobs that are left the log names.
const NAMED: usize = 20;

/// How often a clock is compared with the machine's.
const WALL_CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// A server that is ready to serve.
pub struct Server {
    tracker: Arc<Tracker>,
    hub: Arc<Hub>,
    security: Security,
    /// Follows what other replicas do.
    redis: Option<(Arc<RedisStore>, Arc<FallbackStore>)>,
    /// Follows the machine's clock.
    wall_follower: Option<Arc<SteeredClock>>,
}

/// Requests to a server that runs.
#[derive(Clone, Default)]
pub struct Control {
    /// Ends a drain at once: connections are cut off, and what Redis does not have yet is lost.
    pub hurry: CancellationToken,
    /// Has the files of TLS and identities read again now.
    pub reload: Arc<Notify>,
}

/// Who may connect and call.
struct Security {
    tls: Option<Tls>,
    authenticator: Authenticator,
}

impl Security {
    fn open(config: &SecurityConfig) -> Result<Self, String> {
        Ok(Self { tls: config.tls()?, authenticator: config.authenticator()? })
    }

    /// What follows files.
    fn sources(&self) -> Vec<Arc<dyn Refresh>> {
        self.tls.iter().map(Tls::source).chain(self.authenticator.sources()).collect()
    }
}

impl Server {
    /// Opens what `config` names: the store, and the files of TLS and of identities. An error is a mistake that has to be
    /// mended first; a Redis that is away is none.
    pub async fn open(config: &Config) -> Result<Self> {
        let steady = Arc::new(SteadyClock::default());
        if config.redis.target().is_some() {
            return Self::open_with_clock(config, steady).await;
        }
        let clock = Arc::new(SteeredClock::new(steady));
        clock.steer(SystemClock.now(), Duration::ZERO);
        let server = Self::open_with_clock(config, clock.clone()).await?;
        Ok(Self { wall_follower: Some(clock), ..server })
    }

    /// The same, on another clock than the machine's.
    pub async fn open_with_clock(config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let security = Security::open(&config.security).map_err(Error::msg)?;
        let hub = Arc::new(Hub::default());
        let memory = config.memory();
        let allowance = config.limits.allowance(memory.for_calls()).with_connections(room_for_connections());
        let (retention, limits) = (config.retention(), Arc::new(Limits::new(allowance)));
        let timeouts = config.timeouts();
        let capacity = memory.for_jobs(config.max_memory_jobs);
        let Some(target) = config.redis.target() else {
            let store = Arc::new(MemoryStore::new(capacity, hub.clone()));
            let tracker =
                Arc::new(Tracker::new(store, hub.clone(), clock, retention).within(limits).with_timeouts(timeouts));
            return Ok(Self { tracker, hub, security, redis: None, wall_follower: None });
        };
        let options = Options {
            target: target.clone(),
            pool_size: config.redis.redis_pool_size,
            timeout: config.redis.redis_timeout,
            key_prefix: config.redis.key_prefix.clone(),
            replica_grace: config.redis.replica_grace,
        };
        let clock = Arc::new(SteeredClock::new(clock));
        let partitioning = RedisStore::PARTITIONING;
        let presence = Arc::new(Presence::new(partitioning.count));
        let listener = hub.clone();
        let cache = Arc::new(LocalCache::new(capacity, listener, clock.clone(), partitioning, presence.clone()));
        let redis = Arc::new(RedisStore::open(options, cache.clone(), clock.clone(), presence.clone()).await?);
        let policy = config.redis.fallback.into();
        let store = Arc::new(FallbackStore::new(redis.clone(), cache, presence, clock.clone(), policy));
        let tracker =
            Arc::new(Tracker::new(store.clone(), hub.clone(), clock, retention).within(limits).with_timeouts(timeouts));
        Ok(Self { tracker, hub, security, redis: Some((redis, store)), wall_follower: None })
    }

    /// Serves on `listener` until `shutdown` ends, then drains: health says `NOT_SERVING`, streams end, calls that are
    /// under way may end for 20 seconds. What Redis does not have yet is pushed as long as there is time. Everything that was
    /// started has ended when it returns. Metrics and probes are on `http` all the while; without it calls are not counted.
    /// Returns how many jobs Redis does not have in their last version.
    pub async fn run(
        self,
        listener: TcpListener,
        http: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        self.run_under(Control::default(), listener, http, shutdown).await
    }

    /// The same, under `control`.
    pub async fn run_under(
        self,
        control: Control,
        listener: TcpListener,
        http: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        let Self { tracker, hub, security, redis, wall_follower } = self;
        let sources = security.sources();
        let Security { tls, authenticator } = security;
        let face = Arc::new(GrpcServer::new(tracker.clone(), authenticator, http.is_some()).await);
        let connections = TaskTracker::new();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let phase = watch::Sender::new(Phase::Starting);
        if let Some(http) = http {
            let mut measured: Vec<&dyn Measured> = vec![&*face, &*tracker, &*hub, &**tracker.limits()];
            measured.extend(redis.iter().flat_map(|(redis, failover)| [&**redis as &dyn Measured, &**failover]));
            let source = Source::new(&measured, tracker.clone(), connections.clone(), tls.clone());
            let pages = Pages { source, phase: phase.subscribe() };
            tasks.spawn(stop.clone().run_until_cancelled_owned(http::serve(http, pages)));
        }
        let limits = tracker.limits().clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { hub.dispatch().await }));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { tracker.sweep().await }));
        if let Some(clock) = wall_follower {
            tasks.spawn(stop.clone().run_until_cancelled_owned(follow_wall_clock(clock)));
        }
        let fallback = redis.as_ref().map(|(_, fallback)| fallback.clone());
        if let Some((redis, failover)) = redis {
            let follower = redis.clone();
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move { Box::pin(follower.run()).await }));
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move { failover.run().await }));
            redis.settle().await;
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow(sources, control.reload)));
        let reports = face.clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { reports.report_redis().await }));

        let draining = CancellationToken::new();
        let drained = async {
            info!("draining");
            phase.send_replace(Phase::Draining);
            face.drain().await;
        };
        phase.send_replace(Phase::Serving);
        let service = face.service.clone();
        let serving = grpc::serve(listener, tls, service, connections, limits, draining.clone(), drained);
        let (served, deadline) = tokio::join!(control.hurry.run_until_cancelled(serving), async {
            shutdown.await;
            draining.cancel();
            Instant::now() + STOP_TIMEOUT
        });
        if served.is_none() {
            warn!("draining was cut short: open calls and streams break");
        }
        let left = match fallback {
            Some(fallback) => flush(&fallback, deadline, &control.hurry).await,
            None => 0,
        };

        stop.cancel();
        tasks.close();
        tasks.wait().await;
        info!("stopped");
        left
    }
}

/// Pushes what Redis does not have until `deadline`, or until it is to `hurry`. Returns how many jobs are left, which it
/// names.
async fn flush(fallback: &FallbackStore, deadline: Instant, hurry: &CancellationToken) -> usize {
    let deadline = deadline.max(Instant::now() + FLUSH_MIN);
    let over = async { _ = hurry.run_until_cancelled(sleep_until(deadline)).await };
    let left = fallback.flush(over).await;
    if !left.is_empty() {
        let named: Vec<_> = left.iter().take(NAMED).map(String::as_str).collect();
        error!(
            count = left.len(),
            jobs = named.join(" "),
            "stopped with changes that Redis does not have: they are lost with this process"
        );
    }
    left.len()
}

/// Keeps a clock close to the machine's, for ever.
async fn follow_wall_clock(clock: Arc<SteeredClock>) {
    loop {
        sleep(WALL_CLOCK_INTERVAL).await;
        clock.steer(SystemClock.now(), Duration::ZERO);
    }
}
