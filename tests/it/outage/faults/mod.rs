//! Faults of Redis, of the network and of our own processes: their effects on callers and watchers, and the data
//! afterwards. `outage::failover` has the simple cases.

mod absent;
mod apart;
mod attempts;
mod crashes;
mod exhausted;
mod freed;
mod full;
mod load;
mod many;
mod restored;
mod silent;
mod streams;

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Durability, Job, ReconciledJob, reconciled_job::Outcome};
use tonic::Code;

use crate::support::{
    Client, Server,
    pace::scaled,
    redis::Redis,
    replicas::{get, in_time, read, server_on, stats},
};

/// Maximum duration of a call, whatever happens to Redis.
const LIMIT: Duration = Duration::from_secs(1);

/// Starts two servers on one Redis.
async fn two_on(redis: &Redis) -> [Server; 2] {
    [server_on(redis).await, server_on(redis).await]
}

/// Returns the current job.
async fn job(client: &mut Client, id: &str) -> Job {
    get(client, id).await.job.expect("a job")
}

/// Fails unless the job does not exist.
async fn assert_gone(client: &mut Client, id: &str) {
    let answer = client.get_job(read(id)).await;
    assert_eq!(answer.expect_err("it is gone").code(), Code::NotFound, "{id}");
}

/// Fails unless Redis has this job at this revision.
async fn assert_stored(client: &mut Client, id: &str, revision: i64) {
    let job = job(client, id).await;
    assert_eq!((job.revision, job.durability()), (revision, Durability::Durable), "{id}");
}

/// Returns the outcomes of a job in the report of the last reconciliation.
async fn told(server: &Server, id: &str) -> Vec<Outcome> {
    let reported = stats(&mut server.admin().await).await.last_reconciliation.expect("there was one");
    reported.jobs.iter().filter(|job| job.job_id == id).map(ReconciledJob::outcome).collect()
}

/// Returns the result of `call`, which must not exceed the maximum duration.
async fn soon<T>(what: &str, call: impl Future<Output = T>) -> T {
    let begun = Instant::now();
    let outcome = in_time(what, call).await;
    let took = begun.elapsed();
    assert!(took < LIMIT || took < scaled(LIMIT).await, "{what} took {took:?}");
    outcome
}
