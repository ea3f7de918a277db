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
use redis::{
    Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::ConnectionLike,
};
use tokio::time::{Instant, sleep, timeout_at};
use tracing::debug;

use super::connect::{Connector, Wire, jitter, timed_out};

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
    /// At most `size` connections; one carries everything until callers wait for it. No command takes longer than
    /// `timeout`.
    pub fn new(connector: Arc<Connector>, size: u32, timeout: Duration) -> Self {
        let generation = Arc::new(AtomicU64::new(0));
        let manager = Manager { connector, generation: generation.clone() };
        let connections = bb8::Pool::builder()
            .max_size(size)
            .min_idle(1)
            .test_on_check_out(false)
            .connection_timeout(timeout)
            .retry_connection(false)
            .queue_strategy(QueueStrategy::Fifo)
            .error_sink(Box::new(Sink))
            .build_unchecked(manager);
        Self { connections, timeout, generation, under_way: AtomicU32::new(0) }
    }

    /// Uses none of the connections again that were made so far.
    pub fn renew(&self) {
        self.generation.fetch_add(1, Relaxed);
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
                self.renew();
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
    connector: Arc<Connector>,
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
