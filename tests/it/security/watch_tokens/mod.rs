//! Watch tokens: what their holders may call, what they see, and when the tokens end.

mod ends;
mod forged;
mod keys;
mod replicas;
mod rights;

use std::time::Duration;

use jobtrack::proto::v1::{
    CreateJobRequest, CreateWatchTokenRequest, CreateWatchTokenResponse, GetJobRequest, Job, View, WatchJobRequest,
    WatchJobResponse, WatchJobsRequest, WatchJobsResponse,
};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};
use tonic::{Code, Status, Streaming};

use crate::support::{
    Client, Server,
    credentials::{Folder, bearer, holder, identities},
    error_info, new_job,
    replicas::in_time,
};

/// Returns the entries of Alice with two owners, of Bob with another one, and of an admin of all owners.
fn entries() -> Vec<Value> {
    vec![
        holder("alice", "reporter", &json!(["a1", "a2"])),
        holder("bob", "reporter", &json!(["bob"])),
        holder("root", "admin", &json!("*")),
    ]
}

/// Starts a server with these entries and flags. Returns it with the folder of its `identities.json`.
async fn server_with(entries: &[Value], flags: &[&str]) -> (Server, Folder) {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(entries));
    (Server::with(&[&["--auth-tokens", &file], flags].concat()).await, folder)
}

/// Starts a server with the entries above.
async fn server() -> (Server, Folder) {
    server_with(&entries(), &[]).await
}

fn owned(id: &str, owner: &str) -> CreateJobRequest {
    CreateJobRequest { owner: owner.to_owned(), ..new_job(id) }
}

/// Creates jobs of Alice's.
async fn create(client: &mut Client, ids: &[&str]) {
    for id in ids {
        client.create_job(bearer("alice", owned(id, "a1"))).await.expect("it is not there yet");
    }
}

/// Returns a request for a token for these jobs.
fn request(ids: &[&str]) -> CreateWatchTokenRequest {
    CreateWatchTokenRequest { job_ids: ids.iter().map(|&id| id.to_owned()).collect(), ..Default::default() }
}

/// Makes a token.
async fn issue(client: &mut Client, maker: &str, request: CreateWatchTokenRequest) -> CreateWatchTokenResponse {
    client.create_watch_token(bearer(maker, request)).await.expect("a token").into_inner()
}

/// Makes a token for these jobs of Alice's.
async fn token_for(client: &mut Client, ids: &[&str]) -> String {
    issue(client, "alice", request(ids)).await.token
}

fn read(id: &str) -> GetJobRequest {
    GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() }
}

/// Reads a job with a token.
async fn get(client: &mut Client, token: &str, id: &str) -> Result<Job, Status> {
    get_view(client, token, id, View::Unspecified).await
}

async fn get_view(client: &mut Client, token: &str, id: &str, view: View) -> Result<Job, Status> {
    let request = GetJobRequest { view: view.into(), ..read(id) };
    client.get_job(bearer(token, request)).await.map(|answer| answer.into_inner().job.expect("a job"))
}

/// Watches a job with a token.
async fn watch(client: &mut Client, token: &str, id: &str) -> Result<Streaming<WatchJobResponse>, Status> {
    let request = WatchJobRequest { job_id: id.to_owned(), ..WatchJobRequest::default() };
    client.watch_job(bearer(token, request)).await.map(tonic::Response::into_inner)
}

/// Watches jobs with a token.
async fn watch_jobs(client: &mut Client, token: &str, ids: &[&str]) -> Result<Streaming<WatchJobsResponse>, Status> {
    let job_ids = ids.iter().map(|&id| id.to_owned()).collect();
    let request = WatchJobsRequest { job_ids, ..WatchJobsRequest::default() };
    client.watch_jobs(bearer(token, request)).await.map(tonic::Response::into_inner)
}

/// Returns the next event of a stream, or its error. Fails if it ends well.
async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    in_time("the next event", stream.message()).await.map(|event| event.expect("the stream goes on"))
}

/// Reads a stream to its error, which must come in time, whatever comes before.
async fn error<T>(stream: &mut Streaming<T>) -> Status {
    let error = async {
        loop {
            if let Err(status) = next(stream).await {
                return status;
            }
        }
    };
    in_time("the error", error).await
}

/// Fails unless the call was rejected for its credentials, with this problem.
#[track_caller]
fn assert_unauthenticated(status: &Status, problem: &str) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::Unauthenticated, "UNAUTHENTICATED"), "{status:?}");
    assert_eq!(info.metadata["problem"], problem, "{status:?}");
}

/// Fails unless the call was rejected because a watch token does not allow it, and the error names what is needed.
#[track_caller]
fn assert_denied(status: &Status, needed: (&str, &str)) {
    let info = error_info(status);
    assert_eq!((status.code(), info.reason.as_str()), (Code::PermissionDenied, "PERMISSION_DENIED"), "{status:?}");
    assert_eq!(info.metadata.get(needed.0).map(String::as_str), Some(needed.1), "{status:?}");
    assert!(status.message().contains("watch token"), "{status:?}");
}

/// Waits until `found` returns a value: files and keys are checked once a second.
async fn until<T>(what: &str, mut found: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(found) = found().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not in time");
        sleep(Duration::from_millis(20)).await;
    }
}
