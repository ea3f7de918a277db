//! The memory that each kind of peer costs: with credentials no more than the budget, without them next to nothing.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use h2::{SendStream, client::ResponseFuture};
use jobtrack::proto::v1::{BatchGetJobsRequest, CompleteJobRequest, CreateJobRequest};
use prost::Message;
use rstest::rstest;
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
    time::sleep,
};
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1::{ServerReflectionRequest, server_reflection_request::MessageRequest};

use crate::support::{
    credentials::{Folder, bearer, holder, identities},
    large_document, new_job,
    process::Process,
    raw::{Raw, frame, frame_as},
    replicas::{in_time, read},
};

/// Maximum growth of the server by peers without credentials, in bytes.
const STRANGERS_MAX: u64 = 64 << 20;

/// Budget of the server for those who have credentials, in bytes.
const BUDGET: u64 = 128 << 20;

/// The token of those who have credentials, and of the honest caller.
const TOKEN: &str = "kept";

/// Time within which each call must end.
const DEADLINE: &str = "2S";

/// Time for which connections of HTTP/1.1 are open: a call on them ends a second after its deadline.
const HTTP1_TIME: Duration = Duration::from_secs(3);

/// Calls on an HTTP/2 connection, which allows 1000.
const CALLS: usize = 300;

/// Connections of a peer that speaks HTTP/1.1, which has one call at a time on each.
const CONNECTIONS: usize = 150;

/// Calls of an honest caller in the meantime.
const HONEST_CALLS: usize = 100;

/// Jobs with a megabyte each, which a call of a peer reads.
const LARGE: [&str; 3] = ["large-1", "large-2", "large-3"];

/// Kinds of peers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Peer {
    /// HTTP/2 with stream windows of 0: answers are not read.
    Unread,
    /// HTTP/2: declares a request of 2 MiB, and sends half a megabyte of it.
    UnfinishedBody,
    /// HTTP/1.1: sends a head that does not end.
    UnfinishedHead,
    /// gRPC-Web over HTTP/1.1: answers are not read.
    WebUnread,
    /// gRPC-Web over HTTP/1.1: declares a request of 2 MiB, and sends half a megabyte of it.
    WebUnfinishedBody,
    /// gRPC-Web over HTTP/2 with stream windows of 0.
    WebUnreadHttp2,
    /// Watches of health that are not read.
    Health,
    /// Reflection: asks for files again and again and reads none.
    Reflection,
}

/// The requests of a peer.
struct Requests {
    path: &'static str,
    content_type: &'static str,
    body: Vec<u8>,
    /// The body is all that comes.
    is_whole: bool,
}

impl Peer {
    fn requests(self) -> Requests {
        let job_ids = LARGE.map(str::to_owned).to_vec();
        let batch = frame(&BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() }.encode_to_vec());
        let unfinished = frame_as(0, 2 << 20, &vec![b'x'; 512 * 1024]);
        let file = MessageRequest::FileContainingSymbol("jobtrack.v1.JobService".to_owned());
        let file = ServerReflectionRequest { host: String::new(), message_request: Some(file) };
        let (path, content_type, body) = match self {
            Self::Unread => ("/jobtrack.v1.JobService/BatchGetJobs", "application/grpc", batch),
            Self::UnfinishedBody => ("/jobtrack.v1.JobService/CompleteJob", "application/grpc", unfinished),
            Self::UnfinishedHead | Self::WebUnread | Self::WebUnreadHttp2 => {
                ("/jobtrack.v1.JobService/BatchGetJobs", "application/grpc-web+proto", batch)
            }
            Self::WebUnfinishedBody => {
                ("/jobtrack.v1.JobService/CompleteJob", "application/grpc-web+proto", unfinished)
            }
            Self::Health => {
                let watch = frame(&HealthCheckRequest::default().encode_to_vec());
                ("/grpc.health.v1.Health/Watch", "application/grpc", watch)
            }
            Self::Reflection => {
                let many = frame(&file.encode_to_vec()).repeat(200);
                ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc", many)
            }
        };
        let is_whole = !matches!(self, Self::UnfinishedBody | Self::WebUnfinishedBody | Self::Reflection);
        Requests { path, content_type, body, is_whole }
    }

    const fn is_http1(self) -> bool {
        matches!(self, Self::UnfinishedHead | Self::WebUnread | Self::WebUnfinishedBody)
    }

    /// Connections of the peer: streams without credentials are few on each.
    const fn connections(self) -> usize {
        match self {
            Self::UnfinishedHead | Self::WebUnread | Self::WebUnfinishedBody => CONNECTIONS,
            Self::Health => 20,
            Self::Unread | Self::UnfinishedBody | Self::WebUnreadHttp2 | Self::Reflection => 2,
        }
    }
}

/// Opens a connection and makes calls on it. Returns them.
async fn call_http2(
    server: &Process,
    requests: &Requests,
    authorization: &str,
) -> Vec<(ResponseFuture, SendStream<Bytes>)> {
    let raw = Raw::with_window(server.address, 0).await;
    let headers =
        [("content-type", requests.content_type), ("grpc-timeout", DEADLINE), ("authorization", authorization)];
    let mut calls = Vec::new();
    for _ in 0..CALLS {
        let (response, mut body) = raw.open_at(requests.path, &headers).await;
        // A server that refuses a call need not read the rest of it.
        _ = body.send_data(requests.body.clone().into(), requests.is_whole);
        calls.push((response, body));
    }
    calls
}

/// Opens a connection, and says all there is to say on it.
async fn call_http1(server: &Process, peer: Peer, requests: &Requests, authorization: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("it takes a size");
    let mut stream = socket.connect(server.address).await.expect("the server listens");
    let (path, content_type) = (requests.path, requests.content_type);
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: {content_type}\r\ngrpc-timeout: {DEADLINE}\r\n\
         authorization: {authorization}\r\n"
    );
    let length = if requests.is_whole { requests.body.len() } else { 2 << 20 };
    let rest = match peer {
        Peer::UnfinishedHead => format!("x-long: {}", "x".repeat(60_000)).into_bytes(),
        _ => [format!("content-length: {length}\r\n\r\n").as_bytes(), &requests.body].concat(),
    };
    // A server that refuses a call need not read the rest of it.
    _ = stream.write_all(&[head.as_bytes(), &rest].concat()).await;
    stream
}

/// Waits for the end of a call, with a status or without, whose reader makes no room for the response.
async fn ended(response: ResponseFuture) {
    if let Ok(response) = response.await {
        let mut body = response.into_body();
        while let Some(Ok(_)) = body.data().await {}
    }
}

/// Makes the calls of a peer and waits for their ends; of those over HTTP/1.1 for as long as they may last: who waits
/// for the end of a connection reads.
async fn attack(server: &Process, peer: Peer, authorization: &str) {
    let requests = peer.requests();
    if peer.is_http1() {
        let open = (0..peer.connections()).map(|_| call_http1(server, peer, &requests, authorization));
        let _open = join_all(open).await;
        return sleep(HTTP1_TIME).await;
    }
    let open = (0..peer.connections()).map(|_| call_http2(server, &requests, authorization));
    let calls = join_all(open).await.into_iter().flatten();
    join_all(calls.map(async |(response, _body)| ended(response).await)).await;
}

/// Makes the jobs that peers read, and one that an honest caller does.
async fn make_jobs(server: &Process) {
    let mut client = server.client().await;
    client.create_job(bearer(TOKEN, new_job("small"))).await.expect("it is created");
    for id in LARGE {
        let create = CreateJobRequest { job_id: id.to_owned(), ..new_job(id) };
        client.create_job(bearer(TOKEN, create)).await.expect("it is created");
        let result = Some(large_document(1_000_000));
        let end = CompleteJobRequest { job_id: id.to_owned(), result, ..CompleteJobRequest::default() };
        client.complete_job(bearer(TOKEN, end)).await.expect("it ends");
    }
}

/// Returns the most by which the server grows while a peer does what it can, and until all its calls have ended.
async fn growth(server: &Process, peer: Peer, authorization: &str) -> u64 {
    let mut client = server.client().await;
    client.get_job(bearer(TOKEN, read("small"))).await.expect("it is there");
    let before = server.resident();
    let mut largest = before;
    let mut attack = pin!(in_time("the end of every call", attack(server, peer, authorization)));
    let (mut calls, mut is_over) = (0, false);
    while !is_over || calls < HONEST_CALLS {
        tokio::select! {
            () = &mut attack, if !is_over => is_over = true,
            answer = client.get_job(bearer(TOKEN, read("small"))) => {
                answer.expect("others are served");
                calls += 1;
            }
        }
        largest = largest.max(server.resident());
    }
    largest - before
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn no_peer_costs_more_than_it_may(
    #[values(
        Peer::Unread,
        Peer::UnfinishedBody,
        Peer::UnfinishedHead,
        Peer::WebUnread,
        Peer::WebUnfinishedBody,
        Peer::WebUnreadHttp2,
        Peer::Health,
        Peer::Reflection
    )]
    peer: Peer,
    #[values(false, true)] has_credentials: bool,
) {
    let folder = Folder::new();
    let file = folder.write("identities.json", &identities(&[holder(TOKEN, "admin", &json!("*"))]));
    let budget = if has_credentials { "128MiB" } else { "4GiB" };
    // A limit of failed authentications would end connections before they cost anything.
    let flags = ["--auth-tokens", &file, "--max-memory", budget, "--max-auth-failures-per-second", "0"];
    let server = Process::start(&flags);
    make_jobs(&server).await;
    let (authorization, bound) =
        if has_credentials { ("Bearer kept", BUDGET) } else { ("Bearer stranger", STRANGERS_MAX) };
    let grown = growth(&server, peer, authorization).await;
    println!("{peer:?}, credentials: {has_credentials}: {grown} bytes");
    assert!(grown < bound, "the server grew by {grown} bytes");
}
