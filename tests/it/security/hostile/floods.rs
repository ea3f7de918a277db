//! Peers that use up what HTTP/2 gives them: each costs itself its connection at most, and nobody else anything.

use std::{future::pending, io::Write, net::SocketAddr, time::Duration};

use flate2::{Compression, write::GzEncoder};
use jobtrack::proto::v1::CreateJobRequest;
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tonic::Code;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::support::{
    Server, create, error_info,
    process::Process,
    raw::{Raw, answer, frame_as},
    reason,
    replicas::{in_time, read},
};

/// Maximum growth of the server during an attack, in bytes.
const ROOM: u64 = 32 * 1024 * 1024;

/// Frames that an attacker sends unless it is cut off.
const FRAMES: u32 = 200_000;

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame's length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The headers of a call, in HPACK's static table: POST, http, /, and an authority.
const HEADERS: &[u8] = b"\x83\x86\x84\x41\x01x";

const END_HEADERS: u8 = 4;

/// The stream of the attacker's `number`th request.
fn stream(number: u32) -> u32 {
    number * 2 + 1
}

/// Returns the frame with this number.
type Repeated = fn(u32) -> Vec<u8>;

fn reset(number: u32) -> Vec<u8> {
    [frame(1, END_HEADERS, stream(number), HEADERS), frame(3, 0, stream(number), &8_u32.to_be_bytes())].concat()
}

fn ping(number: u32) -> Vec<u8> {
    frame(6, 0, 0, &u64::from(number).to_be_bytes())
}

fn settings(_: u32) -> Vec<u8> {
    frame(4, 0, 0, &[0, 3, 0, 0, 0, 100])
}

fn continuation(number: u32) -> Vec<u8> {
    match number {
        0 => frame(1, 0, 1, HEADERS),
        // A literal header without indexing.
        _ => frame(9, 0, 1, b"\x00\x01a\x01b"),
    }
}

fn empty_data(number: u32) -> Vec<u8> {
    match number {
        0 => frame(1, END_HEADERS, 1, HEADERS),
        _ => frame(0, 0, 1, &[]),
    }
}

fn window_update(_: u32) -> Vec<u8> {
    frame(8, 0, 0, &0_u32.to_be_bytes())
}

fn large_header(number: u32) -> Vec<u8> {
    let value = [b'v'; 8000];
    let header = [&b"\x00\x01a\x7f\xc1\x3d"[..], &value].concat();
    match number {
        0 => frame(1, 0, 1, HEADERS),
        _ => frame(9, 0, 1, &header),
    }
}

/// End of an attack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// The server hung up.
    HungUp,
    /// The server took no more.
    Stuck,
    /// Everything was sent: what it costs the server is not worth hanging up for.
    Sent,
}

/// Sends until the server hangs up, takes no more for a second, or everything was sent.
async fn attack(address: SocketAddr, repeated: Repeated, reads: bool) -> End {
    let mut connection = TcpStream::connect(address).await.expect("the server listens");
    connection.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.expect("the server has accepted");
    connection.write_all(&frame(4, 0, 0, &[])).await.expect("the server has accepted");
    let (mut from, mut to) = connection.split();
    let send = async {
        for part in 0..FRAMES / 100 {
            let some: Vec<u8> = (part * 100..(part + 1) * 100).flat_map(repeated).collect();
            match timeout(Duration::from_secs(1), to.write_all(&some)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::HungUp,
                Err(_) => return End::Stuck,
            }
        }
        End::Sent
    };
    let receive = async {
        let mut said = [0; 4096];
        while reads && !matches!(from.read(&mut said).await, Ok(0) | Err(_)) {}
        if !reads {
            pending::<()>().await;
        }
        End::HungUp
    };
    tokio::select! {
        end = send => end,
        end = receive => end,
    }
}

#[tokio::test]
async fn floods_cost_nobody_else_anything() {
    let attacks: [(&str, Repeated, End); 7] = [
        ("rapid resets", reset, End::HungUp),
        ("pings", ping, End::Sent),
        ("settings", settings, End::Sent),
        ("continuations", continuation, End::HungUp),
        ("empty data", empty_data, End::HungUp),
        ("window updates of nothing", window_update, End::HungUp),
        ("a list of headers without end", large_header, End::HungUp),
    ];
    let server = Process::start(&[]);
    let mut client = server.client().await;
    create(&mut client, "a").await;
    client.get_job(read("a")).await.expect("it is there");
    let before = server.resident();
    for (what, repeated, end) in attacks {
        for reads in [false, true] {
            let attack = tokio::spawn(attack(server.address, repeated, reads));
            let mut calls = 0;
            while calls < 20 || !attack.is_finished() {
                in_time(what, client.get_job(read("a"))).await.expect("others are served");
                calls += 1;
            }
            assert_eq!(attack.await.expect("the attack ended"), end, "{what}");
            let grown = server.resident().saturating_sub(before);
            assert!(grown < ROOM, "{what}: the server grew by {grown} bytes");
        }
    }
    in_time("a new connection", server.client()).await.get_job(read("a")).await.expect("new ones are served");
}

/// A little that becomes more than a message may be.
#[tokio::test]
async fn what_is_too_large_unpacked_is_refused() {
    let server = Process::start(&[]);
    create(&mut server.client().await, "a").await;
    let huge = CreateJobRequest { kind: " ".repeat(256 * 1024 * 1024), ..Default::default() }.encode_to_vec();
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&huge).expect("memory takes everything");
    let gzip = gzip.finish().expect("memory takes everything");
    let zstd = zstd::encode_all(&*huge, 1).expect("memory takes everything");
    drop(huge);
    let before = server.resident();
    let raw = Raw::connect(server.address).await;
    for (encoding, packed) in [("gzip", gzip), ("zstd", zstd)] {
        assert!(packed.len() < 2 * 1024 * 1024, "{encoding}: it is not refused for what it is packed");
        let body = frame_as(1, packed.len(), &packed);
        let refused = raw.send("JobService/CreateJob", &[("grpc-encoding", encoding)], body).await.outcome();
        let refused = refused.expect_err("it is too large");
        assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"), "{encoding}");
    }
    let grown = server.resident().saturating_sub(before);
    assert!(grown < ROOM, "the server grew by {grown} bytes");
    server.client().await.get_job(read("a")).await.expect("others are served");
}

#[tokio::test]
async fn who_is_not_asked_for_credentials_may_not_say_much() {
    let server = Server::start().await;
    let mut health = HealthClient::new(server.channel().await);
    let refused = health.check(HealthCheckRequest { service: "x".repeat(1 << 20) }).await.expect_err("it is too large");
    assert_eq!((refused.code(), &*reason(&refused)), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(error_info(&refused).metadata["limit"], "1000");
    // A call that goes on and on, by a deadline of its own.
    let (response, _request) = Raw::connect(server.address)
        .await
        .open_at("/grpc.health.v1.Health/Check", &[("grpc-timeout", "99999999H")])
        .await;
    let refused = answer(response).await.outcome().expect_err("it takes too long");
    assert_eq!(refused.code(), Code::DeadlineExceeded);
    server.stop().await;
}
