//! The connections of a pool, made by bb8 and shared by all who call.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bb8_redis::bb8::{self, ManageConnection, QueueStrategy};
use futures_util::FutureExt;
use redis::{RedisError, RedisResult};
use tokio::{
    select,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    connector::{Connector, Wire},
    pooled::{Generation, PooledConnection},
};
use crate::store::jitter;

/// The number of connections that are made at a time, however many callers wait: a Redis that comes back has enough to
/// do.
const AT_ONCE: usize = 2;

/// The number of times a connection is used before another has its turn.
const USES: u32 = 64;

/// The time after which a caller asks bb8 again for a connection: an attempt that fails at the moment at which the
/// caller begins to wait would leave it waiting for nothing.
const TAKE_AGAIN: Duration = Duration::from_millis(50);

/// The pause between looks whether the connections of a pool that was refused one are all broken.
const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The longest pause before a connection is made in the place of another, so that not all replicas do it at the same
/// moment.
const RECONNECT_JITTER: Duration = Duration::from_millis(20);

/// Connections that are made when they are needed.
pub struct Connections {
    pool: bb8::Pool<Manager>,
    generations: Generations,
    turns: Semaphore,
    /// The share that was taken last, and how often it was used.
    current: Mutex<Option<(PooledConnection, u32)>>,
}

impl Connections {
    /// Makes `size` connections at most.
    pub fn new(connector: Arc<Connector>, size: u32, timeout: Duration) -> Self {
        let generations = Generations { connector, replaced: Arc::default() };
        let pool = bb8::Pool::builder()
            .max_size(size)
            .min_idle(1)
            .test_on_check_out(false)
            .connection_timeout(timeout)
            .retry_connection(false)
            .queue_strategy(QueueStrategy::Fifo)
            .error_sink(Box::new(Sink))
            .build_unchecked(Manager(generations.clone()));
        Self { pool, generations, turns: Semaphore::new(AT_ONCE), current: Mutex::default() }
    }

    /// The number of connections that there are.
    pub fn count(&self) -> u32 {
        self.pool.state().connections
    }

    /// The share that was taken last, unless it is known to be broken. After enough uses another takes its place, if there
    /// is one at hand.
    pub fn current(&self) -> Option<PooledConnection> {
        let mut current = self.shared();
        current.take_if(|(connection, _)| connection.is_broken(self.generations.now()));
        let (connection, uses) = current.as_mut()?;
        *uses += 1;
        if *uses >= USES
            && let Some(Ok(next)) = self.pool.get().now_or_never()
            && !next.is_broken(self.generations.now())
        {
            (*connection, *uses) = (next.clone(), 0);
        }
        Some(connection.clone())
    }

    /// Waits for a connection, which becomes the current one. Fails at once where there is none and Redis refuses others.
    pub async fn get(&self) -> RedisResult<PooledConnection> {
        let refused = self.refused();
        let connection = select! {
            biased;
            connection = self.take() => connection,
            error = refused => return Err(error),
        };
        *self.shared() = Some((connection.clone(), 0));
        Ok(connection)
    }

    /// Uses a connection to `wire` in the place of all others.
    pub fn replace(&self, wire: Wire) {
        let Generations { connector, replaced } = &self.generations;
        let generation = (connector.generation(), replaced.fetch_add(1, Relaxed) + 1);
        let connection = PooledConnection::new(wire, generation);
        *self.shared() = Some((connection.clone(), 0));
        // Where there is no room, the pool makes another.
        _ = self.pool.add(connection);
    }

    /// Whether `connection` is not used any more, so that what it finds says nothing of those that are.
    pub fn are_newer_than(&self, connection: &PooledConnection) -> bool {
        connection.is_broken(self.generations.now())
    }

    /// Waits for a connection that is not known to be broken.
    pub async fn take(&self) -> PooledConnection {
        loop {
            let taking = async {
                let _turn = self.turns.acquire().await;
                self.pool.get().await
            };
            if let Ok(Ok(connection)) = timeout(TAKE_AGAIN, taking).await
                && !connection.is_broken(self.generations.now())
            {
                return connection.clone();
            }
        }
    }

    /// Waits until Redis refuses a connection and the pool has none.
    fn refused(&self) -> impl Future<Output = RedisError> {
        // From here on no refusal is missed.
        let mut refusals = self.generations.connector.reachability().refusals();
        async move {
            loop {
                let error = refusals.next().await;
                // Some servers refuse connections only because there are so many: those that are there are used.
                if self.count() == 0 {
                    return error;
                }
                sleep(LOOK_AGAIN).await;
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Option<(PooledConnection, u32)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Knows which connections may still be used.
#[derive(Clone)]
struct Generations {
    connector: Arc<Connector>,
    /// How often the connections to a cluster were replaced.
    replaced: Arc<AtomicU64>,
}

impl Generations {
    fn now(&self) -> Generation {
        (self.connector.generation(), self.replaced.load(Relaxed))
    }
}

/// Makes connections for bb8, and judges them.
struct Manager(Generations);

impl ManageConnection for Manager {
    type Connection = PooledConnection;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<PooledConnection> {
        let generation = self.0.now();
        if generation != (0, 0) {
            sleep(jitter(RECONNECT_JITTER)).await;
        }
        let wire = self.0.connector.connect().await?;
        Ok(PooledConnection::new(wire, generation))
    }

    async fn is_valid(&self, _: &mut PooledConnection) -> RedisResult<()> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        connection.is_broken(self.0.now())
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
