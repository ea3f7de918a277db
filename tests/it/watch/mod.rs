//! The streams of events.

mod dispatch;
mod job;
mod job_resume;
mod jobs;
mod jobs_resume;
mod laws;
mod slow_subscribers;

use jobtrack::proto::v1::{JobFilter, WatchJobsRequest, job::State};

/// Returns a request for all jobs.
fn all() -> WatchJobsRequest {
    WatchJobsRequest::default()
}

/// Returns a request for the jobs in these states.
fn in_state(states: &[State]) -> WatchJobsRequest {
    let states = states.iter().map(|state| *state as i32).collect();
    WatchJobsRequest { filter: Some(JobFilter { states, ..JobFilter::default() }), ..all() }
}
