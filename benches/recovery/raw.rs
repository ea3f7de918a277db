//! Clients that only read versions, and the counters of Redis.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, future::join_all, stream};
use jobtrack::{domain::JobId, store::RedisStore};
use redis::{Client, Pipeline, aio::MultiplexedConnection};

use super::servers::Redis;

/// Number of versions in a pipeline, and of pipelines of a client at a time: as many versions as a replica reads at a
/// time, some 125 of each of its 16 partitions.
const PIPELINE: usize = 500;
const AT_ONCE: usize = 4;

/// Time and CPU of a reading by all clients.
pub struct Reading {
    pub time: Duration,
    pub redis_cpu: Duration,
}

/// The key of a job's record.
pub fn key(id: &JobId) -> String {
    format!("job:{{{}}}:{id}", (RedisStore::PARTITIONING.of)(id))
}

/// Reads the versions under all these keys with each of `clients` clients at the same time.
pub async fn read_all(redis: &Redis, keys: &[String], clients: usize) -> Reading {
    let connections = join_all((0..clients).map(|_| connect(redis))).await;
    let (started, before) = (Instant::now(), cpu(redis).await);
    let reading = connections.into_iter().map(|connection| tokio::spawn(read(connection, keys.to_vec())));
    for versions in join_all(reading).await {
        assert_eq!(versions.expect("it does not panic").len(), keys.len());
    }
    Reading { time: started.elapsed(), redis_cpu: cpu(redis).await.saturating_sub(before) }
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    let client = Client::open(redis.url()).expect("a valid address");
    let config = redis::AsyncConnectionConfig::new().set_response_timeout(Some(Duration::from_secs(60)));
    client.get_multiplexed_async_connection_with_config(&config).await.expect("Redis answers")
}

async fn read(connection: MultiplexedConnection, keys: Vec<String>) -> Vec<String> {
    let parts: Vec<_> = keys.chunks(PIPELINE).map(<[String]>::to_vec).collect();
    let parts = stream::iter(parts).map(|keys| {
        let mut connection = connection.clone();
        async move {
            let mut pipeline = Pipeline::new();
            for key in &keys {
                pipeline.hget(key, "v");
            }
            let versions: Vec<String> = pipeline.query_async(&mut connection).await.expect("all are there");
            versions
        }
    });
    parts.buffered(AT_ONCE).concat().await
}

/// Returns the bytes that Redis has to send, and to receive, to have the versions under these keys read once.
pub async fn bytes(redis: &Redis, keys: &[String]) -> [u64; 2] {
    let versions = read(connect(redis).await, keys.to_vec()).await;
    let text = |length: usize| format!("${length}\r\n").len() + length + "\r\n".len();
    let command = |key: &String| "*3\r\n".len() + text("HGET".len()) + text(key.len()) + text("v".len());
    let sum = |lengths: &mut dyn Iterator<Item = usize>| lengths.sum::<usize>() as u64;
    [sum(&mut versions.iter().map(|version| text(version.len()))), sum(&mut keys.iter().map(command))]
}

/// Returns the bytes that Redis has sent and received since it started.
pub async fn traffic(redis: &Redis) -> [u64; 2] {
    let stats = redis.info("stats").await;
    ["total_net_output_bytes:", "total_net_input_bytes:"].map(|name| number(&stats, name))
}

/// Returns the CPU time that Redis has used since it started.
pub async fn cpu(redis: &Redis) -> Duration {
    let info = redis.info("cpu").await;
    let seconds: f64 = ["used_cpu_user:", "used_cpu_sys:"].map(|name| number::<f64>(&info, name)).iter().sum();
    Duration::from_secs_f64(seconds)
}

fn number<T: std::str::FromStr>(info: &str, name: &str) -> T {
    let value = info.lines().find_map(|line| line.strip_prefix(name)).and_then(|value| value.trim().parse().ok());
    value.unwrap_or_else(|| panic!("no {name} in {info}"))
}
