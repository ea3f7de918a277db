//! Streams after the end of their caller's credentials: only that end is sent.

use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::{iter, pending};
use jobtrack::proto::v1::{
    CreateJobRequest, Event, Progress, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest,
};
use serde_json::json;
use tokio::time::timeout;
use tonic::{Status, Streaming, transport::Endpoint};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest,
};

use super::assert_unauthenticated;
use crate::support::{
    Client, Server,
    credentials::{Folder, bearer, holder, identities},
    large_document, new_job, reason,
    replicas::in_time,
};

/// Starts a server with the callers `gone`, which [`revoke`] removes, and `kept`.
async fn server() -> (Server, Folder) {
    let folder = Folder::new();
    let entries = ["gone", "kept"].map(|name| holder(name, "reporter", &json!("*")));
    let file = folder.write("identities.json", &identities(&entries));
    (Server::with(&["--auth-tokens", &file]).await, folder)
}

fn revoke(folder: &Folder) {
    folder.write("identities.json", &identities(&[holder("kept", "reporter", &json!("*"))]));
}

fn watch() -> WatchJobRequest {
    WatchJobRequest { job_id: "a".to_owned(), ..WatchJobRequest::default() }
}

async fn report(client: &mut Client, message: &str) {
    let progress = Some(Progress { message: Some(message.to_owned()), ..Progress::default() });
    let report = UpdateProgressRequest { job_id: "a".to_owned(), progress, ..UpdateProgressRequest::default() };
    client.update_progress(bearer("kept", report)).await.expect("it is taken");
}

/// Reads a stream to its end. Returns the progress messages of its jobs, and the end.
async fn rest(stream: &mut Streaming<jobtrack::proto::v1::WatchJobResponse>) -> (Vec<String>, Status) {
    let mut messages = Vec::new();
    loop {
        match in_time("the next event", stream.message()).await {
            Ok(Some(event)) => messages.extend(event.job.and_then(|job| job.progress?.message)),
            Ok(None) => panic!("it ended well"),
            Err(status) => return (messages, status),
        }
    }
}

#[tokio::test]
async fn slow_reader_receives_nothing_after_the_end_of_its_credentials() {
    let (server, folder) = server().await;
    let mut client = server.client().await;
    let metadata = Some(large_document(16_000));
    let creation = CreateJobRequest { metadata, ..new_job("a") };
    client.create_job(bearer("kept", creation)).await.expect("it is not there yet");
    // Smaller than an event, so that the next events wait in the server.
    let endpoint = Endpoint::from_shared(format!("http://{}", server.address)).expect("an address is a URI");
    let slow = endpoint.initial_stream_window_size(1000).connect().await.expect("it listens");
    let mut slow = Client::new(slow).watch_job(bearer("gone", watch())).await.expect("a stream").into_inner();
    let mut fast = client.watch_job(bearer("gone", watch())).await.expect("a stream").into_inner();
    for number in 0..3 {
        report(&mut client, &format!("before {number}")).await;
        while in_time("an event", fast.message()).await.expect("an event").expect("an event").event() != Event::Update {
        }
    }
    revoke(&folder);
    assert_unauthenticated(&rest(&mut fast).await.1, "ENDED");
    report(&mut client, "after").await;
    let (told, end) = rest(&mut slow).await;
    assert!(!told.iter().any(|message| message == "after"), "{told:?}");
    assert_unauthenticated(&end, "ENDED");
    server.stop().await;
}

/// A caller whose owners have changed does not receive a part of its jobs as if it were everything.
#[tokio::test]
async fn stream_starts_over_after_its_callers_owners_changed() {
    let folder = Folder::new();
    let alice = |owners: &serde_json::Value| {
        identities(&[holder("alice", "reporter", owners), holder("kept", "reporter", &json!("*"))])
    };
    let file = folder.write("identities.json", &alice(&json!(["a1"])));
    let server = Server::with(&["--auth-tokens", &file]).await;
    let mut client = server.client().await;
    for owner in ["a1", "a2"] {
        let creation = CreateJobRequest { owner: owner.to_owned(), ..new_job(owner) };
        client.create_job(bearer("kept", creation)).await.expect("it is not there yet");
    }
    let mut stream =
        client.watch_jobs(bearer("alice", WatchJobsRequest::default())).await.expect("a stream").into_inner();
    let mut token = String::new();
    folder.write("identities.json", &alice(&json!(["a1", "a2"])));
    let end = loop {
        match in_time("the next event", stream.message()).await {
            Ok(event) => token = event.expect("it ends with an error").resume_token,
            Err(status) => break status,
        }
    };
    assert_unauthenticated(&end, "ENDED");
    let resume = WatchJobsRequest { resume_token: token, ..WatchJobsRequest::default() };
    let mut stream = client.watch_jobs(bearer("alice", resume)).await.expect("a stream").into_inner();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let event = in_time("a snapshot", stream.message()).await.expect("an event").expect("a snapshot");
        assert_eq!((event.event(), event.reset), (Event::Snapshot, true));
        seen.push(event.job.expect("a job").id);
    }
    seen.sort_unstable();
    assert_eq!(seen, ["a1", "a2"]);
    server.stop().await;
}

/// Returns a reflection request that is followed by silence.
fn question() -> impl futures_util::Stream<Item = ServerReflectionRequest> + Send + 'static {
    let message_request = Some(MessageRequest::ListServices(String::new()));
    iter([ServerReflectionRequest { host: String::new(), message_request }]).chain(pending())
}

#[tokio::test]
async fn reflection_ends_with_the_credentials_and_does_not_delay_a_drain() {
    let (server, folder) = server().await;
    let mut client = ServerReflectionClient::new(server.channel().await);
    let mut streams = Vec::new();
    for token in ["gone", "kept"] {
        let stream = client.server_reflection_info(bearer(token, question())).await.expect("a stream");
        let mut stream = stream.into_inner();
        in_time("an answer", stream.message()).await.expect("an answer").expect("an answer");
        streams.push(stream);
    }
    revoke(&folder);
    let [gone, kept] = &mut streams[..] else { panic!("there are two") };
    let end = in_time("the end", gone.message()).await.expect_err("it ends");
    assert_unauthenticated(&end, "ENDED");
    server.begin_stop();
    let end = in_time("the end", kept.message()).await.expect_err("it ends");
    assert_eq!(reason(&end), "SERVER_DRAINING");
    // Connections are closed after 20 seconds, so a faster stop shows that the drain did not wait for any.
    timeout(Duration::from_secs(15), server.stop()).await.expect("nothing is left to be waited for");
}
