//! The stream of many jobs, resumed with a token.

mod changes;
mod tokens;

use std::collections::BTreeMap;

use jobtrack::proto::v1::{CreateJobRequest, Event, JobFilter, WatchJobsRequest};

use super::all;
use crate::support::{
    Client,
    watching::{Seen, Watch, make, watch_jobs},
};

fn owned_by(owner: &str) -> WatchJobsRequest {
    WatchJobsRequest { filter: Some(JobFilter { owner: owner.into(), ..JobFilter::default() }), ..all() }
}

fn behind(token: &str, request: &WatchJobsRequest) -> WatchJobsRequest {
    WatchJobsRequest { resume_token: token.to_owned(), ..request.clone() }
}

/// Returns the token of the bookmark after the snapshots.
async fn token(client: &Client, request: &WatchJobsRequest) -> String {
    let mut events = watch_jobs(client, request.clone()).await.until_bookmark().await;
    events.pop().expect("a bookmark").token
}

/// Resumes, and reads the bookmark.
async fn resume(client: &Client, token: &str, request: &WatchJobsRequest) -> Watch {
    let mut stream = watch_jobs(client, behind(token, request)).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    stream
}

/// Creates the job `fence`. Returns the last event of each job before the one of that job.
async fn known_by_fence(stream: &mut Watch, client: &mut Client, fence: CreateJobRequest) -> BTreeMap<String, Seen> {
    let id = make(client, fence).await.id;
    let mut events = stream.until_job(&id).await;
    events.pop();
    events.into_iter().map(|seen| (seen.id().to_owned(), seen)).collect()
}
