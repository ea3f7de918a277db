//! The composition root: puts a server together, runs it, and takes it down in order.

use std::sync::Arc;

use anyhow::{Error, Result};
use tokio::{net::TcpListener, sync::watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::info;

use crate::{
    auth::Authenticator,
    clock::{Clock, SteeredClock, SystemClock},
    config::{Config, SecurityConfig},
    grpc::{self, Face},
    http::{self, Pages, Phase, Source},
    limits::Limits,
    reload::{Refresh, follow},
    store::{FallbackStore, LocalCache, MemoryStore, RedisStore, redis::Options},
    telemetry::metrics::Measured,
    tls::Tls,
    tracker::Tracker,
    watch::Hub,
};

/// A server that is ready to serve.
pub struct Server {
    tracker: Arc<Tracker>,
    hub: Arc<Hub>,
    security: Security,
    /// Follows what other replicas do.
    redis: Option<(Arc<RedisStore>, Arc<FallbackStore>)>,
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
        Self::open_with_clock(config, Arc::new(SystemClock)).await
    }

    /// The same, on another clock than the machine's.
    pub async fn open_with_clock(config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let security = Security::open(&config.security).map_err(Error::msg)?;
        let hub = Arc::new(Hub::default());
        let (retention, limits) = (config.retention(), Arc::new(Limits::new(config.limits.allowance())));
        let Some(target) = config.redis.target() else {
            let store = Arc::new(MemoryStore::new(config.max_memory_jobs, hub.clone()));
            let tracker = Arc::new(Tracker::new(store, hub.clone(), clock, retention).within(limits));
            return Ok(Self { tracker, hub, security, redis: None });
        };
        let options = Options {
            target: target.clone(),
            pool_size: config.redis.redis_pool_size,
            timeout: config.redis.redis_timeout,
            key_prefix: config.redis.key_prefix.clone(),
        };
        let clock = Arc::new(SteeredClock::new(clock));
        let held = Arc::new(LocalCache::new(config.max_memory_jobs, hub.clone(), clock.clone()));
        let redis = Arc::new(RedisStore::open(options, held.clone(), clock.clone()).await?);
        let fallback = config.redis.fallback.into();
        let store = Arc::new(FallbackStore::new(redis.clone(), held, clock.clone(), fallback));
        let tracker = Arc::new(Tracker::new(store.clone(), hub.clone(), clock, retention).within(limits));
        Ok(Self { tracker, hub, security, redis: Some((redis, store)) })
    }

    /// Serves on `listener` until `shutdown` ends, then drains: health says `NOT_SERVING`, streams end, calls that are
    /// under way may end for 20 seconds. Everything that was started has ended when it returns. Metrics and probes are
    /// on `http` all the while; without it calls are not counted.
    pub async fn run(self, listener: TcpListener, http: Option<TcpListener>, shutdown: impl Future<Output = ()>) {
        let Self { tracker, hub, security, redis } = self;
        let sources = security.sources();
        let Security { tls, authenticator } = security;
        let face = Arc::new(Face::new(tracker.clone(), authenticator, http.is_some()).await);
        let connections = TaskTracker::new();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let phase = watch::Sender::new(Phase::Starting);
        if let Some(http) = http {
            let mut measured: Vec<&dyn Measured> = vec![&*face, &*tracker, &*hub, &**tracker.limits()];
            measured.extend(redis.iter().flat_map(|(redis, failover)| [&**redis as &dyn Measured, &**failover]));
            let source = Source::new(&measured, tracker.clone(), connections.clone());
            let pages = Pages { source, phase: phase.subscribe() };
            tasks.spawn(stop.clone().run_until_cancelled_owned(http::serve(http, pages)));
        }
        let limits = tracker.limits().clone();
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { hub.dispatch().await }));
        tasks.spawn(stop.clone().run_until_cancelled_owned(async move { tracker.sweep().await }));
        if let Some((redis, failover)) = redis {
            let follower = redis.clone();
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move { follower.run().await }));
            tasks.spawn(stop.clone().run_until_cancelled_owned(async move { failover.run().await }));
            redis.settle().await;
        }
        tasks.spawn(stop.clone().run_until_cancelled_owned(follow(sources)));
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
        tokio::join!(grpc::serve(listener, tls, service, connections, limits, draining.clone(), drained), async {
            shutdown.await;
            draining.cancel();
        });

        stop.cancel();
        tasks.close();
        tasks.wait().await;
        info!("stopped");
    }
}
