//! Connections that say nothing, too little, something else, or much too much.

use std::{
    future::poll_fn,
    net::SocketAddr,
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{BatchGetJobsRequest, GetJobRequest, GetStatsRequest, WatchJobRequest, WatchJobsRequest};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{assert_serves, readers::large_jobs};
use tonic::Code;

use crate::support::{
    Server, create, error_info,
    http::Scrape,
    raw::{Raw, answer, frame},
    replicas::in_time,
};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// An empty frame of settings, which every peer sends after the preface.
const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// Bytes that a peer sends before it falls silent.
const TOO_LITTLE: [(&str, &[u8]); 4] = [
    ("nothing", b""),
    ("a byte of the preface", b"P"),
    ("half of the preface", b"PRI * HTTP/2.0\r\n"),
    ("all of the preface but a byte", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"),
];

/// Half of a request of HTTP/1.1.
const HALF_A_REQUEST: &[u8] = b"POST / HTTP/1.1\r\nHost: jobtrack\r\nX-";

async fn say(address: SocketAddr, words: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(words).await.expect("the server has accepted");
    stream
}

/// Waits until the server has closed the connection. Returns what it said.
async fn closed(mut stream: TcpStream, within: Duration, what: &str) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is as good an end as any.
    let ended = timeout(within, stream.read_to_end(&mut said)).await;
    assert!(ended.is_ok(), "{what}: still open after {within:?}");
    said
}

#[tokio::test]
async fn a_connection_that_does_not_say_enough_is_closed() {
    let server = Server::start().await;
    let mut waiting = Vec::new();
    for (what, words) in TOO_LITTLE.into_iter().chain([("half of a request", HALF_A_REQUEST)]) {
        let stream = say(server.address, words).await;
        waiting.push(tokio::spawn(closed(stream, Duration::from_secs(14), what)));
    }
    assert_serves(&server, &[]).await;
    for connection in waiting {
        connection.await.expect("the server closes it");
    }
    assert_serves(&server, &[]).await;
    server.stop().await;
}

#[tokio::test]
async fn a_connection_that_does_not_say_enough_holds_no_drain() {
    let server = Server::start().await;
    let mut open = Vec::new();
    for (what, words) in TOO_LITTLE {
        open.push((what, say(server.address, words).await));
    }
    // Connections are accepted in order: those before this one have been.
    assert_serves(&server, &[]).await;
    let began = Instant::now();
    server.stop().await;
    assert!(began.elapsed() < Duration::from_secs(5), "the drain took {:?}", began.elapsed());
    for (what, stream) in open {
        closed(stream, Duration::from_secs(1), what).await;
    }
}

#[tokio::test]
async fn a_connection_that_stops_answering_is_cut_off_by_the_drain() {
    let server = Server::start().await;
    let mute = say(server.address, &[PREFACE, SETTINGS].concat()).await;
    let half = say(server.address, HALF_A_REQUEST).await;
    assert_serves(&server, &[]).await;
    let stopped = timeout(Duration::from_secs(25), server.stop()).await;
    assert!(stopped.is_ok(), "draining takes at most 25 s whatever is connected");
    closed(mute, Duration::from_secs(1), "after the preface").await;
    closed(half, Duration::from_secs(1), "half of a request").await;
}

/// One that is idle, answers nothing, and has not said who it is.
#[tokio::test]
async fn an_idle_connection_without_credentials_is_closed() {
    let server = Server::start().await;
    let idle = say(server.address, &[PREFACE, SETTINGS].concat()).await;
    closed(idle, Duration::from_secs(60), "after the preface").await;
    assert_serves(&server, &[]).await;
    server.stop().await;
}

/// The timer of the system's end of each connection to `port`, as `/proc/net/tcp` shows it; 2: whether the peer is
/// there.
#[cfg(target_os = "linux")]
fn timers(port: u16) -> Vec<String> {
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the system tells of its connections");
    let fields = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let open = fields.filter(|fields| fields[1].ends_with(&format!(":{port:04X}")) && fields[3] == "01");
    open.map(|fields| fields[5].to_owned()).collect()
}

/// A peer may vanish without a word, whatever it speaks.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn the_system_asks_whether_a_silent_peer_is_there() {
    let server = Server::start().await;
    let _client = server.client().await;
    let _silent = say(server.address, b"P").await;
    let _scraper = say(server.http, b"G").await;
    for (address, count) in [(server.address, 2), (server.http, 1)] {
        let asked = async {
            while timers(address.port()).iter().filter(|timer| timer.starts_with("02:")).count() < count {
                tokio::task::yield_now().await;
            }
        };
        in_time("a timer for each connection", asked).await;
    }
    server.stop().await;
}

/// Over HTTP/1.1 as well, a call ends by its deadline though nobody reads.
#[tokio::test]
async fn an_unread_answer_over_http1_is_given_up() {
    let server = Server::start().await;
    let job_ids = large_jobs(&mut server.client().await).await;
    let message = frame(&BatchGetJobsRequest { job_ids, ..Default::default() }.encode_to_vec());
    let head = format!(
        "POST /jobtrack.v1.JobService/BatchGetJobs HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/grpc-web\r\n\
         content-length: {}\r\n\r\n",
        message.len()
    );
    let mut open = Vec::new();
    for _ in 0..10 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("it takes a size");
        let mut stream = socket.connect(server.address).await.expect("the server listens");
        stream.write_all(&[head.as_bytes(), &message].concat()).await.expect("the server reads");
        open.push(stream);
    }
    let begun = |scrape: &Scrape| scrape.count("jobtrack_connections") >= 10;
    Scrape::until(server.http, "ten connections", begun).await;
    let gone = |scrape: &Scrape| scrape.count("jobtrack_connections") <= 1;
    Scrape::until(server.http, "the end of ten connections", gone).await;
    server.stop().await;
}

/// Metadata that is too large is refused as gRPC refuses, and counted.
#[tokio::test]
async fn metadata_that_is_too_large_is_refused() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    let large = "m".repeat(17 * 1024);
    let refused = raw.send("JobService/GetJob", &[("x-large", &large)], frame(b"")).await.outcome();
    let refused = refused.expect_err("it is too large");
    let info = error_info(&refused);
    assert_eq!((refused.code(), &*info.reason), (Code::ResourceExhausted, "MESSAGE_TOO_LARGE"));
    assert_eq!(info.metadata["limit"], "16384");
    assert!(refused.message().contains("metadata"), "{refused:?}");
    let metric = "grpc_server_handled_total";
    let counted =
        Scrape::of(server.http).await.of_call(metric, "unary", "jobtrack.v1.JobService/GetJob", "ResourceExhausted");
    assert_eq!(counted, 1);
    server.stop().await;
}

#[tokio::test]
async fn garbage_is_hung_up_on() {
    let server = Server::start().await;
    let settings_too_long = [PREFACE, &[0xff, 0xff, 0xff, 4, 0, 0, 0, 0, 0]].concat();
    let data_on_no_stream = [PREFACE, SETTINGS, &[0, 0, 1, 0, 0, 0, 0, 0, 0, 1]].concat();
    let headers_unreadable = [PREFACE, SETTINGS, &[0, 0, 2, 1, 5, 0, 0, 0, 1, 0xff, 0xff]].concat();
    let garbage: [(&str, &[u8]); 8] = [
        ("zeroes", &[0; 64]),
        ("a TLS hello", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3, 0xd, 0xa, 0xd, 0xa]),
        ("high bytes", &[0xff; 1024]),
        ("a line of text", b"hello\r\n\r\n"),
        ("a preface with a typing error", b"PRI * HTTP/2.0\r\n\r\nSX\r\n\r\n"),
        ("a frame that is too long", &settings_too_long),
        ("data on a stream that is not open", &data_on_no_stream),
        ("headers that can't be unpacked", &headers_unreadable),
    ];
    for (what, bytes) in garbage {
        let stream = say(server.address, bytes).await;
        closed(stream, Duration::from_secs(14), what).await;
        assert_serves(&server, &[]).await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_call_over_http1_is_refused() {
    let server = Server::start().await;
    let calls = [
        "POST /jobtrack.v1.JobService/GetJob HTTP/1.1\r\ncontent-type: application/grpc\r\ncontent-length: 5\r\n",
        "POST /x HTTP/1.1\r\ncontent-type: application/json\r\ncontent-length: 5\r\n",
        "GET /x HTTP/1.1\r\n",
        "GET /x HTTP/1.1\r\nupgrade: h2c\r\n",
        "CONNECT jobtrack:1 HTTP/1.1\r\n",
    ];
    for head in calls {
        let body = if head.starts_with("POST") { "\0\0\0\0\0" } else { "" };
        let request = format!("{head}host: localhost\r\nconnection: close\r\n\r\n{body}");
        let stream = say(server.address, request.as_bytes()).await;
        let said = String::from_utf8_lossy(&closed(stream, Duration::from_secs(5), head).await).into_owned();
        assert!(said.starts_with("HTTP/1.1 4"), "{head}: {said}");
        assert_serves(&server, &[]).await;
    }
    server.stop().await;
}

/// Returns the number of watches that the server counts.
async fn watchers(server: &Server) -> i64 {
    let stats = server.admin().await.get_stats(GetStatsRequest {}).await;
    stats.expect("the server tells how it is").into_inner().watchers
}

#[tokio::test]
async fn five_thousand_cancelled_streams_leave_nothing_behind() {
    let server = Server::start().await;
    let raw = Raw::connect(server.address).await;
    create(&mut server.client().await, "a").await;
    let one = frame(&WatchJobRequest { job_id: "a".into(), ..Default::default() }.encode_to_vec());
    let many = frame(&WatchJobsRequest::default().encode_to_vec());

    for wave in 0..50 {
        let mut open = Vec::new();
        for at in 0..100 {
            let (method, body) =
                if at % 2 == 0 { ("JobService/WatchJob", &one) } else { ("JobService/WatchJobs", &many) };
            let (response, mut request) = raw.open(method, &[]).await;
            request.send_data(body.clone().into(), true).expect("the stream is open");
            open.push((response, request));
        }
        for (at, (response, mut request)) in open.into_iter().enumerate() {
            // Every other one is cancelled before it was answered, so far as its caller knows.
            if (at / 2) % 2 == wave % 2 {
                response.await.expect("the watch begins");
            }
            request.send_reset(h2::Reason::CANCEL);
        }
    }

    let (response, mut request) = raw.open("JobService/GetJob", &[]).await;
    let get = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() };
    request.send_data(frame(&get.encode_to_vec()).into(), true).expect("the stream is open");
    answer(response).await.outcome().expect("the connection still serves");
    let gone = timeout(Duration::from_secs(10), async {
        while watchers(&server).await > 0 {
            tokio::task::yield_now().await;
        }
    });
    assert!(gone.await.is_ok(), "{} watches are still counted", watchers(&server).await);
    assert_serves(&server, &["a"]).await;
    server.stop().await;
}

#[tokio::test]
async fn streams_beyond_the_limit_wait_and_are_served() {
    let server = Server::with(&["--max-watches-per-connection", "0"]).await;
    let raw = Raw::connect(server.address).await;
    create(&mut server.client().await, "a").await;
    let one = frame(&WatchJobRequest { job_id: "a".into(), ..Default::default() }.encode_to_vec());
    let mut open = Vec::new();
    for _ in 0..1000 {
        let (response, mut request) = raw.open("JobService/WatchJob", &[]).await;
        request.send_data(one.clone().into(), true).expect("the stream is open");
        open.push(response.await.expect("the watch begins"));
    }
    assert_eq!(watchers(&server).await, 1000);
    // One more than the server allows: it is not sent before another stream has ended.
    let get = GetJobRequest { job_id: "a".into(), ..GetJobRequest::default() };
    let mut next = Box::pin(raw.send("JobService/GetJob", &[], frame(&get.encode_to_vec())));
    let waits = poll_fn(|context| std::task::Poll::Ready(next.as_mut().poll(context).is_pending())).await;
    assert!(waits, "the server allows 1000 streams");
    open.pop();
    next.await.outcome().expect("a stream has become free");
    server.stop().await;
}
