//! From where Redis is said to be to a connection with it.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{
    AsyncConnectionConfig, Client, ConnectionInfo, ErrorKind, RedisError, RedisResult, ServerErrorKind,
    aio::{MultiplexedConnection, PubSub},
    cluster::ClusterClient,
    cluster_async::ClusterConnection,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use tokio::time::timeout;

use super::{
    address::{Target, Topology},
    patience::longest,
    reachability::Reachability,
    sentinel::{Address, Sentinels},
};

/// How long making a connection may take, in times of what a command may.
const CONNECT_FACTOR: u32 = 4;

/// A connection, or those to the nodes of a cluster.
#[derive(Clone)]
pub enum Wire {
    /// To one server.
    Node(MultiplexedConnection),
    /// To each that is needed.
    Cluster(ClusterConnection),
}

impl Wire {
    /// Whether it is to a cluster.
    pub const fn is_cluster(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// Connects to wherever Redis is at the moment.
pub struct Connector {
    place: Place,
    config: AsyncConnectionConfig,
    patience: Duration,
    reachability: Reachability,
    generation: AtomicU64,
    /// The server that is used, by the id of its process.
    server: Mutex<Option<String>>,
    /// Whatever happened to the server that is found next, it is used.
    accepts_any: AtomicBool,
}

enum Place {
    Node(Client),
    Sentinel(Sentinels),
    Cluster { cluster: Box<ClusterClient>, nodes: Vec<Client> },
}

impl Connector {
    /// Connects to `target`, where a command may take `timeout`.
    pub fn new(target: &Target, timeout: Duration) -> RedisResult<Self> {
        // Fails where it was done before.
        _ = rustls::crypto::ring::default_provider().install_default();
        let patience = timeout * CONNECT_FACTOR;
        // What a command may take is seen to by those who send it.
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(patience)).set_response_timeout(None);
        let client = |info: &ConnectionInfo| Client::open(info.clone().set_tcp_settings(tcp()));
        let place = match &target.topology {
            Topology::Node(info) => Place::Node(client(info)?),
            Topology::Sentinel { sentinels, master, node } => {
                let sentinels = sentinels.iter().map(client).collect::<RedisResult<_>>()?;
                let node = node.as_ref().clone().set_tcp_settings(tcp());
                Place::Sentinel(Sentinels::new(sentinels, master.clone(), node, config.clone(), timeout))
            }
            Topology::Cluster(nodes) => Place::Cluster {
                cluster: Box::new(
                    ClusterClient::builder(nodes.clone())
                        .tcp_settings(tcp())
                        // It waits for every node, also for those that are silent.
                        .connection_timeout(timeout)
                        // How long a node may be silent is seen to by those who send commands.
                        .response_timeout(longest(timeout))
                        .overall_response_timeout(None)
                        .retries(3)
                        .min_retry_wait(10)
                        .max_retry_wait(100)
                        .build()?,
                ),
                nodes: nodes.iter().map(client).collect::<RedisResult<_>>()?,
            },
        };
        Ok(Self {
            place,
            config,
            patience,
            reachability: Reachability::new(),
            generation: AtomicU64::new(0),
            server: Mutex::default(),
            accepts_any: AtomicBool::new(false),
        })
    }

    /// Has nobody use the connections again that were made so far.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
    }

    /// Which connections may be used: those that were made since it was this.
    pub fn generation(&self) -> u64 {
        self.generation.load(Relaxed)
    }

    /// Knowledge of whether Redis can be reached.
    pub const fn reachability(&self) -> &Reachability {
        &self.reachability
    }

    /// Whether it is a cluster that it connects to.
    pub const fn is_cluster(&self) -> bool {
        matches!(self.place, Place::Cluster { .. })
    }

    /// Makes a connection for commands. Where Redis has refused one just now, that is the error.
    pub async fn connect(&self) -> RedisResult<Wire> {
        let _turn = self.reachability.attempt().await?;
        let outcome = self.try_connect().await;
        self.reachability.attempted(&outcome);
        outcome
    }

    async fn try_connect(&self) -> RedisResult<Wire> {
        let connecting = async {
            if let Place::Cluster { cluster, .. } = &self.place {
                return cluster.get_async_connection().await.map(Wire::Cluster);
            }
            let client = self.client(0).await?;
            let mut wire = client.get_multiplexed_async_connection_with_config(&self.config).await?;
            self.recognise(&mut wire).await?;
            Ok(Wire::Node(wire))
        };
        timeout(self.patience, connecting).await.map_err(|_| timed_out())?
    }

    /// Uses the next server that is found, whatever happened to it, or not any more.
    pub fn accept_any(&self, accept: bool) {
        self.accepts_any.store(accept, Relaxed);
        if accept {
            // It may have been refused for being another one.
            self.reachability.forget_refusal();
        }
    }

    /// Fails if this is another server than the last one, or if it was restarted: it may have lost something.
    async fn recognise(&self, wire: &mut MultiplexedConnection) -> RedisResult<()> {
        // Where INFO is not allowed, this can't be told.
        let info: RedisResult<String> = redis::cmd("INFO").arg("server").query_async(wire).await;
        let id =
            info.ok().and_then(|info| Some(info.lines().find_map(|line| line.strip_prefix("run_id:"))?.to_owned()));
        let mut server = self.server();
        if server.is_some() && id.is_some() && *server != id && !self.accepts_any.load(Relaxed) {
            return Err(
                (ErrorKind::Server(ServerErrorKind::MasterDown), "Redis was restarted, or is another one").into()
            );
        }
        *server = id;
        Ok(())
    }

    fn server(&self) -> MutexGuard<'_, Option<String>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection of its own for messages; in a cluster, to another node for each `turn`.
    pub async fn subscribe(&self, channels: &[&str], turn: usize) -> RedisResult<PubSub> {
        let subscribing = async {
            let mut messages = self.client(turn).await?.get_async_pubsub().await?;
            messages.subscribe(channels).await?;
            Ok(messages)
        };
        timeout(self.patience, subscribing).await.map_err(|_| timed_out())?
    }

    /// A section of `INFO`, of one server.
    pub async fn info(&self, section: &str) -> RedisResult<String> {
        let asking = async {
            let mut wire = self.client(0).await?.get_multiplexed_async_connection_with_config(&self.config).await?;
            redis::cmd("INFO").arg(section).query_async(&mut wire).await
        };
        timeout(self.patience, asking).await.map_err(|_| timed_out())?
    }

    /// The master that sentinels name now; `None` where there are none, or none answers.
    pub async fn named_master(&self) -> Option<Address> {
        match &self.place {
            Place::Sentinel(sentinels) => sentinels.named_master().await.ok(),
            Place::Node(_) | Place::Cluster { .. } => None,
        }
    }

    async fn client(&self, turn: usize) -> RedisResult<Client> {
        match &self.place {
            Place::Node(client) => Ok(client.clone()),
            Place::Sentinel(sentinels) => sentinels.master().await,
            Place::Cluster { nodes, .. } => Ok(nodes[turn % nodes.len()].clone()),
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

/// There was no answer in time.
pub fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}
