//! The composition root: creates the parts of a server, runs it, and stops it in order.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use anyhow::Result;
use tokio::{
    net::TcpListener,
    sync::{Notify, watch},
    time::{Instant, sleep, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info, warn};

use crate::{
    auth::{Authenticator, TokenKeys},
    clock::{Clock, SteadyClock, SteeredClock, SystemClock},
    config::{Config, HttpApiConfig, SecurityConfig, Switch},
    files::connections_max,
    grpc::{self, GrpcServer, RequestService},
    http::{
        self, MetricsSource, Pages, Phase,
        api::{Api, Hosts, Options as ApiOptions, Origins, PageRules},
    },
    quota::Quotas,
    reload::{Refresh, ReloadError, follow},
    store::{FallbackStore, LocalCache, MemoryStore, Presence, RedisStore},
    telemetry::metrics::Measured,
    tls::Tls,
    tracker::Tracker,
    watch::Hub,
};

/// Maximum duration of a stop, from the signal on. The drain of connections is shorter.
const STOP_TIMEOUT: Duration = Duration::from_secs(24);

/// Minimum time to push changes to Redis, however long the drain of connections took.
const FLUSH_MIN: Duration = Duration::from_secs(3);

/// Maximum number of jobs with lost changes that the log names.
const LOGGED_JOBS_MAX: usize = 20;

/// Interval between comparisons of the server's clock with the machine's.
const WALL_CLOCK_INTERVAL: Duration = Duration::from_secs(1);

/// A server that is ready to serve.
pub struct Server {
    tracker: Arc<Tracker>,
    hub: Arc<Hub>,
    security: Security,
    http_api: HttpApiConfig,
    /// The Redis store and its fallback; `None` in memory mode.
    redis: Option<(Arc<RedisStore>, Arc<FallbackStore>)>,
    /// The clock that is steered towards the machine's, in memory mode.
    steered_clock: Option<Arc<SteeredClock>>,
}

/// Requests to a running server.
#[derive(Clone, Default)]
pub struct Control {
    /// Ends a drain at once: connections are closed, and changes that have not been pushed to Redis are lost.
    pub abort_drain: CancellationToken,
    /// Reloads all files that the server reads, at once: those of TLS, identities and keys.
    pub reload: Arc<Notify>,
}

/// TLS and authentication.
struct Security {
    tls: Option<Tls>,
    authenticator: Authenticator,
    has_authentication: bool,
}

impl Security {
    fn open(config: &SecurityConfig) -> Result<Self, ReloadError> {
        let has_authentication = config.has_authentication();
        Ok(Self { tls: config.tls()?, authenticator: config.authenticator()?, has_authentication })
    }

    /// Takes the key of watch tokens from `redis`, unless the key is in a file.
    async fn with_key_of(self, redis: &RedisStore) -> Self {
        if self.authenticator.has_key_file() {
            return self;
        }
        let keys = TokenKeys::shared(redis.shared_secret().await);
        Self { authenticator: self.authenticator.with_token_keys(keys), ..self }
    }

    /// Returns the reloaders of the files.
    fn reloaders(&self) -> Vec<Arc<dyn Refresh>> {
        self.tls.iter().map(Tls::reloader).chain(self.authenticator.reloaders()).collect()
    }
}

impl Server {
    /// Opens the store, and the files of TLS, identities and keys. Fails for an invalid configuration, but not if Redis
    /// is unavailable: the server then starts in degraded mode.
    pub async fn open(config: &Config) -> Result<Self> {
        let steady = Arc::new(SteadyClock::default());
        if config.redis.target().is_some() {
            return Self::open_with_clock(config, steady).await;
        }
        let clock = Arc::new(SteeredClock::new(steady));
        clock.steer(SystemClock.now(), Duration::ZERO);
        let server = Self::open_with_clock(config, clock.clone()).await?;
        Ok(Self { steered_clock: Some(clock), ..server })
    }

    /// Opens a server with another clock than the machine's.
    pub async fn open_with_clock(config: &Config, clock: Arc<dyn Clock>) -> Result<Self> {
        let (security, http_api) = (Security::open(&config.security)?, config.http_api.clone());
        let hub = Arc::new(Hub::default());
        let memory = config.memory();
        let allowance = config.limits.allowance(memory.for_calls()).with_connections(connections_max());
        let (retention, quotas) = (config.retention(), Arc::new(Quotas::new(allowance)));
        let timeouts = config.timeouts();
        let capacity = memory.for_jobs(config.max_memory_jobs);
        let tracker = |store, hub, clock| {
            Arc::new(Tracker::new(store, hub, clock, retention).within(quotas).with_timeouts(timeouts))
        };
        let Some(options) = config.redis.options() else {
            let tracker = tracker(Arc::new(MemoryStore::new(capacity, hub.clone())), hub.clone(), clock);
            return Ok(Self { tracker, hub, security, http_api, redis: None, steered_clock: None });
        };
        let clock = Arc::new(SteeredClock::new(clock));
        let partitioning = RedisStore::PARTITIONING;
        let presence = Arc::new(Presence::new(partitioning.count));
        let listener = hub.clone();
        let cache = Arc::new(LocalCache::new(capacity, listener, clock.clone(), partitioning, presence.clone()));
        let redis = Arc::new(RedisStore::open(options, cache.clone(), clock.clone(), presence.clone()).await?);
        let security = security.with_key_of(&redis).await;
        let policy = config.redis.fallback.into();
        let store = Arc::new(FallbackStore::new(redis.clone(), cache, presence, clock.clone(), policy));
        let tracker = tracker(store.clone(), hub.clone(), clock);
        Ok(Self { tracker, hub, security, http_api, redis: Some((redis, store)), steered_clock: None })
    }

    /// Serves on `listener` until `shutdown` completes, then drains: health reports `NOT_SERVING`, streams end, and
    /// open calls have 20 seconds to end. Then pushes changes to Redis, until the time for the stop is over. Metrics
    /// and probes are served on `http` until the end; if it is `None`, calls are not counted. Returns when all tasks of
    /// the server have ended, with the number of jobs whose last version Redis does not have.
    pub async fn run(
        self,
        listener: TcpListener,
        http: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        self.run_under(Control::default(), listener, http, shutdown).await
    }

    /// Serves as [`run`](Self::run) does, and handles the requests of `control`.
    pub async fn run_under(
        self,
        control: Control,
        listener: TcpListener,
        http: Option<TcpListener>,
        shutdown: impl Future<Output = ()>,
    ) -> usize {
        let tasks = Tasks::default();
        let Security { tls, authenticator, .. } = &self.security;
        let grpc_server = Arc::new(GrpcServer::new(self.tracker.clone(), authenticator.clone(), http.is_some()).await);
        let connections = TaskTracker::new();
        let phase = watch::Sender::new(Phase::Starting);
        if let Some(http) = http {
            let source = self.metrics_source(&grpc_server, connections.clone());
            tasks.spawn(http::serve(http, Pages { source, phase: phase.subscribe() }));
        }
        self.start_tasks(&tasks, grpc_server.clone(), control.reload).await;

        phase.send_replace(Phase::Serving);
        let draining = CancellationToken::new();
        let drained = async {
            info!("draining");
            phase.send_replace(Phase::Draining);
            grpc_server.drain().await;
        };
        let (service, quotas) = (self.api(&grpc_server, &listener), self.tracker.quotas().clone());
        let serving = grpc::serve(listener, tls.clone(), service, connections, quotas, draining.clone(), drained);
        let (served, deadline) = tokio::join!(control.abort_drain.run_until_cancelled(serving), async {
            shutdown.await;
            draining.cancel();
            Instant::now() + STOP_TIMEOUT
        });
        if served.is_none() {
            warn!("drain aborted by a second signal: closing connections with open calls and streams");
        }
        let left = self.flush(deadline, &control.abort_drain).await;
        tasks.stop().await;
        info!("stopped");
        left
    }

    /// Returns the HTTP API in front of `grpc_server`, for requests that arrive on `listener`.
    fn api(&self, grpc_server: &GrpcServer, listener: &TcpListener) -> Api<impl RequestService> {
        Api::new(grpc_server.service.clone(), api_options(&self.http_api, &self.security, listener))
    }

    /// Returns the source of the metrics of all parts.
    fn metrics_source(&self, grpc_server: &GrpcServer, connections: TaskTracker) -> MetricsSource {
        let mut measured: Vec<&dyn Measured> = vec![grpc_server, &*self.tracker, &*self.hub, &**self.tracker.quotas()];
        measured.extend(self.redis.iter().flat_map(|(redis, fallback)| [&**redis as &dyn Measured, &**fallback]));
        MetricsSource::new(&measured, self.tracker.clone(), connections, self.security.tls.clone())
    }

    /// Starts the background tasks. With Redis, waits for a limited time until a subscription to notifications has been
    /// tried: a stream that begins earlier would soon have to start over.
    async fn start_tasks(&self, tasks: &Tasks, grpc_server: Arc<GrpcServer>, reload: Arc<Notify>) {
        let (hub, tracker) = (self.hub.clone(), self.tracker.clone());
        tasks.spawn(async move { hub.dispatch().await });
        tasks.spawn(async move { tracker.sweep().await });
        if let Some(clock) = self.steered_clock.clone() {
            tasks.spawn(follow_wall_clock(clock));
        }
        if let Some((redis, fallback)) = self.redis.clone() {
            let monitored = redis.clone();
            tasks.spawn(async move { Box::pin(monitored.run()).await });
            tasks.spawn(async move { fallback.run().await });
            redis.wait_until_subscribed().await;
        }
        tasks.spawn(follow(self.security.reloaders(), reload));
        tasks.spawn(async move { grpc_server.report_redis().await });
    }

    /// Pushes dirty jobs to Redis until `deadline`, or until `abort_drain`. Logs and returns the number of jobs that are
    /// left.
    async fn flush(&self, deadline: Instant, abort_drain: &CancellationToken) -> usize {
        let Some((_, fallback)) = &self.redis else { return 0 };
        let deadline = deadline.max(Instant::now() + FLUSH_MIN);
        let over = async { _ = abort_drain.run_until_cancelled(sleep_until(deadline)).await };
        let left = fallback.flush(over).await;
        if !left.is_empty() {
            let named: Vec<_> = left.iter().take(LOGGED_JOBS_MAX).map(String::as_str).collect();
            error!(
                count = left.len(),
                jobs = named.join(" "),
                "stopped with changes that are not stored in Redis: they are lost"
            );
        }
        left.len()
    }
}

/// Returns the settings of the HTTP API on `listener`.
fn api_options(config: &HttpApiConfig, security: &Security, listener: &TcpListener) -> ApiOptions {
    let origins = if config.allows_any_origin() { Origins::Any } else { Origins::Listed(config.cors_origin.clone()) };
    let hosts = if security.has_authentication {
        Hosts::Any
    } else {
        let listen = listener.local_addr().map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        Hosts::Local { listen, others: config.allowed_host.clone() }
    };
    let rules = PageRules { origins, hosts };
    ApiOptions { is_on: config.http_api == Switch::On, has_tls: security.tls.is_some(), rules }
}

/// The tasks that run as long as the server.
#[derive(Default)]
struct Tasks {
    tracker: TaskTracker,
    stop: CancellationToken,
}

impl Tasks {
    /// Runs a task until the server stops.
    fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tracker.spawn(self.stop.clone().run_until_cancelled_owned(task));
    }

    /// Cancels all tasks, and waits until they have ended.
    async fn stop(self) {
        self.stop.cancel();
        self.tracker.close();
        self.tracker.wait().await;
    }
}

/// Steers a clock towards the machine's. Never returns.
async fn follow_wall_clock(clock: Arc<SteeredClock>) {
    loop {
        sleep(WALL_CLOCK_INTERVAL).await;
        clock.steer(SystemClock.now(), Duration::ZERO);
    }
}
