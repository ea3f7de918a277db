//! The probes and their port.

use std::{net::SocketAddr, time::Duration};

use tokio::{io::AsyncWriteExt, net::TcpListener, net::TcpStream, time::timeout};

use crate::support::{
    Server,
    http::get,
    process::{Process, output},
    raw::Raw,
};

async fn until_ready_is(http: SocketAddr, (status, text): (u16, &str)) {
    let is_so = async { while get(http, "/readyz").await != (status, text.to_owned()) {} };
    timeout(Duration::from_secs(20), is_so).await.unwrap_or_else(|_| panic!("{text} does not come"));
}

#[tokio::test(flavor = "multi_thread")]
async fn server_is_ready_until_it_drains_and_alive_until_it_ends() {
    let process = Process::start(&["--http-listen", "127.0.0.1:0"]);
    let http = process.http();
    assert_eq!(get(http, "/livez").await, (200, "alive\n".to_owned()));
    // The banner comes first.
    until_ready_is(http, (200, "ready\n")).await;

    // A call whose request never comes keeps the drain from ending.
    let connection = Raw::connect(process.address).await;
    let (response, request) = connection.open("JobService/GetJob", &[]).await;
    let begun = async { while !get(http, "/metrics").await.1.contains("jobtrack_connections 1") {} };
    timeout(Duration::from_secs(20), begun).await.expect("it is connected");
    process.signal("TERM");
    until_ready_is(http, (503, "draining: no more calls are accepted\n")).await;
    assert_eq!(get(http, "/livez").await.0, 200);
    assert_eq!(get(http, "/metrics").await.0, 200);
    drop((response, request, connection));
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains(&format!("http={http}")), "{log}");
}

#[tokio::test]
async fn unknown_paths_are_not_found() {
    let server = Server::start().await;
    for path in ["/", "/metrics/", "/debug/pprof", "/jobtrack.v1.JobService/GetJob"] {
        assert_eq!(get(server.http, path).await.0, 404, "{path}");
    }
    server.stop().await;
}

#[tokio::test]
async fn silent_http_clients_do_not_delay_others() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    for _ in 0..400 {
        let mut stream = TcpStream::connect(server.http).await.expect("it listens");
        stream.write_all(b"GET /metr").await.expect("it reads");
        idle.push(stream);
    }
    // Before the request timeout of any of them.
    let answer = timeout(Duration::from_secs(8), get(server.http, "/livez")).await;
    assert_eq!(answer.expect("it answers").0, 200);
    timeout(Duration::from_secs(20), server.stop()).await.expect("nor in the way of the end");
}

#[tokio::test]
async fn unusable_http_port_is_reported_with_its_flag() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let taken = taken.local_addr().expect("it is bound").to_string();
    for (address, code, words) in [(taken.as_str(), 1, "in use"), ("nonsense", 2, "must be HOST:PORT")] {
        let output = output(&["--listen", "127.0.0.1:0", "--http-listen", address]);
        let text = String::from_utf8(output.stderr).expect("errors are text");
        assert_eq!(output.status.code(), Some(code), "{text}");
        assert!(code == 2 || text.lines().count() == 1, "{text}");
        assert!(text.contains(words) && text.contains("--http-listen") && text.contains(address), "{text}");
    }
}

#[test]
fn http_listen_off_opens_no_port() {
    let process = Process::start(&["--http-listen", "off"]);
    assert!(!process.banner.contains("metrics"), "{:?}", process.banner);
}
