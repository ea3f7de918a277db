//! The connections to Redis that the parts of the store share, and the names of its keys.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::RedisResult;
use uuid::Uuid;

use super::{
    connection::{ConnectionMetrics, Connector, Fault, Pool, Target},
    schema::keys::Keys,
};

/// Number of connections that lists, sweeps, re-reads and reconciliations share, so that a large answer does not delay
/// other calls.
const BULK_CONNECTIONS: u32 = 2;

/// Maximum size of a batch in bytes: it has to arrive within the time limit of one command.
const BATCH_BYTES_MAX: usize = 2 * 1024 * 1024;

/// Minimum size of a batch in bytes.
const BATCH_BYTES_MIN: usize = 64 * 1024;

/// Size of the first batch in bytes.
pub const BATCH_BYTES_START: usize = 256 * 1024;

/// The connections to Redis.
pub struct Client {
    target: Target,
    process: String,
    connector: Arc<Connector>,
    keys: Keys,
    calls: Pool,
    bulk: Pool,
    pulse: Pool,
    batch_size: BatchSize,
    metrics: Arc<ConnectionMetrics>,
}

impl Client {
    /// Creates a client of `target` with up to `pool_size` connections for calls. Connects when it is used.
    pub fn new(target: Target, pool_size: u32, timeout: Duration, key_prefix: &str) -> RedisResult<Self> {
        let connector = Arc::new(Connector::new(&target, timeout)?);
        let metrics = Arc::new(ConnectionMetrics::default());
        let pool = |size| Pool::new(connector.clone(), size, timeout, metrics.clone());
        Ok(Self {
            process: format!("{:x}", Uuid::new_v4().as_u64_pair().0),
            calls: pool(pool_size),
            bulk: pool(BULK_CONNECTIONS),
            pulse: pool(1),
            keys: Keys::new(key_prefix, target.database()),
            batch_size: BatchSize::default(),
            connector,
            target,
            metrics,
        })
    }

    /// Returns the address of Redis.
    pub const fn target(&self) -> &Target {
        &self.target
    }

    /// Returns the id of this process among those that share the data.
    pub fn process(&self) -> &str {
        &self.process
    }

    /// Returns the source of further connections.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Returns the names of the keys.
    pub const fn keys(&self) -> &Keys {
        &self.keys
    }

    /// Returns the connections that carry calls.
    pub const fn calls(&self) -> &Pool {
        &self.calls
    }

    /// Returns the connections for large answers and for work in the background.
    pub const fn bulk(&self) -> &Pool {
        &self.bulk
    }

    /// Returns the connection for health checks and beats, unaffected by other traffic.
    pub const fn pulse(&self) -> &Pool {
        &self.pulse
    }

    /// Returns the size of the next batch.
    pub const fn batch_size(&self) -> &BatchSize {
        &self.batch_size
    }

    /// Returns the metrics of all connections.
    pub fn metrics(&self) -> &ConnectionMetrics {
        &self.metrics
    }

    /// Maintains the connections; never returns.
    pub async fn maintain(&self) {
        tokio::join!(self.calls.maintain(), self.bulk.maintain(), self.pulse.maintain());
    }
}

/// The size of the next batch: grows by half while answers arrive in time, and halves after one that does not.
#[derive(Debug)]
pub struct BatchSize(AtomicUsize);

impl Default for BatchSize {
    fn default() -> Self {
        Self(AtomicUsize::new(BATCH_BYTES_START))
    }
}

impl BatchSize {
    /// Returns the size in bytes.
    pub fn get(&self) -> usize {
        self.0.load(Relaxed)
    }

    /// Adapts the size to the outcome of a batch.
    pub fn learn<T>(&self, outcome: &Result<T, Fault>) {
        let size = self.get();
        match outcome {
            Ok(_) => self.0.store((size + size / 2).min(BATCH_BYTES_MAX), Relaxed),
            Err(Fault::Unavailable(_)) => self.0.store((size / 2).max(BATCH_BYTES_MIN), Relaxed),
            Err(Fault::Refused(_)) => {}
        }
    }
}
