//! Connecting to Redis at its address.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisResult, ServerErrorKind,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::time::timeout;

use super::{
    address::{Target, Topology},
    cluster::RawCluster,
    command_wait::longest,
    credentials::Credentials,
    fault::timed_out,
    reachability::Reachability,
    reason::{RESTARTED, Reason},
    sentinel::{Address, Sentinels},
    server,
};

/// Maximum time to make a connection, as a multiple of the time limit of a command.
const CONNECT_FACTOR: u32 = 4;

/// Maximum time to connect to a cluster, as a multiple of the maximum time to connect to one node.
const CLUSTER_CONNECT_FACTOR: u32 = 4;

/// A connection to a server, or the connections to the nodes of a cluster.
#[derive(Clone)]
pub enum RawConnection {
    /// To one server.
    Node(MultiplexedConnection),
    /// To the nodes of a cluster, as they are needed.
    Cluster(Arc<RawCluster>),
}

impl RawConnection {
    /// Returns whether this is a connection to a cluster.
    pub const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// A maker of connections to the current location of Redis.
pub struct Connector {
    credentials: Credentials,
    is_cluster: bool,
    /// Maximum silence of Redis while an answer is due.
    answer_timeout: Duration,
    endpoint: ArcSwap<Endpoint>,
    config: AsyncConnectionConfig,
    connect_timeout: Duration,
    reachability: Reachability,
    generation: AtomicU64,
    /// Id of the process of the server in use.
    server: Mutex<Option<String>>,
    /// The next server is accepted, even if it was restarted or replaced.
    accepts_any: AtomicBool,
}

/// The clients of Redis, by topology.
enum Endpoint {
    Node(Client),
    Sentinel(Sentinels),
    Cluster { cluster: Box<ClusterClient>, nodes: Vec<Client> },
}

impl Endpoint {
    fn of(target: &Target, timeout: Duration, config: &AsyncConnectionConfig) -> RedisResult<Self> {
        let client = |info: &ConnectionInfo| Client::open(info.clone().set_tcp_settings(tcp()));
        Ok(match &target.topology {
            Topology::Node(info) => Self::Node(client(info)?),
            Topology::Sentinel { sentinels, master, node } => {
                let sentinels = sentinels.iter().map(client).collect::<RedisResult<_>>()?;
                let node = node.as_ref().clone().set_tcp_settings(tcp());
                Self::Sentinel(Sentinels::new(sentinels, master.clone(), node, config.clone(), timeout))
            }
            Topology::Cluster(nodes) => Self::Cluster {
                cluster: Box::new(
                    ClusterClient::builder(nodes.clone())
                        .tcp_settings(tcp())
                        // The library waits for every node, including those that are silent.
                        .connection_timeout(timeout)
                        // The silence of a node is limited by `CommandWait`; this is the upper bound.
                        .response_timeout(longest(timeout))
                        .overall_response_timeout(None)
                        .retries(3)
                        .min_retry_wait(10)
                        .max_retry_wait(100)
                        .build()?,
                ),
                nodes: nodes.iter().map(client).collect::<RedisResult<_>>()?,
            },
        })
    }
}

impl Connector {
    /// Creates a connector to `target`, where a command may take `timeout`.
    pub fn new(target: &Target, timeout: Duration) -> RedisResult<Self> {
        // Ignores the error: it means that a provider is installed already, and any provider is sufficient.
        _ = rustls::crypto::ring::default_provider().install_default();
        let connect_timeout = timeout * CONNECT_FACTOR;
        // The time limit of a command is enforced by `CommandWait`.
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(connect_timeout)).set_response_timeout(None);
        let endpoint = ArcSwap::from_pointee(Endpoint::of(target, timeout, &config)?);
        Ok(Self {
            credentials: Credentials::new(target.clone()),
            is_cluster: matches!(target.topology, Topology::Cluster(_)),
            answer_timeout: timeout,
            endpoint,
            config,
            connect_timeout,
            reachability: Reachability::new(),
            generation: AtomicU64::new(0),
            server: Mutex::default(),
            accepts_any: AtomicBool::new(false),
        })
    }

    /// Invalidates the connections that were made so far.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Returns the current generation: only connections that were made in it may be used.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Returns the known reachability of Redis, which all pools share.
    pub const fn reachability(&self) -> &Reachability {
        &self.reachability
    }

    /// Returns whether the target is a cluster.
    pub const fn is_cluster(&self) -> bool {
        self.is_cluster
    }

    /// Makes a connection for commands. Fails at once if Redis has just refused one, with the error of that refusal.
    pub async fn connect(&self) -> RedisResult<RawConnection> {
        let _turn = self.reachability.attempt().await?;
        let mut outcome = self.try_connect().await;
        if self.take_other_credentials(&outcome).await {
            outcome = self.try_connect().await;
        }
        self.reachability.record_attempt(&outcome);
        outcome
    }

    async fn try_connect(&self) -> RedisResult<RawConnection> {
        let connecting = async {
            if let Endpoint::Cluster { cluster, .. } = &*self.endpoint.load_full() {
                return RawCluster::connect(cluster).await.map(|raw| RawConnection::Cluster(Arc::new(raw)));
            }
            let client = self.client(0).await?;
            let mut raw = client.get_multiplexed_async_connection_with_config(&self.config).await?;
            self.recognise(&mut raw).await?;
            Ok(RawConnection::Node(raw))
        };
        // Each set of connections to a cluster waits for a node that is silent.
        let most = if self.is_cluster() { self.connect_timeout * CLUSTER_CONNECT_FACTOR } else { self.connect_timeout };
        timeout(most, connecting).await.map_err(|_| timed_out())?
    }

    /// Sets whether the next server is accepted, even if it was restarted or replaced.
    pub fn accept_any(&self, accept: bool) {
        self.accepts_any.store(accept, Relaxed);
        if accept {
            // The last server may have been refused because it was restarted or replaced.
            self.reachability.forget_refusal();
        }
    }

    /// Fails if this server can't be used. Also fails if it is another server than the last one, or was restarted,
    /// because it may have lost data.
    async fn recognise(&self, raw: &mut MultiplexedConnection) -> RedisResult<()> {
        let info: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(raw).await;
        if let Err(error) = &info
            && Reason::of(error) == Reason::NoAuth
        {
            return Err(error.clone());
        }
        // Without the right to use INFO the server can't be identified.
        let info = info.unwrap_or_default();
        server::check(&info)?;
        let id = server::field(&info, "run_id").map(str::to_owned);
        let mut server = self.server();
        if server.is_some() && id.is_some() && *server != id && !self.accepts_any.load(Relaxed) {
            return Err((ErrorKind::Server(ServerErrorKind::MasterDown), RESTARTED).into());
        }
        // An unknown id must not make the next server trusted.
        if id.is_some() {
            *server = id;
        }
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<String>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a separate connection that is subscribed to `channels`; in a cluster, to another node for each `turn`.
    pub async fn subscribe(&self, channels: &[&str], turn: usize) -> RedisResult<PubSub> {
        let outcome = self.try_subscribe(channels, turn).await;
        if self.take_other_credentials(&outcome).await { self.try_subscribe(channels, turn).await } else { outcome }
    }

    async fn try_subscribe(&self, channels: &[&str], turn: usize) -> RedisResult<PubSub> {
        let subscribing = async {
            let mut messages = self.client(turn).await?.get_async_pubsub().await?;
            messages.subscribe(channels).await?;
            Ok(messages)
        };
        timeout(self.connect_timeout, subscribing).await.map_err(|_| timed_out())?
    }

    /// Returns a section of `INFO` of one server.
    pub async fn info(&self, section: &str) -> RedisResult<String> {
        let asking = async {
            let mut raw = self.client(0).await?.get_multiplexed_async_connection_with_config(&self.config).await?;
            redis::cmd("INFO").arg(section).query_async(&mut raw).await
        };
        timeout(self.connect_timeout, asking).await.map_err(|_| timed_out())?
    }

    /// Returns the master that the sentinels name; `None` if there are no sentinels, or none answers.
    pub async fn named_master(&self) -> Option<Address> {
        let Endpoint::Sentinel(sentinels) = &*self.endpoint.load_full() else { return None };
        let named = sentinels.named_master().await;
        // If there are other credentials, the next call uses them.
        _ = self.take_other_credentials(&named).await;
        named.ok()
    }

    /// Starts to use the credentials in the file, if an attempt failed because of those in use and the file has others
    /// by now. Returns whether it did.
    async fn take_other_credentials<T>(&self, outcome: &RedisResult<T>) -> bool {
        let Err(error) = outcome else { return false };
        let Some(target) = self.credentials.after(error).await else { return false };
        let endpoint = Endpoint::of(&target, self.answer_timeout, &self.config);
        endpoint.map(|endpoint| self.endpoint.store(Arc::new(endpoint))).is_ok()
    }

    async fn client(&self, turn: usize) -> RedisResult<Client> {
        match &*self.endpoint.load_full() {
            Endpoint::Node(client) => Ok(client.clone()),
            Endpoint::Sentinel(sentinels) => sentinels.master().await,
            Endpoint::Cluster { nodes, .. } => Ok(nodes[turn % nodes.len()].clone()),
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
