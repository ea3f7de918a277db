//! Connections: made, shared, given up.
//!
//! A connection carries many commands at once. It is taken out of the pool, cloned and given back, and used for a while
//! by all who call, so that commands which come at the same time travel together. One that failed is not used again, and
//! where a failure concerns the server rather than the connection, none of those made before is.

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
    connections::Connections,
    connector::{Connector, Wire, timed_out},
    fault::{Answer, Fault, is_away, is_on_the_move, read},
    metrics::LinkMetrics,
    patience::Patience,
    pooled::{MOVE, PooledConnection, Request, lane_of},
};
use crate::store::jitter;

/// The number of times a command is sent if its connection breaks.
const ATTEMPTS: usize = 2;

/// A command that only asks for a sign of life.
static PING: LazyLock<Cmd> = LazyLock::new(|| cmd("PING"));

/// Shared connections to Redis.
pub struct Pool {
    connections: Connections,
    connector: Arc<Connector>,
    timeout: Duration,
    /// A command failed on a connection to a cluster, which may have to be replaced. Its key, if a node was silent.
    stale: watch::Sender<Option<Vec<u8>>>,
    under_way: AtomicU32,
    waiting: AtomicU32,
    metrics: Arc<LinkMetrics>,
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
    /// At most `size` connections. A command fails when Redis was silent on its connection for `timeout`.
    pub fn new(connector: Arc<Connector>, size: u32, timeout: Duration, metrics: Arc<LinkMetrics>) -> Self {
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

    /// The answer to a command.
    pub async fn query<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, Fault> {
        let answer = self.send(Request::Command(command)).await?.pop().unwrap_or(Ok(Value::Nil));
        read(answer)
    }

    /// The answers to commands that are sent together; all belong to one slot.
    pub async fn query_all(&self, commands: &Pipeline) -> Result<Vec<Answer>, Fault> {
        self.send(Request::Commands(commands)).await
    }

    /// How it is.
    pub fn stats(&self) -> PoolStats {
        let count = self.connections.count();
        let in_use = self.under_way.load(Relaxed).min(count);
        PoolStats { in_use, idle: count - in_use, waiting: self.waiting.load(Relaxed) }
    }

    async fn send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let sent = self.metrics.sent();
        let outcome = self.try_send(request).await;
        sent.answered(&outcome);
        outcome
    }

    async fn try_send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let lane = if self.connector.is_cluster() { request.key().and_then(lane_of) } else { Some(0) };
        self.connector.reachability().check(lane).map_err(Fault::Away)?;
        let _under_way = Counted::new(&self.under_way);
        let mut patience = Patience::new(self.timeout);
        let mut attempt = 1;
        loop {
            let mut connection = self.connection(&mut patience).await?;
            let (sending, heard) = connection.send(request, lane);
            let error = match self.wait(&mut patience, heard, sending).await {
                Ok(Ok(answers)) => return Ok(answers),
                Ok(Err(error)) | Err(error) => error,
            };
            let is_on_the_move = connection.is_cluster() && is_on_the_move(&error);
            if !is_on_the_move && !is_away(&error) {
                return Err(Fault::Refused(error));
            }
            // A node that is lost moves no keys, though others still send callers to it.
            if is_on_the_move && patience.allows(MOVE) && self.connector.reachability().check(lane).is_ok() {
                sleep(MOVE).await;
                continue;
            }
            debug!(%error, "Redis failed a command");
            // Where answers kept coming, it was only slow.
            if !error.is_timeout() || patience.doubted().is_some() {
                self.give_up(&connection, request, &error);
            }
            if attempt == ATTEMPTS || !error.is_connection_dropped() || error.is_connection_refusal() {
                return Err(Fault::Away(error));
            }
            attempt += 1;
        }
    }

    /// A share in a connection that is not known to be broken.
    async fn connection(&self, patience: &mut Patience) -> Result<PooledConnection, Fault> {
        if let Some(connection) = self.connections.current() {
            return Ok(connection);
        }
        let _waiting = Counted::new(&self.waiting);
        self.wait(patience, || None, Box::pin(self.connections.get())).await.flatten().map_err(Fault::Away)
    }

    /// Waits for `work` as long as there is `patience` with a server whose last answer was `heard`. What one node of a
    /// cluster does or does not says nothing of the others.
    async fn wait<T>(
        &self,
        patience: &mut Patience,
        heard: impl Fn() -> Option<Instant>,
        work: impl Future<Output = T>,
    ) -> RedisResult<T> {
        let (reachability, is_cluster) = (self.connector.reachability(), self.connector.is_cluster());
        let doubt = || {
            if !is_cluster {
                reachability.doubt();
            }
        };
        if let Some(outcome) = patience.wait(heard, doubt, reachability.turns(), work).await {
            return Ok(outcome);
        }
        if let Some(doubted) = patience.doubted().filter(|_| !is_cluster) {
            reachability.found_silent(doubted);
        }
        Err(timed_out())
    }

    /// Sees to it that a connection which failed is not used again. Those to a cluster are used until there are others:
    /// a node that is lost must not concern the rest.
    fn give_up(&self, connection: &PooledConnection, request: Request<'_>, error: &RedisError) {
        if self.connections.are_newer_than(connection) {
            return;
        }
        if connection.is_cluster() {
            // Without a key it went to any node, and the next one goes to another.
            let Some(key) = request.key() else { return };
            if let Some(lane) = lane_of(key).filter(|_| error.is_connection_refusal()) {
                self.connector.reachability().refused(lane, error);
            }
            self.stale.send_replace(error.is_timeout().then(|| key.to_vec()));
        } else if error.is_timeout() {
            connection.mark_broken();
        } else {
            // The server said so, or was lost: the other connections are no better.
            self.connector.renew();
        }
    }

    /// Looks for signs of life when there are doubts, and replaces connections to a cluster when one of its nodes
    /// failed, for ever.
    pub async fn look_after(&self) {
        let mut doubts = self.connector.reachability().doubts();
        let mut stale = self.stale.subscribe();
        loop {
            select! {
                Ok(()) = stale.changed() => {
                    let key = stale.borrow_and_update().clone();
                    self.replace_connections(key.as_deref()).await;
                }
                Ok(()) = doubts.changed() => self.look_for_life().await,
            }
        }
    }

    /// Replaces the connections to a cluster. Those to a node that was silent are kept if a new connection does not reach
    /// the node that has `key` either: it would look for that node with each command, and hold up all others meanwhile.
    async fn replace_connections(&self, key: Option<&[u8]>) {
        let replacing = async {
            let wire = self.connector.connect().await?;
            if let (Wire::Cluster(connection), Some(key)) = (&wire, key) {
                let mut look = cmd("EXISTS");
                let mut connection = connection.clone();
                let looking = look.arg(key).query_async::<Value>(&mut connection);
                timeout(self.timeout, looking).await.map_err(|_| timed_out())??;
            }
            self.connections.replace(wire);
            RedisResult::Ok(())
        };
        if let Err(error) = Box::pin(replacing).await {
            debug!(%error, "the connections to the cluster are kept");
        }
        sleep(jitter(self.timeout)).await;
    }

    /// Asks Redis for a sign of life.
    async fn look_for_life(&self) {
        let ask = async {
            let mut connection = match self.connections.current() {
                Some(connection) => connection,
                None => self.connections.take().await,
            };
            connection.send(Request::Command(&PING), None).0.await
        };
        let reachability = self.connector.reachability();
        let mut patience = Patience::new(self.timeout);
        if let Some(Ok(_)) = patience.wait(|| None, || {}, reachability.turns(), ask).await {
            reachability.lives();
        }
    }
}

/// Counts a command in a stage, even if its caller goes away.
struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
