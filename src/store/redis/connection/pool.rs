//! Connections: made, shared, given up.
//!
//! A connection carries many commands at once. It is taken out of the pool, cloned and given back, and used for a while
//! by all who call, so that commands which come at the same time travel together. One that failed is not used again, and
//! where a failure concerns the server rather than the connection, none of those made before is.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::bb8::{self, ManageConnection, QueueStrategy};
use futures_util::future::join_all;
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::ConnectionLike,
};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::{
    connector::{Connector, Wire, timed_out},
    metrics::LinkMetrics,
};
use crate::store::jitter;

/// How long keys that are on the move are waited for at a time.
const MOVE: Duration = Duration::from_millis(10);

/// How many connections are made at a time, however many callers wait: a Redis that comes back has enough to do.
const AT_ONCE: usize = 2;

/// How often a connection is used before another has its turn.
const USES: u32 = 64;

/// How many times a command is sent if its connection breaks.
const ATTEMPTS: usize = 2;

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
    connector: Arc<Connector>,
    timeout: Duration,
    /// How often the connections to a cluster were replaced.
    replaced: Arc<AtomicU64>,
    /// A connection to a cluster needs to be replaced.
    stale: Notify,
    under_way: AtomicU32,
    waiting: AtomicU32,
    turns: Semaphore,
    metrics: Arc<LinkMetrics>,
    /// The share that was taken last, and how often it was used.
    current: Mutex<Option<(Link, u32)>>,
}

/// The answer to one of several commands.
pub type Answer = RedisResult<Value>;

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
    /// At most `size` connections; one carries everything until callers wait for it. No command takes longer than
    /// `timeout`.
    pub fn new(connector: Arc<Connector>, size: u32, timeout: Duration, metrics: Arc<LinkMetrics>) -> Self {
        let replaced = Arc::new(AtomicU64::new(0));
        let manager = Manager { connector: connector.clone(), replaced: replaced.clone() };
        let connections = bb8::Pool::builder()
            .max_size(size)
            .min_idle(1)
            .test_on_check_out(false)
            .connection_timeout(timeout)
            .retry_connection(false)
            .queue_strategy(QueueStrategy::Fifo)
            .error_sink(Box::new(Sink))
            .build_unchecked(manager);
        Self {
            connections,
            connector,
            timeout,
            replaced,
            stale: Notify::new(),
            under_way: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            turns: Semaphore::new(AT_ONCE),
            metrics,
            current: Mutex::default(),
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
        let state = self.connections.state();
        let in_use = self.under_way.load(Relaxed).min(state.connections);
        PoolStats { in_use, idle: state.connections - in_use, waiting: self.waiting.load(Relaxed) }
    }

    async fn send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let sent = self.metrics.sent();
        let outcome = self.try_send(request).await;
        sent.answered(&outcome);
        outcome
    }

    async fn try_send(&self, request: Request<'_>) -> Result<Vec<Answer>, Fault> {
        let _under_way = Counted::new(&self.under_way);
        let deadline = Instant::now() + self.timeout;
        let mut attempt = 1;
        loop {
            let mut link = match self.current() {
                Some(link) => link,
                None => self.link(deadline).await?,
            };
            let error = match timeout_at(deadline, link.send(request)).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => error,
                Err(_) => timed_out(),
            };
            if link.wire.is_cluster() && is_on_the_move(&error) && Instant::now() + MOVE < deadline {
                sleep(MOVE).await;
                continue;
            }
            if !is_away(&error) {
                return Err(Fault::Refused(error));
            }
            debug!(%error, "Redis failed a command");
            self.give_up(&link, &error);
            if attempt == ATTEMPTS || !error.is_connection_dropped() {
                return Err(Fault::Away(error));
            }
            attempt += 1;
        }
    }

    /// Sees to it that a connection which failed is not used again. Those to a cluster are used until there are others:
    /// a node that is lost must not concern the rest.
    fn give_up(&self, link: &Link, error: &RedisError) {
        if link.wire.is_cluster() {
            self.stale.notify_one();
        } else if error.is_timeout() {
            link.mark.store(true, Relaxed);
        } else {
            // The server said so, or was lost: the other connections are no better.
            self.connector.renew();
        }
    }

    /// Replaces connections to a cluster when one of its nodes failed, for ever.
    pub async fn look_after(&self) {
        loop {
            self.stale.notified().await;
            let wire = self.connector.connect().await;
            if let Ok(wire) = wire {
                let replaced = self.replaced.fetch_add(1, Relaxed) + 1;
                let generation = (self.connector.generation(), replaced);
                // Where there is no room, the pool makes another.
                _ = self.connections.add(Link { wire, mark: Arc::default(), generation });
            }
            sleep(jitter(self.timeout)).await;
        }
    }

    /// The share that was taken last, unless it is known to be broken or was used for long enough.
    fn current(&self) -> Option<Link> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        current.take_if(|(link, uses)| *uses == USES || link.is_broken(&self.connector, &self.replaced));
        let (link, uses) = current.as_mut()?;
        *uses += 1;
        Some(link.clone())
    }

    /// A share in a connection that is not known to be broken.
    async fn link(&self, deadline: Instant) -> Result<Link, Fault> {
        let _waiting = Counted::new(&self.waiting);
        let take = async || {
            let _turn = self.turns.acquire().await.ok()?;
            self.connections.get().await.ok()
        };
        loop {
            let pooled = timeout_at(deadline, take()).await.ok().flatten().ok_or_else(|| Fault::Away(timed_out()))?;
            if !pooled.is_broken(&self.connector, &self.replaced) {
                let link = pooled.clone();
                *self.current.lock().unwrap_or_else(PoisonError::into_inner) = Some((link.clone(), 0));
                return Ok(link);
            }
        }
    }
}

/// What an answer says.
pub fn read<T: FromRedisValue>(answer: Answer) -> Result<T, Fault> {
    answer.and_then(|answer| Ok(T::from_redis_value(answer)?)).map_err(Fault::Refused)
}

fn one(answer: Value) -> RedisResult<Vec<Answer>> {
    Ok(vec![Ok(answer.extract_error()?)])
}

/// The answers, unless one of them says that Redis can't serve now.
fn unless_failed(answers: Vec<Answer>) -> RedisResult<Vec<Answer>> {
    let failed = |error: &&RedisError| is_away(error) || is_on_the_move(error);
    let failure = answers.iter().filter_map(|answer| answer.as_ref().err()).find(failed).cloned();
    failure.map_or(Ok(answers), Err)
}

/// What is sent at once.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Commands(&'a Pipeline),
}

/// Whether Redis can't serve now.
fn is_away(error: &RedisError) -> bool {
    use ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, ReadOnly, TryAgain};
    match error.kind() {
        ErrorKind::Server(kind) => matches!(kind, BusyLoading | ClusterDown | MasterDown | ReadOnly | TryAgain),
        kind => matches!(kind, ErrorKind::Io | ErrorKind::ClusterConnectionNotFound),
    }
}

/// Whether keys are on their way from one node of a cluster to another.
fn is_on_the_move(error: &RedisError) -> bool {
    use ServerErrorKind::{Ask, Moved, TryAgain};
    matches!(error.kind(), ErrorKind::Server(Ask | Moved | TryAgain))
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

/// A connection, or a share in one.
#[derive(Clone)]
struct Link {
    wire: Wire,
    /// It failed a command.
    mark: Arc<AtomicBool>,
    /// The connector's generation, and how often the pool had replaced its connections.
    generation: (u64, u64),
}

impl Link {
    fn is_broken(&self, connector: &Connector, replaced: &AtomicU64) -> bool {
        self.mark.load(Relaxed) || self.generation != (connector.generation(), replaced.load(Relaxed))
    }

    async fn send(&mut self, request: Request<'_>) -> RedisResult<Vec<Answer>> {
        match (&mut self.wire, request) {
            (Wire::Node(wire), Request::Command(command)) => one(wire.req_packed_command(command).await?),
            (Wire::Cluster(wire), Request::Command(command)) => one(wire.req_packed_command(command).await?),
            (Wire::Node(wire), Request::Commands(commands)) => {
                let answers = wire.req_packed_commands(commands, 0, commands.len()).await?;
                unless_failed(answers.into_iter().map(Value::extract_error).collect())
            }
            // Each for itself: of commands that are sent as one, only the first would find keys that are on the move.
            (Wire::Cluster(wire), Request::Commands(commands)) => {
                let ask = |command| {
                    let mut wire = wire.clone();
                    async move { wire.req_packed_command(command).await?.extract_error() }
                };
                unless_failed(join_all(commands.cmd_iter().map(ask)).await)
            }
        }
    }
}

/// Makes connections for the pool, and judges them.
struct Manager {
    connector: Arc<Connector>,
    replaced: Arc<AtomicU64>,
}

impl ManageConnection for Manager {
    type Connection = Link;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<Link> {
        let generation = (self.connector.generation(), self.replaced.load(Relaxed));
        if generation != (0, 0) {
            // Not all replicas at the same moment.
            sleep(jitter(Duration::from_millis(20))).await;
        }
        let wire = self.connector.connect().await?;
        Ok(Link { wire, mark: Arc::default(), generation })
    }

    async fn is_valid(&self, _: &mut Link) -> RedisResult<()> {
        Ok(())
    }

    fn has_broken(&self, pooled: &mut Link) -> bool {
        pooled.is_broken(&self.connector, &self.replaced)
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
