//! Records of jobs in Redis, read and changed without a server.

use redis::{FromRedisValue, from_redis_value};

use super::redis::Redis;

/// Number of partitions, which is part of the data format.
pub const PARTITIONS: usize = 16;

/// Returns the answer of Redis to a command.
pub async fn ask<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    from_redis_value(redis.command(words).await).expect("an answer of this type")
}

/// Returns the partition of an id, which is part of the data format.
pub fn partition(id: &str) -> usize {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as usize % PARTITIONS
}

/// Returns the key of a job's record.
pub fn record_key(id: &str) -> String {
    format!("job:{{{}}}:{id}", partition(id))
}

/// Returns the key of this name in the partition of a job.
pub fn partition_key(id: &str, name: &str) -> String {
    format!("jobs:{{{}}}:{name}", partition(id))
}

/// Returns the key of a job's record, which must exist.
pub async fn key_of(redis: &Redis, id: &str) -> String {
    let key = record_key(id);
    assert!(ask::<bool>(redis, &["EXISTS", &key]).await, "Redis has no job {id}");
    key
}

/// Gives the record of a job the version of a different change, `step` revisions later, without a notification.
/// Returns its revision.
pub async fn set_version(redis: &Redis, id: &str, step: i64) -> i64 {
    let key = record_key(id);
    let version: String = ask(redis, &["HGET", &key, "v"]).await;
    let parts: Vec<_> = version.split(' ').collect();
    let next = parts[0].parse::<i64>().expect("a number") + step;
    // Of two changes with the same time, this one wins.
    let version = format!("{next} {:x}.{next:x} {} {}", u64::MAX, parts[2], parts[3]);
    redis.command(&["HSET", &key, "v", &version]).await;
    next
}

/// Counts a commit in the partition of a job, as a replica does. Returns the new count.
pub async fn count_commit(redis: &Redis, id: &str) -> i64 {
    ask(redis, &["INCR", &partition_key(id, "commits")]).await
}
