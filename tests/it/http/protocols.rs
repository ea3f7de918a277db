//! Clients with TLS of a server without TLS, and the other way round.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::support::{
    Server,
    credentials::{Authority, Folder},
};

/// Sends these bytes, and returns everything that comes back.
async fn answer(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.expect("the server listens");
    stream.write_all(bytes).await.expect("it reads");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.expect("the answer is not taken back");
    String::from_utf8(answer).expect("text")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_other_protocol_is_told_so() {
    let folder = Folder::new();
    let signed = Authority::new().server();
    let (certificate, key) = (folder.write("cert.pem", &signed.pem), folder.write("key.pem", &signed.key));
    let server = Server::with(&["--tls-cert", &certificate, "--tls-key", &key]).await;
    for request in ["GET / HTTP/1.1\r\nhost: localhost\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        let answer = answer(server.address, request.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.ends_with("needs TLS: use https://\n"), "{answer}");
    }
    server.stop().await;

    let server = Server::start().await;
    let hello = [0x16, 0x03, 0x01, 0x00, 0x05, 0x01, 0x00, 0x00, 0x01, 0x00];
    let answer = answer(server.address, &hello).await;
    assert!(answer.ends_with("this port has no TLS: use http://\n"), "{answer}");
    server.stop().await;
}
