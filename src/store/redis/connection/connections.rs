//! The connections of a pool, made by bb8 and shared by all callers.

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
    connector::{Connector, RawConnection},
    pooled::{Generation, PooledConnection},
};
use crate::store::jitter;

/// Maximum number of connections that are made at a time, however many callers wait, so that a Redis that has just come
/// back is not overloaded.
const CONNECTING_MAX: usize = 2;

/// Number of uses of a connection before another one replaces it as the current one.
const USES_MAX: u32 = 64;

/// Time after which a caller asks bb8 again for a connection: an attempt that fails just as the caller begins to wait
/// would leave it waiting in vain.
const TAKE_RETRY_INTERVAL: Duration = Duration::from_millis(50);

/// Interval at which a pool that was refused a connection checks whether all its other connections are broken.
const REFUSAL_CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum pause before a connection is replaced, so that not all replicas reconnect at the same moment.
const RECONNECT_JITTER: Duration = Duration::from_millis(20);

/// Connections that are made on demand.
pub struct Connections {
    pool: bb8::Pool<Manager>,
    generations: Generations,
    turns: Semaphore,
    /// The connection in use, and the number of its uses.
    current: Mutex<Option<(PooledConnection, u32)>>,
}

impl Connections {
    /// Creates a pool of at most `size` connections.
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
        Self { pool, generations, turns: Semaphore::new(CONNECTING_MAX), current: Mutex::default() }
    }

    /// Returns the number of connections.
    pub fn count(&self) -> u32 {
        self.pool.state().connections
    }

    /// Returns the number of commands that wait for a permit to use the current connection.
    pub fn waiting(&self) -> u32 {
        self.shared().as_ref().map_or(0, |(connection, _)| connection.waiting())
    }

    /// Returns the current connection, unless it is known to be broken. After enough uses another one replaces it,
    /// if one is available.
    pub fn current(&self) -> Option<PooledConnection> {
        let mut current = self.shared();
        current.take_if(|(connection, _)| connection.is_broken(self.generations.now()));
        let (connection, uses) = current.as_mut()?;
        *uses += 1;
        if *uses >= USES_MAX {
            *uses = 0;
            if let Some(Ok(next)) = self.pool.get().now_or_never()
                && !next.is_broken(self.generations.now())
            {
                *connection = next.clone();
            }
        }
        Some(connection.clone())
    }

    /// Waits for a connection, which becomes the current one. Fails at once if there is none and Redis refuses new
    /// ones.
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

    /// Replaces all connections by one over `raw`.
    pub fn replace(&self, raw: RawConnection) {
        let Generations { connector, replaced } = &self.generations;
        let generation = (connector.generation(), replaced.fetch_add(1, Relaxed) + 1);
        let connection = PooledConnection::new(raw, generation);
        *self.shared() = Some((connection.clone(), 0));
        // If the pool has no room for this connection, the pool makes another one later.
        _ = self.pool.add(connection);
    }

    /// Returns whether `connection` has been replaced, so that its failures say nothing about the connections in use.
    pub fn have_replaced(&self, connection: &PooledConnection) -> bool {
        !connection.is_of(self.generations.now())
    }

    /// Waits for a connection that is not known to be broken.
    pub async fn take(&self) -> PooledConnection {
        loop {
            let taking = async {
                let _turn = self.turns.acquire().await;
                self.pool.get().await
            };
            if let Ok(Ok(connection)) = timeout(TAKE_RETRY_INTERVAL, taking).await
                && !connection.is_broken(self.generations.now())
            {
                return connection.clone();
            }
        }
    }

    /// Waits until Redis refuses a connection and the pool has none.
    fn refused(&self) -> impl Future<Output = RedisError> {
        // Subscribed before the future is polled, so that no refusal is missed.
        let mut refusals = self.generations.connector.reachability().refusals();
        async move {
            loop {
                let error = refusals.next().await;
                // Some servers refuse connections only because there are too many. Then the existing ones are used.
                if self.count() == 0 {
                    return error;
                }
                sleep(REFUSAL_CHECK_INTERVAL).await;
            }
        }
    }

    fn shared(&self) -> MutexGuard<'_, Option<(PooledConnection, u32)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The generation of the connections that may still be used.
#[derive(Clone)]
struct Generations {
    connector: Arc<Connector>,
    /// Number of times that the connections to a cluster were replaced.
    replaced: Arc<AtomicU64>,
}

impl Generations {
    fn now(&self) -> Generation {
        (self.connector.generation(), self.replaced.load(Relaxed))
    }
}

/// The maker of connections for bb8, which also detects broken ones.
struct Manager(Generations);

impl ManageConnection for Manager {
    type Connection = PooledConnection;
    type Error = RedisError;

    async fn connect(&self) -> RedisResult<PooledConnection> {
        let generation = self.0.now();
        if generation != (0, 0) {
            sleep(jitter(RECONNECT_JITTER)).await;
        }
        let raw = self.0.connector.connect().await?;
        Ok(PooledConnection::new(raw, generation))
    }

    async fn is_valid(&self, _: &mut PooledConnection) -> RedisResult<()> {
        Ok(())
    }

    fn has_broken(&self, connection: &mut PooledConnection) -> bool {
        connection.is_broken(self.0.now())
    }
}

/// A logger of failed attempts to connect.
#[derive(Debug)]
struct Sink;

impl bb8::ErrorSink<RedisError> for Sink {
    fn sink(&self, error: RedisError) {
        debug!(%error, "connecting to Redis failed");
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<RedisError>> {
        Box::new(Self)
    }
}
