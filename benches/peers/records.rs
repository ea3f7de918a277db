//! Jobs as values: what a caller of a store without rules has to write by itself.

use std::time::SystemTime;

use jobtrack::proto::v1::{CreateJobRequest, Durability, Job, UpdateProgressRequest, job::State};
use prost::Message;

use crate::workload::Jobs;

/// Returns the encoded job that a creation stores.
pub fn created(jobs: &Jobs, job: u32) -> Vec<u8> {
    new_job(jobs, job).encode_to_vec()
}

/// Returns the encoded job that a report stores.
pub fn reported(jobs: &Jobs, job: u32, request: UpdateProgressRequest) -> Vec<u8> {
    let UpdateProgressRequest { progress, worker, .. } = request;
    let fresh = new_job(jobs, job);
    Job { state: State::Running.into(), attempt: 1, start_time: fresh.create_time, progress, worker, ..fresh }
        .encode_to_vec()
}

fn new_job(jobs: &Jobs, job: u32) -> Job {
    let CreateJobRequest { job_id, kind, owner, labels, .. } = jobs.create_request(job);
    let now = Some(SystemTime::now().into());
    Job {
        id: job_id,
        kind,
        owner,
        labels,
        state: State::Pending.into(),
        create_time: now,
        update_time: now,
        revision: 1,
        durability: Durability::Volatile.into(),
        ..Job::default()
    }
}
