//! The byte stream of a client, TCP or TLS over TCP. Its first bytes show which protocol the client speaks.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;

use super::other_protocol;
use crate::{auth::Peer, socket::watch_peer, tls::Tls};

/// First bytes of HTTP/2 clients: the preface.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Maximum time until the first bytes have arrived.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time until the first byte of a TLS handshake has arrived.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// Interval between checks of a client's certificate.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);

/// A client's stream whose first bytes were read.
pub struct ClientStream {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    first: [u8; PREFACE.len()],
    /// Bytes of `first` that were read from the peer.
    received: usize,
    /// Bytes of `first` that were passed on.
    passed_on: usize,
}

impl ClientStream {
    /// Performs the TLS handshake, if there is one, and waits for the first bytes: the whole preface of HTTP/2, or
    /// something else.
    pub async fn open(mut stream: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        watch_peer(&stream)?;
        let first_byte = if tls.is_some() { HELLO_TIMEOUT } else { PREFACE_TIMEOUT };
        timeout(first_byte, other_protocol::check(&mut stream, tls.is_some())).await??;
        let stream = match tls {
            Some(tls) => Either::Right(tls.accept(stream).await?),
            None => Either::Left(stream),
        };
        let mut client = Self { stream, first: [0; PREFACE.len()], received: 0, passed_on: 0 };
        let spoken = async {
            while client.received < PREFACE.len() && client.first[..client.received] == PREFACE[..client.received] {
                match client.stream.read(&mut client.first[client.received..]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => client.received += read,
                }
            }
            io::Result::Ok(())
        };
        timeout(PREFACE_TIMEOUT, spoken).await??;
        Ok(client)
    }

    /// Returns whether the peer uses HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.first == *PREFACE
    }

    /// Returns the holder of the peer's certificate, if it sent one, and a future that watches the certificate. When
    /// the certificate is no longer valid, the future marks the peer as expired, and ends.
    pub fn peer(&self, tls: Option<&Tls>) -> Option<(Peer, impl Future<Output = ()> + Send + use<>)> {
        let (Either::Right(stream), Some(tls)) = (&self.stream, tls.cloned()) else { return None };
        let certificates: Vec<_> =
            stream.get_ref().1.peer_certificates()?.iter().map(|der| der.clone().into_owned()).collect();
        let peer = Peer::of(certificates.first()?);
        let expired = peer.expired.clone();
        let watch = async move {
            while tls.still_accepts(&certificates) {
                sleep(CERTIFICATE_CHECK).await;
            }
            expired.cancel();
        };
        Some((peer, watch))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.passed_on == self.received {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let end = self.received.min(self.passed_on + into.remaining());
        into.put_slice(&self.first[self.passed_on..end]);
        self.passed_on = end;
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
