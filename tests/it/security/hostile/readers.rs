//! Peers that call and do not read, or begin a request and do not end it: each call ends when its time is over, and
//! nothing is left of it.

use bytes::Bytes;
use futures_util::future::join_all;
use std::time::Duration;

use h2::{SendStream, client::ResponseFuture};
use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, FailJobRequest, Failure, GetStatsRequest, WatchJobRequest,
    WatchJobsRequest,
};
use prost::Message;
use serde_json::json;
use tokio::time::sleep;
use tonic::{Code, Status, codec::CompressionEncoding};

use crate::support::{
    Admin, Client, Server, create,
    credentials::{Folder, bearer, holder, identities},
    http::Scrape,
    large_document, new_job,
    process::Process,
    raw::{Raw, answer, frame, frame_as, unread},
    reason,
    redis::Redis,
    replicas::{in_time, read},
};

/// Maximum growth of the server by such peers, in bytes.
const ROOM: u64 = 64 << 20;

/// Windows of readers that take nothing, next to nothing, and the beginning of a message.
const WINDOWS: [u32; 3] = [0, 1, 10_000];

/// Jobs with large results. Returns their ids.
pub async fn large_jobs(client: &mut Client) -> Vec<String> {
    let mut ids = Vec::new();
    for id in ["large-1", "large-2", "large-3"] {
        create(client, id).await;
        client.complete_job(completion(id, 1_000_000)).await.expect("it ends");
        ids.push(id.to_owned());
    }
    ids
}

/// Returns a request that completes `job_id` with a document of so many bytes.
fn completion(job_id: &str, size: usize) -> CompleteJobRequest {
    let result = Some(large_document(size));
    CompleteJobRequest { job_id: job_id.into(), result, ..CompleteJobRequest::default() }
}

/// Waits until the server has given back what it grew by.
async fn released(server: &Process, before: u64) {
    let mut client = server.client().await;
    let released = async {
        while server.resident().saturating_sub(before) > ROOM {
            sleep(Duration::from_millis(20)).await;
            client.get_job(read("large-1")).await.expect("others are served");
        }
    };
    in_time("the memory of what was not read", released).await;
}

/// Begins a call, whose request is whole.
async fn begin(
    raw: &Raw,
    method: &str,
    headers: &[(&'static str, &str)],
    request: &impl Message,
) -> (ResponseFuture, SendStream<Bytes>) {
    let (response, mut body) = raw.open(method, headers).await;
    body.send_data(frame(&request.encode_to_vec()).into(), true).expect("the stream is open");
    (response, body)
}

async fn statuses(calls: Vec<(ResponseFuture, SendStream<Bytes>)>) -> Vec<Status> {
    let ends = calls.into_iter().map(|(response, request)| async move {
        let status = unread(response).await;
        drop(request);
        status
    });
    in_time("the end of every call", join_all(ends)).await
}

/// Waits until no watch is counted.
async fn no_watches(mut admin: Admin, token: &str) {
    let gone = async {
        while admin.get_stats(bearer(token, GetStatsRequest {})).await.expect("statistics").into_inner().watchers > 0 {
            tokio::task::yield_now().await;
        }
    };
    in_time("the end of every watch", gone).await;
}

#[tokio::test]
async fn calls_that_nobody_reads_end_at_their_deadline() {
    let server = Process::start(&["--max-memory", "4GiB"]);
    let job_ids = large_jobs(&mut server.client().await).await;
    let before = server.resident();
    for window in WINDOWS {
        let raw = Raw::with_window(server.address, window).await;
        let request = BatchGetJobsRequest { job_ids: job_ids.clone(), ..BatchGetJobsRequest::default() };
        let mut calls = Vec::new();
        for _ in 0..50 {
            calls.push(begin(&raw, "JobService/BatchGetJobs", &[("grpc-timeout", "1S")], &request).await);
        }
        for status in statuses(calls).await {
            assert_eq!((status.code(), &*reason(&status)), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"), "{window}");
        }
        released(&server, before).await;
    }
    server.client().await.get_job(read("large-1")).await.expect("others are served");
}

#[tokio::test]
async fn calls_without_a_deadline_end_though_nobody_reads() {
    let server = Server::start().await;
    let job_ids = large_jobs(&mut server.client().await).await;
    let raw = Raw::with_window(server.address, 0).await;
    let request = BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() };
    let calls = vec![begin(&raw, "JobService/BatchGetJobs", &[], &request).await];
    assert_eq!(statuses(calls).await[0].code(), Code::DeadlineExceeded);
    server.stop().await;
}

#[tokio::test]
async fn watches_that_nobody_reads_end_at_their_deadline() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    for window in WINDOWS {
        let raw = Raw::with_window(server.address, window).await;
        let (one, many) = (WatchJobRequest { job_id: "a".into(), ..Default::default() }, WatchJobsRequest::default());
        let mut calls = Vec::new();
        for _ in 0..20 {
            calls.push(begin(&raw, "JobService/WatchJob", &[("grpc-timeout", "1S")], &one).await);
            calls.push(begin(&raw, "JobService/WatchJobs", &[("grpc-timeout", "1S")], &many).await);
        }
        for status in statuses(calls).await {
            assert_eq!(status.code(), Code::DeadlineExceeded, "{window}");
        }
        no_watches(server.admin().await, "").await;
    }
    server.stop().await;
}

#[tokio::test]
async fn watches_of_a_revoked_identity_end_though_nobody_reads() {
    let folder = Folder::new();
    let kept = holder("kept", "admin", &json!("*"));
    let file = identities(&[kept.clone(), holder("gone", "reporter", &json!("*"))]);
    let server = Server::with(&["--auth-tokens", &folder.write("identities.json", &file)]).await;
    server.client().await.create_job(bearer("kept", new_job("a"))).await.expect("it is not there yet");
    let mut calls = Vec::new();
    for window in WINDOWS {
        let raw = Raw::with_window(server.address, window).await;
        let request = WatchJobRequest { job_id: "a".into(), ..Default::default() };
        for _ in 0..10 {
            calls.push(begin(&raw, "JobService/WatchJob", &[("authorization", "Bearer gone")], &request).await);
        }
    }
    let mut begun = Vec::new();
    for (response, request) in calls {
        begun.push((response, request));
    }
    folder.write("identities.json", &identities(&[kept]));
    for status in statuses(begun).await {
        assert_eq!((status.code(), &*reason(&status)), (Code::Unauthenticated, "UNAUTHENTICATED"));
    }
    no_watches(server.admin().await, "kept").await;
    server.stop().await;
}

/// The declared length of a request occupies no memory.
#[tokio::test]
async fn requests_that_do_not_end_cost_what_has_come_of_them() {
    let server = Process::start(&[]);
    create(&mut server.client().await, "a").await;
    let before = server.resident();
    let raw = Raw::connect(server.address).await;
    let mut calls = Vec::new();
    for _ in 0..950 {
        let (response, mut body) = raw.open("JobService/CompleteJob", &[("grpc-timeout", "99999999H")]).await;
        body.send_data(frame_as(0, 2 << 20, b"x").into(), false).expect("the stream is open");
        calls.push((response, body));
    }
    // The calls before this one have begun.
    let get = jobtrack::proto::v1::GetJobRequest { job_id: "a".into(), ..Default::default() };
    raw.send("JobService/GetJob", &[], frame(&get.encode_to_vec())).await.outcome().expect("others are served");
    let grown = server.resident().saturating_sub(before);
    assert!(grown < ROOM, "the server grew by {grown} bytes");
    for status in statuses(calls).await {
        assert_eq!((status.code(), &*reason(&status)), (Code::DeadlineExceeded, "DEADLINE_EXCEEDED"));
    }
}

#[tokio::test]
async fn a_request_may_come_in_parts() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let message = frame(&new_job("parts").encode_to_vec());
    let (response, mut body) = raw.open("JobService/CreateJob", &[]).await;
    for byte in &message {
        body.send_data(vec![*byte].into(), false).expect("the stream is open");
        tokio::task::yield_now().await;
    }
    body.send_data(Bytes::new(), true).expect("the stream is open");
    answer(response).await.outcome().expect("it is created");
    server.client().await.get_job(read("parts")).await.expect("it is there");
    server.stop().await;
}

/// Waits until nothing is counted of requests and answers.
async fn none_held(server: &Server) {
    Scrape::until(server.http, "the release of all bytes", |scrape| scrape.count("jobtrack_calls_held_bytes") == 0)
        .await;
}

/// The calls of a connection may hold four of these 64 MiB.
#[tokio::test]
async fn answers_that_nobody_reads_are_bounded_in_bytes() {
    let server = Server::with(&["--max-memory", "64MiB"]).await;
    let job_ids = large_jobs(&mut server.client().await).await;
    let request = BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() };
    for window in WINDOWS {
        let raw = Raw::with_window(server.address, window).await;
        let mut calls = Vec::new();
        for _ in 0..5 {
            calls.push(begin(&raw, "JobService/BatchGetJobs", &[("grpc-timeout", "3S")], &request).await);
        }
        let mut reasons: Vec<_> = statuses(calls).await.iter().map(reason).collect();
        reasons.sort();
        let [in_time @ .., last] = &*reasons else { panic!("no calls") };
        assert_eq!(last, "TOO_MANY_BYTES", "{window}");
        assert!(in_time.contains(&"DEADLINE_EXCEEDED".to_owned()), "{window}: {in_time:?}");
        none_held(&server).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn requests_that_do_not_end_are_bounded_in_bytes() {
    let server = Server::with(&["--max-memory", "64MiB"]).await;
    create(&mut server.client().await, "a").await;
    let raw = Raw::connect(server.address).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        let (response, mut body) = raw.open("JobService/CompleteJob", &[("grpc-timeout", "5S")]).await;
        body.send_data(frame_as(0, 2 << 20, &vec![b'x'; 1 << 20]).into(), false).expect("the stream is open");
        calls.push((response, body));
    }
    let reasons: Vec<_> = statuses(calls).await.iter().map(reason).collect();
    assert!(reasons.contains(&"TOO_MANY_BYTES".to_owned()), "{reasons:?}");
    assert!(reasons.contains(&"DEADLINE_EXCEEDED".to_owned()), "{reasons:?}");
    none_held(&server).await;
    server.stop().await;
}

/// The beginning of an answer that h2 holds keeps no memory of the rest of it.
#[tokio::test]
async fn answers_on_connections_that_are_not_read_cost_little() {
    let server = Process::start(&["--max-memory", "64MiB"]);
    let mut honest = server.client().await;
    let job_ids = large_jobs(&mut honest).await;
    let before = server.resident();
    let request = BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() };
    let (mut calls, mut largest) = (Vec::new(), 0);
    for _ in 0..20 {
        let raw = Raw::unread(server.address).await;
        for _ in 0..20 {
            calls.push(begin(&raw, "JobService/BatchGetJobs", &[("grpc-timeout", "1S")], &request).await);
        }
        honest.get_job(read("large-1")).await.expect("others are served");
        largest = largest.max(server.resident());
    }
    for _ in 0..1000 {
        honest.get_job(read("large-1")).await.expect("others are served");
        largest = largest.max(server.resident());
    }
    let grown = largest.saturating_sub(before);
    assert!(grown < ROOM, "the server grew by {grown} bytes");
}

/// Heavy messages of a connection take turns. A request whose end does not come keeps none.
#[tokio::test]
async fn request_without_an_end_holds_up_no_heavy_answer() {
    let server = Server::start().await;
    large_jobs(&mut server.client().await).await;
    let raw = Raw::connect(server.address).await;
    let (_response, mut body) = raw.open("JobService/CompleteJob", &[("grpc-timeout", "60S")]).await;
    body.send_data(frame(&completion("absent", 100_000).encode_to_vec()).into(), false).expect("the stream is open");
    let get = frame(&read("large-1").encode_to_vec());
    for _ in 0..3 {
        let answer = raw.send("JobService/GetJob", &[("grpc-timeout", "5S")], get.clone()).await;
        assert!(answer.outcome().expect("it is answered").len() > 1_000_000);
    }
    server.stop().await;
}

/// Other callers hold nearly all of the memory for calls: what is stored is not answered with an error for want of it.
#[tokio::test]
async fn stored_change_is_not_answered_as_if_there_had_been_no_memory() {
    let server = Server::with(&["--max-memory", "64MiB"]).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut others = Vec::new();
    for _ in 0..4 {
        let raw = Raw::connect(server.address).await;
        for _ in 0..4 {
            let (response, mut body) = raw.open("JobService/CompleteJob", &[("grpc-timeout", "60S")]).await;
            let beginning = vec![b'x'; 950_000];
            body.send_data(frame_as(0, 1 << 20, &beginning).into(), false).expect("the stream is open");
            others.push((response, body));
        }
    }
    Scrape::until(server.http, "the requests of others", |scrape| {
        scrape.count("jobtrack_calls_held_bytes") > 15_000_000
    })
    .await;
    client.complete_job(completion("a", 1_000_000)).await.expect("it is stored, and said to be");
    server.stop().await;
}

/// Requests that wait for a silent Redis occupy memory as they are decoded, however small they came.
#[tokio::test]
async fn compressed_requests_are_bounded_as_they_are_decoded() {
    let redis = Redis::start().await;
    let flags = ["--redis-url", &redis.url(), "--redis-timeout", "4s", "--max-memory", "64MiB"];
    let server = Server::with(&flags).await;
    let mut client = server.client().await.send_compressed(CompressionEncoding::Gzip);
    create(&mut client, "a").await;
    // Their answers are small: the job has ended otherwise.
    let failure = FailJobRequest {
        job_id: "a".into(),
        failure: Some(Failure { code: Some(2), ..Failure::default() }),
        ..FailJobRequest::default()
    };
    client.fail_job(failure).await.expect("it ends");
    redis.signal("STOP");
    let calls = (0..10).map(|_| {
        let mut client = client.clone();
        async move { client.complete_job(completion("a", 1_000_000)).await.map_err(|status| reason(&status)) }
    });
    let outcomes = join_all(calls).await;
    redis.signal("CONT");
    // A sixteenth of the memory, but at least 5 MiB, is for the calls of one connection.
    let rejected = outcomes.iter().filter(|outcome| outcome.as_ref().is_err_and(|reason| reason == "TOO_MANY_BYTES"));
    assert!((4..=6).contains(&rejected.count()), "{outcomes:?}");
    none_held(&server).await;
    server.stop().await;
}
