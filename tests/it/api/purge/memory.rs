//! Memory that a purge gives back.

use std::{ops::Range, time::Duration};

use jobtrack::proto::v1::PurgeJobsRequest;
use redis::from_redis_value;
use tokio::{task::JoinSet, time::timeout};

use super::{MAKERS, make_large, measured, purge, purge_all};
use crate::support::{process::Process, redis::Redis, replicas::server_on};

/// Time within which memory that was freed is given back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// The memory that a Redis uses for data.
async fn used(redis: &Redis) -> usize {
    // Redis subtracts what it takes for overhead, and may come below zero.
    let bytes = measured(redis, "used_memory_dataset").await.cast_signed();
    usize::try_from(bytes).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_its_memory_back_after_a_purge() {
    const JOBS: usize = 100;
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    // Indexes and buffers of connections grow once: they exist before the measurement.
    make_large(&mut client, JOBS).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let before = used(&redis).await;
    for number in 0..JOBS {
        make_large(&mut client, number).await;
    }
    let full = used(&redis).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let after = used(&redis).await;
    let of_a_job = |used: usize| used.saturating_sub(before) / JOBS;
    assert!(of_a_job(full) > 20_000, "the jobs are in Redis");
    assert!(of_a_job(after) <= 2_000, "{} bytes of a job of {} are left", of_a_job(after), of_a_job(full));
    let keys = redis.command(&["KEYS", "job:*:large-*"]).await;
    let keys: Vec<String> = from_redis_value(keys).expect("keys");
    assert_eq!(keys.len(), JOBS + 1);
    for key in keys {
        let size = redis.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
        let size: usize = from_redis_value(size).expect("a size");
        assert!(size <= 950, "the tombstone {key} takes {size} bytes");
    }
    server.stop().await;
}

/// Makes large jobs that have ended, several at a time.
async fn make_many_large(server: &Process, numbers: Range<usize>) {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let (mut client, numbers) = (server.client().await, numbers.clone());
        makers.spawn(async move {
            for number in numbers.skip(maker).step_by(MAKERS) {
                make_large(&mut client, number).await;
            }
        });
    }
    makers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_after_a_purge() {
    const JOBS: usize = 1_000;
    let server = Process::start(&[]);
    let mut admin = server.admin().await;
    // Buffers of connections grow once: they exist before the measurement.
    make_many_large(&server, JOBS..JOBS + 50).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let before = server.resident();
    make_many_large(&server, 0..JOBS).await;
    let full = server.resident();
    let purged: i64 = purge_all(&mut admin, PurgeJobsRequest::default()).await.iter().sum();
    assert_eq!(purged, 1_000);
    let of_a_job = |resident: u64| resident.saturating_sub(before) / JOBS as u64;
    assert!(of_a_job(full) > 60_000, "a job takes {} bytes", of_a_job(full));
    // Less than the texts of a job, without its documents, take.
    let released = async {
        while of_a_job(server.resident()) > 10_000 {
            purge(&mut admin, &PurgeJobsRequest::default()).await;
        }
    };
    let is_released = timeout(RELEASE_TIMEOUT, released).await.is_ok();
    let left = of_a_job(server.resident());
    println!("a job takes {} bytes, its tombstone {left}", of_a_job(full));
    assert!(is_released, "{left} bytes of a job are left");
}
