//! Attempts of workers, over the wire.

use jobtrack::proto::v1::{
    FailJobRequest, Failure, Job, StartAttemptRequest, UpdateProgressRequest, UpdateProgressResponse,
};
use tonic::Status;

use super::Client;

/// A granted claim.
pub struct Claimed {
    pub job: Job,
    pub claim: String,
}

/// Returns the request of a worker to claim the next attempt. Requests of different workers differ in `worker`.
pub fn by(id: &str, worker: &str) -> StartAttemptRequest {
    StartAttemptRequest { job_id: id.into(), worker: worker.into(), ..StartAttemptRequest::default() }
}

pub async fn start(client: &mut Client, request: StartAttemptRequest) -> Result<Claimed, Status> {
    let answer = client.start_attempt(request).await?.into_inner();
    Ok(Claimed { job: answer.job.expect("a job"), claim: answer.claim })
}

pub async fn claim(client: &mut Client, id: &str, worker: &str) -> Claimed {
    start(client, by(id, worker)).await.unwrap_or_else(|status| panic!("{id} can't be claimed: {status:?}"))
}

/// Sends a heartbeat under a claim.
pub async fn beat(client: &mut Client, id: &str, claim: &str) -> Result<UpdateProgressResponse, Status> {
    let request = UpdateProgressRequest { job_id: id.into(), claim: claim.into(), ..UpdateProgressRequest::default() };
    Ok(client.update_progress(request).await?.into_inner())
}

/// Returns a request that ends the attempt as failed and asks for another one.
pub fn failed(id: &str, claim: &str, reason: &str) -> FailJobRequest {
    let failure = Some(Failure { reason: reason.into(), message: format!("{reason}!"), ..Failure::default() });
    FailJobRequest { job_id: id.into(), claim: claim.into(), retry: true, failure, ..FailJobRequest::default() }
}

pub async fn retry(client: &mut Client, id: &str, claim: &str, reason: &str) -> Result<Job, Status> {
    Ok(client.fail_job(failed(id, claim, reason)).await?.into_inner().job.expect("a job"))
}
