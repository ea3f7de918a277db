//! Answers to clients that speak TLS to a port without TLS, or plaintext to a port with TLS.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// First byte of TLS: the type of a handshake record.
const HANDSHAKE: u8 = 0x16;

/// Maximum time to read what the client has sent, and to send the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);

/// Maximum bytes that are read of a request.
const READ_MAX: usize = 16 * 1024;

/// Fails if the first byte of `stream` shows that the client speaks TLS to a port without TLS, or plaintext to a port
/// with TLS. The client gets an answer in plain HTTP: curl and browsers show it if they expect no TLS, and clients that
/// expect TLS report that the answer is not TLS.
pub async fn check(stream: &mut TcpStream, expects_tls: bool) -> io::Result<()> {
    let mut first = [0];
    if stream.peek(&mut first).await? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    let (speaks_tls, advice) = (first[0] == HANDSHAKE, if expects_tls { "https://" } else { "http://" });
    if speaks_tls == expects_tls {
        return Ok(());
    }
    let problem = if expects_tls { "this port needs TLS" } else { "this port has no TLS" };
    let text = format!("{problem}: use {advice}\n");
    let head = "HTTP/1.1 400 Bad Request\r\ncontent-type: text/plain; charset=utf-8\r\nconnection: close";
    let answer = format!("{head}\r\ncontent-length: {}\r\n\r\n{text}", text.len());
    _ = timeout(ANSWER_TIMEOUT, send(stream, answer.as_bytes())).await;
    let received = if speaks_tls { "TLS" } else { "no TLS" };
    Err(io::Error::new(io::ErrorKind::Unsupported, format!("{problem}, and the client speaks {received}")))
}

/// Sends `answer`. Reads first, because closing a socket with unread bytes would discard the answer.
async fn send(stream: &mut TcpStream, answer: &[u8]) -> io::Result<()> {
    _ = stream.read(&mut vec![0; READ_MAX]).await?;
    stream.write_all(answer).await?;
    stream.shutdown().await
}
