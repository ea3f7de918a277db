//! Connections: made, shared, given up.
//!
//! A connection carries many commands at once. Callers take one out of the pool, clone it and give it back before they
//! use it, so that commands which come at the same time travel together. One that failed is not used again, and where
//! a failure concerns the server rather than the connection, none of those made before is.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::bb8::{self, ManageConnection, QueueStrategy};
use futures_util::{StreamExt, stream::FuturesUnordered};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult,
    ServerErrorKind, Value,
    aio::{ConnectionLike, MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::debug;
use uuid::Uuid;

use super::target::{Target, Topology};

/// How many times a command is sent if its connection breaks.
const ATTEMPTS: usize = 2;

/// How long making a connection may take, in times of what a command may.
const CONNECT_FACTOR: u32 = 4;

/// Why a command has no answer.
#[derive(Clone, Debug)]
pub enum Fault {
    /// Redis did not answer in time, or can't serve now. It may have done what it was asked, or may do it later.
    Away(RedisError),
    /// Redis answered that it won't.
    Refused(RedisError),
}

impl Fault {
    /// What the library says of it.
    pub fn into_error(self) -> RedisError {
        match self {
            Self::Away(error) | Self::Refused(error) => error,
        }
    }
}

/// Shared connections to Redis.
pub struct Pool {
    connections: bb8::Pool<Manager>,
    timeout: Duration,
    generation: Arc<AtomicU64>,
    under_way: AtomicU32,
}

/// How a pool is.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStats {
    /// Connections that carry commands.
    pub in_use: u32,
    /// Connections that don't.
    pub idle: u32,
    /// Callers that wait for a connection.
    pub waiting: u32,
}

impl Pool {
    /// At most `size` connections to `target`, made when they are needed. No command takes longer than `timeout`.
    pub fn new(target: &Target, size: u32, timeout: Duration) -> RedisResult<Self> {
        let generation = Arc::new(AtomicU64::new(0));
        let manager = Manager { connector: Connector::new(target, timeout)?, generation: generation.clone() };
        let connections = bb8::Pool::builder()
            .max_size(size)
            .min_idle(size.min(2))
            .test_on_check_out(false)
            .connection_timeout(timeout)
            .retry_connection(false)
            .queue_strategy(QueueStrategy::Fifo)
            .error_sink(Box::new(Sink))
            .build_unchecked(manager);
        Ok(Self { connections, timeout, generation, under_way: AtomicU32::new(0) })
    }

    /// The answer to a command.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        read(self.send(Request::Command(command)).await?)
    }

    /// The answers to commands that are sent together; all belong to one slot. Where one is refused, its answer is a
    /// [`Value::ServerError`].
    pub async fn query_all(&self, commands: &mut Pipeline) -> Result<Vec<Value>, Fault> {
        read(self.send(Request::Commands(commands.ignore_errors())).await?)
    }

    /// How it is.
    pub fn stats(&self) -> PoolStats {
        let state = self.connections.state();
        let in_use = self.under_way.load(Relaxed).min(state.connections);
        let waiting = state.statistics.pending_gets().try_into().unwrap_or(u32::MAX);
        PoolStats { in_use, idle: state.connections - in_use, waiting }
    }

    async fn send(&self, request: Request<'_>) -> Result<Value, Fault> {
        let _under_way = UnderWay::new(&self.under_way);
        let deadline = Instant::now() + self.timeout;
        let mut attempt = 1;
        loop {
            let mut link = self.link(deadline).await?;
            let Ok(answer) = timeout_at(deadline, link.send(request)).await else {
                debug!("Redis did not answer within {:?}", self.timeout);
                link.give_up();
                return Err(Fault::Away(timed_out()));
            };
            let Err(error) = answer else { return answer.map_err(Fault::Refused) };
            if !self.is_away(&error) {
                return Err(Fault::Refused(error));
            }
            debug!(%error, "Redis failed a command");
            link.give_up();
            if attempt == ATTEMPTS || !error.is_connection_dropped() {
                return Err(Fault::Away(error));
            }
            attempt += 1;
        }
    }

    /// A share in a connection that is not known to be broken.
    async fn link(&self, deadline: Instant) -> Result<Link, Fault> {
        loop {
            let pooled = timeout_at(deadline, self.connections.get()).await;
            let pooled = pooled.ok().and_then(Result::ok).ok_or_else(|| Fault::Away(timed_out()))?;
            if !pooled.is_broken(&self.generation) {
                return Ok(Link { wire: pooled.wire.clone(), mark: pooled.mark.clone() });
            }
        }
    }

    /// Whether Redis can't serve now. Where the server said so, it is looked for anew.
    fn is_away(&self, error: &RedisError) -> bool {
        use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
        match error.kind() {
            ErrorKind::Server(BusyLoading | ClusterDown | MasterDown | ReadOnly) => {
                self.generation.fetch_add(1, Relaxed);
                true
            }
            ErrorKind::Io | ErrorKind::ClusterConnectionNotFound | ErrorKind::Server(TryAgain) => true,
            _ => false,
        }
    }
}

fn read<T: FromRedisValue>(value: Value) -> Result<T, Fault> {
    T::from_redis_value(value).map_err(|error| Fault::Refused(error.into()))
}

/// What is sent at once.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Commands(&'a Pipeline),
}

/// Counts a command while it is under way, even if its caller goes away.
struct UnderWay<'a>(&'a AtomicU32);

impl<'a> UnderWay<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// A share in a connection.
struct Link {
    wire: Wire,
    mark: Arc<AtomicBool>,
}

impl Link {
    async fn send(&mut self, request: Request<'_>) -> RedisResult<Value> {
        match (&mut self.wire, request) {
            (Wire::Node(wire), Request::Command(command)) => wire.req_packed_command(command).await?.extract_error(),
            (Wire::Cluster(wire), Request::Command(command)) => wire.req_packed_command(command).await?.extract_error(),
            (Wire::Node(wire), Request::Commands(commands)) => commands.query_async(wire).await,
            (Wire::Cluster(wire), Request::Commands(commands)) => commands.query_async(wire).await,
        }
    }

    /// Nobody uses this connection again.
    fn give_up(&self) {
        self.mark.store(true, Relaxed);
    }
}

/// A connection, or those to the nodes of a cluster.
#[derive(Clone)]
enum Wire {
    Node(MultiplexedConnection),
    Cluster(ClusterConnection),
}

/// A connection in the pool.
struct Pooled {
    wire: Wire,
    /// It failed a command.
    mark: Arc<AtomicBool>,
    generation: u64,
}

impl Pooled {
    fn is_broken(&self, generation: &AtomicU64) -> bool {
        self.mark.load(Relaxed) || self.generation != generation.load(Relaxed)
    }
}

/// Makes connections for the pool, and judges them.
struct Manager {
    connector: Connector,
    generation: Arc<AtomicU64>,
}

impl ManageConnection for Manager {
    type Connection = Pooled;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<Pooled> {
        let generation = self.generation.load(Relaxed);
        if generation > 0 {
            // Not all replicas at the same moment.
            sleep(jitter(Duration::from_millis(20))).await;
        }
        let wire = self.connector.connect().await?;
        Ok(Pooled { wire, mark: Arc::default(), generation })
    }

    async fn is_valid(&self, _: &mut Pooled) -> RedisResult<()> {
        Ok(())
    }

    fn has_broken(&self, pooled: &mut Pooled) -> bool {
        pooled.is_broken(&self.generation)
    }
}

/// Hears of connections that could not be made.
#[derive(Debug)]
struct Sink;

impl bb8::ErrorSink<RedisError> for Sink {
    fn sink(&self, error: RedisError) {
        debug!(%error, "no connection to Redis");
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<RedisError>> {
        Box::new(Self)
    }
}

/// Connects to wherever the target is at the moment.
pub struct Connector {
    place: Place,
    config: AsyncConnectionConfig,
    patience: Duration,
}

enum Place {
    Node(Client),
    Sentinel { sentinels: Vec<Client>, master: String, node: Box<ConnectionInfo> },
    Cluster { cluster: Box<ClusterClient>, nodes: Vec<Client> },
}

impl Connector {
    /// Connects to `target`, where a command may take `timeout`.
    pub fn new(target: &Target, timeout: Duration) -> RedisResult<Self> {
        // Fails where it was done before.
        _ = rustls::crypto::ring::default_provider().install_default();
        let patience = timeout * CONNECT_FACTOR;
        let client = |info: &ConnectionInfo| Client::open(info.clone().set_tcp_settings(tcp()));
        let place = match &target.topology {
            Topology::Node(info) => Place::Node(client(info)?),
            Topology::Sentinel { sentinels, master, node } => Place::Sentinel {
                sentinels: sentinels.iter().map(client).collect::<RedisResult<_>>()?,
                master: master.clone(),
                node: Box::new(node.as_ref().clone().set_tcp_settings(tcp())),
            },
            Topology::Cluster(nodes) => Place::Cluster {
                cluster: Box::new(
                    ClusterClient::builder(nodes.clone())
                        .tcp_settings(tcp())
                        .connection_timeout(patience)
                        .response_timeout(timeout)
                        .retries(3)
                        .min_retry_wait(10)
                        .max_retry_wait(100)
                        .build()?,
                ),
                nodes: nodes.iter().map(client).collect::<RedisResult<_>>()?,
            },
        };
        // A command's own limit is the pool's.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(None);
        Ok(Self { place, config, patience })
    }

    async fn connect(&self) -> RedisResult<Wire> {
        let connecting = async {
            match &self.place {
                Place::Cluster { cluster, .. } => cluster.get_async_connection().await.map(Wire::Cluster),
                _ => self
                    .client(0)
                    .await?
                    .get_multiplexed_async_connection_with_config(&self.config)
                    .await
                    .map(Wire::Node),
            }
        };
        timeout(self.patience, connecting).await.map_err(|_| timed_out())?
    }

    /// Connects once, to see what comes of it.
    pub async fn probe(&self) -> RedisResult<()> {
        self.connect().await.map(|_| ())
    }

    /// A section of `INFO`, of one server.
    pub async fn info(&self, section: &str) -> RedisResult<String> {
        let mut link = self.client(0).await?.get_multiplexed_async_connection_with_config(&self.config).await?;
        redis::cmd("INFO").arg(section).query_async(&mut link).await
    }

    /// A connection of its own for messages; in a cluster, to one node for each `turn`.
    pub async fn subscribe(&self, channels: &[String], turn: usize) -> RedisResult<PubSub> {
        let subscribing = async {
            let mut messages = self.client(turn).await?.get_async_pubsub().await?;
            messages.subscribe(channels).await?;
            Ok(messages)
        };
        timeout(self.patience, subscribing).await.map_err(|_| timed_out())?
    }

    async fn client(&self, turn: usize) -> RedisResult<Client> {
        match &self.place {
            Place::Node(client) => Ok(client.clone()),
            Place::Cluster { nodes, .. } => Ok(nodes[turn % nodes.len()].clone()),
            Place::Sentinel { sentinels, master, node } => self.master(sentinels, master, node).await,
        }
    }

    /// The server that a sentinel names and that agrees. All sentinels are asked at once: one that is gone, or has not
    /// heard of a failover yet, delays nothing.
    async fn master(&self, sentinels: &[Client], name: &str, node: &ConnectionInfo) -> RedisResult<Client> {
        let mut answers: FuturesUnordered<_> =
            sentinels.iter().map(|sentinel| self.named_master(sentinel, name, node)).collect();
        let mut failure = None;
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(client) => return Ok(client),
                // That no sentinel knows the name says more than that one of them is away.
                Err(error) if failure.is_none() || error.kind() == ErrorKind::MasterNameNotFoundBySentinel => {
                    failure = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(failure.unwrap_or_else(timed_out))
    }

    async fn named_master(&self, sentinel: &Client, name: &str, node: &ConnectionInfo) -> RedisResult<Client> {
        let mut link = sentinel.get_multiplexed_async_connection_with_config(&self.config).await?;
        let address: Option<(String, u16)> =
            redis::cmd("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(name).query_async(&mut link).await?;
        let (host, port) = address.ok_or((ErrorKind::MasterNameNotFoundBySentinel, "no sentinel knows this master"))?;
        let address = match node.addr() {
            redis::ConnectionAddr::TcpTls { tls_params, .. } => {
                redis::ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: tls_params.clone() }
            }
            _ => redis::ConnectionAddr::Tcp(host, port),
        };
        let client = Client::open(node.clone().set_addr(address))?;
        let mut link = client.get_multiplexed_async_connection_with_config(&self.config).await?;
        let role: Vec<Value> = redis::cmd("ROLE").query_async(&mut link).await?;
        let role = role.into_iter().next().map(String::from_redis_value).transpose()?;
        if role.as_deref() == Some("master") {
            Ok(client)
        } else {
            Err((ErrorKind::Server(ServerErrorKind::ReadOnly), "the sentinels name a server that is no master yet")
                .into())
        }
    }
}

fn tcp() -> TcpSettings {
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(10)).with_interval(Duration::from_secs(5));
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(Duration::from_secs(5));
    settings
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

/// A random part of `most`.
#[expect(clippy::cast_possible_truncation, reason = "any bits will do")]
pub fn jitter(most: Duration) -> Duration {
    most.mul_f64(f64::from(Uuid::new_v4().as_u128() as u32) / f64::from(u32::MAX))
}
