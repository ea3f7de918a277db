//! Redis becomes unavailable, in whole or in part, and comes back: the behaviour of replicas towards the jobs in their
//! memory.

mod channels;
mod coming_back;
mod graceful_stop;
mod indexes;
mod losses;
mod old_copies;
mod ownership;
mod partitions;
mod refused_creations;

use std::{future::Future, time::Duration};

use futures_util::{StreamExt, stream};
use jobtrack::proto::{
    health::health_client::HealthClient,
    v1::{Durability, GetStatsResponse, Job, ReconciledJob, reconciled_job::Outcome},
};
use redis::from_redis_value;
use tonic::transport::Channel;
use tonic_health::{ServingStatus::Serving, pb::HealthCheckRequest};

use crate::support::{Client, redis::Redis, replicas::try_get, until};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of concurrent calls of a test.
const AT_ONCE: usize = 32;

/// Returns whether a server serves from Redis now.
async fn is_serving(channel: &Channel) -> bool {
    let request = HealthCheckRequest { service: "redis".to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await.expect("health is told").into_inner();
    answer.status == Serving as i32
}

/// Makes a call for each of these ids, some at a time. Returns the outcomes in that order.
async fn each<T, F: Future<Output = T>>(client: &Client, ids: &[String], call: impl Fn(Client, String) -> F) -> Vec<T> {
    let calls = ids.iter().map(|id| call(client.clone(), id.clone()));
    stream::iter(calls).buffered(AT_ONCE).collect().await
}

/// Returns `count` ids that begin with `name`.
fn ids(name: &str, count: usize) -> Vec<String> {
    (0..count).map(|number| format!("{name}-{number}")).collect()
}

/// Waits until `client` reads a job from Redis, at this revision or a later one.
async fn stored(client: &mut Client, id: &str, revision: i64) -> Job {
    let is_stored = |job: &Job| job.durability() == Durability::Durable && job.revision >= revision;
    until(id, async || try_get(client, id).await.ok().filter(is_stored)).await
}

/// Returns the outcomes of a job in the report of the last reconciliation.
fn outcomes(stats: &GetStatsResponse, id: &str) -> Vec<Outcome> {
    let reconciled = stats.last_reconciliation.iter().flat_map(|report| &report.jobs);
    reconciled.filter(|job| job.job_id == id).map(ReconciledJob::outcome).collect()
}

/// Returns the ids of the jobs that a Redis stores itself, without redirection.
async fn ids_in(redis: &Redis) -> Vec<String> {
    let keys: Vec<String> = from_redis_value(redis.command(&["KEYS", "job:{*}:*"]).await).expect("texts");
    keys.iter().filter_map(|key| Some(key.split_once("}:")?.1.to_owned())).collect()
}

/// Returns a count from a section of INFO.
async fn told(redis: &Redis, section: &str, name: &str) -> u64 {
    let info = redis.info(section).await;
    let value = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_else(|| panic!("no {name} in {info}"))
}
