//! Pools of connections: sharing connections, and replacing those that failed.
//!
//! A connection carries many commands at once. It is taken out of the pool, cloned and returned, and used for a while
//! by all callers, so that concurrent commands are sent together. A connection that failed is not used again. If the
//! failure concerns the server rather than the connection, no connection that was made before the failure is used
//! again.

use std::{
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value, cmd};
use tokio::{
    select,
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    command_wait::CommandWait,
    connections::Connections,
    connector::{Connector, RawConnection},
    counted::Counted,
    fault::{Answer, Fault, is_on_the_move, is_unavailable, read, timed_out},
    metrics::ConnectionMetrics,
    pooled::{MOVE_PAUSE, PooledConnection, Request},
    reachability::lane_of,
};
use crate::store::jitter;

/// Maximum number of times that a command is sent, if its connection breaks.
const ATTEMPTS: usize = 2;

/// The command that checks whether Redis answers.
static PING: LazyLock<Cmd> = LazyLock::new(|| cmd("PING"));

/// A pool of shared connections to Redis.
pub struct Pool {
    connections: Connections,
    connector: Arc<Connector>,
    timeout: Duration,
    /// Signals that a command failed on a connection to a cluster, so that the connection may have to be replaced. The
    /// value is the key of the command if a node was silent, otherwise `None`.
    stale: watch::Sender<Option<Vec<u8>>>,
    under_way: AtomicU32,
    waiting: AtomicU32,
    metrics: Arc<ConnectionMetrics>,
}

/// The state of a pool.
#[derive(Clone, Copy, Debug, Default)]
pub struct PoolStats {
    /// Number of connections that carry commands.
    pub in_use: u32,
    /// Number of connections that carry no commands.
    pub idle: u32,
    /// Number of callers that wait for a connection, or in a cluster for a permit to use it.
    pub waiting: u32,
}

impl Pool {
    /// Creates a pool of at most `size` connections. A command fails when Redis was silent on its connection for
    /// `timeout`.
    pub fn new(connector: Arc<Connector>, size: u32, timeout: Duration, metrics: Arc<ConnectionMetrics>) -> Self {
        Self {
            connections: Connections::new(connector.clone(), size, timeout),
            connector,
            timeout,
            stale: watch::Sender::default(),
            under_way: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            metrics,
        }
    }

    /// Sends a command, and returns its answer.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        // Boxed, so that the futures of callers stay small: they are moved several times.
        let answer = Box::pin(self.send(Request::Command(command))).await?.pop().unwrap_or(Ok(Value::Nil));
        read(answer)
    }

    /// Sends commands together, all of one slot, and returns their answers.
    pub async fn query_all(&self, commands: &Pipeline) -> Result<Vec<Answer>, Fault> {
        self.send(Request::Commands(commands)).await
    }

    /// Returns the state of the pool.
    pub fn stats(&self) -> PoolStats {
        let count = self.connections.count();
        let in_use = self.under_way.load(Relaxed).min(count);
        let waiting = self.waiting.load(Relaxed) + self.connections.waiting();
        PoolStats { in_use, idle: count - in_use, waiting }
    }

    async fn send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let sent = self.metrics.sent();
        let outcome = self.try_send(request).await;
        sent.answered(&outcome);
        outcome
    }

    async fn try_send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let lane = if self.connector.is_cluster() { request.key().and_then(lane_of) } else { Some(0) };
        self.connector.reachability().check(lane).map_err(Fault::Unavailable)?;
        let _under_way = Counted::new(&self.under_way);
        let mut command_wait = CommandWait::new(self.timeout);
        let mut attempt = 1;
        loop {
            let mut connection = self.connection(&mut command_wait).await?;
            let (sending, last_answer) = connection.send(request, lane);
            let error = match self.wait(&mut command_wait, last_answer, sending).await {
                Ok(Ok(answers)) => return Ok(answers),
                Ok(Err(error)) | Err(error) => error,
            };
            let is_on_the_move = connection.is_cluster() && is_on_the_move(&error);
            if !is_on_the_move && !is_unavailable(&error) {
                return Err(Fault::Refused(error));
            }
            // A lost node moves no keys, though other nodes still redirect callers to it.
            if is_on_the_move && command_wait.allows(MOVE_PAUSE) && self.connector.reachability().check(lane).is_ok() {
                sleep(MOVE_PAUSE).await;
                continue;
            }
            debug!(%error, "Redis failed a command");
            // While other answers kept arriving, Redis was only slow.
            if !error.is_timeout() || command_wait.suspected().is_some() {
                self.give_up(&connection, request, &error);
            }
            if attempt == ATTEMPTS || !error.is_connection_dropped() || error.is_connection_refusal() {
                return Err(Fault::Unavailable(error));
            }
            attempt += 1;
        }
    }

    /// Returns a connection that is not known to be broken.
    async fn connection(&self, command_wait: &mut CommandWait) -> Result<PooledConnection, Fault> {
        if let Some(connection) = self.connections.current() {
            return Ok(connection);
        }
        let _waiting = Counted::new(&self.waiting);
        self.wait(command_wait, || None, Box::pin(self.connections.get())).await.flatten().map_err(Fault::Unavailable)
    }

    /// Waits for `work` as long as `command_wait` allows for a server whose last answer was at `last_answer`. In a
    /// cluster, the silence of one node says nothing about the others, so it causes no suspicion.
    async fn wait<T>(
        &self,
        command_wait: &mut CommandWait,
        last_answer: impl Fn() -> Option<Instant>,
        work: impl Future<Output = T>,
    ) -> RedisResult<T> {
        let (reachability, is_cluster) = (self.connector.reachability(), self.connector.is_cluster());
        let suspect = || {
            if !is_cluster {
                reachability.suspect();
            }
        };
        if let Some(outcome) = command_wait.wait(last_answer, suspect, reachability.turns(), work).await {
            return Ok(outcome);
        }
        if let Some(suspected) = command_wait.suspected().filter(|_| !is_cluster) {
            reachability.found_silent(suspected);
        }
        Err(timed_out())
    }

    /// Ensures that a connection which failed is not used again. Connections to a cluster are used until they are
    /// replaced: a lost node must not affect the others.
    fn give_up(&self, connection: &PooledConnection, request: Request<'_>, error: &RedisError) {
        if self.connections.have_replaced(connection) {
            return;
        }
        if connection.is_cluster() {
            // A command without a key may have been sent to any node, and the next one is sent to another.
            let Some(key) = request.key() else { return };
            if let Some(lane) = lane_of(key).filter(|_| error.is_connection_refusal()) {
                self.connector.reachability().refused(lane, error);
            }
            self.stale.send_replace(error.is_timeout().then(|| key.to_vec()));
        } else if error.is_timeout() {
            connection.mark_broken();
        } else {
            // The server failed rather than the connection, so the other connections can't be used either.
            self.connector.renew();
        }
    }

    /// Pings Redis when there are suspicions, and replaces the connections to a cluster when one of its nodes failed;
    /// never returns.
    pub async fn maintain(&self) {
        let mut suspicions = self.connector.reachability().suspicions();
        let mut stale = self.stale.subscribe();
        loop {
            select! {
                Ok(()) = stale.changed() => {
                    let key = stale.borrow_and_update().clone();
                    self.replace_connections(key.as_deref()).await;
                }
                Ok(()) = suspicions.changed() => self.ping().await,
            }
        }
    }

    /// Replaces the connections to a cluster. They are kept if a node was silent and a new connection does not reach
    /// the node of `key` either: the new connection would look for that node with each command, and delay all others.
    async fn replace_connections(&self, key: Option<&[u8]>) {
        let replacing = async {
            let raw = self.connector.connect().await?;
            if let (RawConnection::Cluster(connection), Some(key)) = (&raw, key) {
                let look = cmd("EXISTS").arg(key).take();
                let looking = connection.send(&look, Some(key), &|| {});
                timeout(self.timeout, looking).await.map_err(|_| timed_out())??.extract_error()?;
            }
            self.connections.replace(raw);
            RedisResult::Ok(())
        };
        if let Err(error) = Box::pin(replacing).await {
            debug!(%error, "keeping the connections to the cluster");
        }
        sleep(jitter(self.timeout)).await;
    }

    /// Pings Redis.
    async fn ping(&self) {
        let ask = async {
            let mut connection = match self.connections.current() {
                Some(connection) => connection,
                None => self.connections.take().await,
            };
            connection.send(Request::Command(&PING), None).0.await
        };
        let reachability = self.connector.reachability();
        let mut command_wait = CommandWait::new(self.timeout);
        if let Some(Ok(_)) = command_wait.wait(|| None, || {}, reachability.turns(), ask).await {
            reachability.lives();
        }
    }
}
