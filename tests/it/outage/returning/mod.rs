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
    EncodedStruct,
    health::health_client::HealthClient,
    v1::{
        CompleteJobRequest, Durability, GetStatsRequest, GetStatsResponse, Job, ReconciledJob, UpdateProgressRequest,
        reconciled_job::Outcome,
    },
};
use prost_types::{Struct, Value, value::Kind};
use redis::from_redis_value;
use tokio::time::{sleep, timeout};
use tonic::{Status, transport::Channel};
use tonic_health::{
    ServingStatus::{NotServing, Serving},
    pb::HealthCheckRequest,
};

use crate::support::{
    Admin, Client,
    redis::Redis,
    replicas::{Health, read},
};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum number of concurrent calls of a test.
const AT_ONCE: usize = 32;

/// Calls `probe` until it returns something, which is returned. Fails if it never does.
async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(WAIT_TIMEOUT, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {WAIT_TIMEOUT:?}: {what}"))
}

/// Waits until a server has reconciled its cached jobs, and serves from Redis.
async fn whole(channel: Channel) {
    Health::watch_on(channel, "redis").await.until(Serving).await;
}

/// Waits until a server has noticed that Redis is unavailable.
async fn degraded(channel: Channel) {
    Health::watch_on(channel, "redis").await.until(NotServing).await;
}

/// Returns whether a server serves from Redis now.
async fn is_serving(channel: &Channel) -> bool {
    let request = HealthCheckRequest { service: "redis".to_owned() };
    let answer = HealthClient::new(channel.clone()).check(request).await.expect("health is told").into_inner();
    answer.status == Serving as i32
}

/// Reads a job.
async fn get(client: &mut Client, id: &str) -> Result<Job, Status> {
    Ok(client.get_job(read(id)).await?.into_inner().job.expect("a job"))
}

/// Reports on a job.
async fn report(client: &mut Client, id: &str) -> Result<Job, Status> {
    let request = UpdateProgressRequest { job_id: id.to_owned(), ..UpdateProgressRequest::default() };
    Ok(client.update_progress(request).await?.into_inner().job.expect("a job"))
}

/// Completes a job with a result.
async fn complete(client: &mut Client, id: &str, result: Option<EncodedStruct>) -> Result<Job, Status> {
    let request = CompleteJobRequest { job_id: id.to_owned(), result, ..CompleteJobRequest::default() };
    Ok(client.complete_job(request).await?.into_inner().job.expect("a job"))
}

/// Returns a result of about this many bytes.
fn result(bytes: usize) -> EncodedStruct {
    let text = Value { kind: Some(Kind::StringValue("x".repeat(bytes))) };
    Struct { fields: [("text".to_owned(), text)].into() }.into()
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
    until(id, async || get(client, id).await.ok().filter(is_stored)).await
}

async fn stats(admin: &mut Admin) -> GetStatsResponse {
    admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
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
