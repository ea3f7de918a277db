//! One connection, until it is known which protocol it speaks: TCP, or TLS over it.

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

use crate::{auth::Peer, socket::watch_peer, tls::Tls};

/// What HTTP/2 clients send first.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How long a connection may take until it has said which protocol it speaks.
pub const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);

/// How often it is seen whether a client's certificate is still valid.
const CERTIFICATE_CHECK: Duration = Duration::from_secs(5);

/// A connection on which something was said.
pub struct ClientStream {
    stream: Either<TcpStream, TlsStream<TcpStream>>,
    first: [u8; PREFACE.len()],
    /// How much of `first` was read from the peer.
    said: usize,
    /// How much of that was passed on.
    taken: usize,
}

impl ClientStream {
    /// Waits until the peer has said which protocol it speaks: the whole preface of HTTP/2, or something else.
    pub async fn open(stream: TcpStream, tls: Option<&Tls>) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        watch_peer(&stream)?;
        let stream = match tls {
            Some(tls) => Either::Right(tls.accept(stream).await?),
            None => Either::Left(stream),
        };
        let mut client = Self { stream, first: [0; PREFACE.len()], said: 0, taken: 0 };
        let spoken = async {
            while client.said < PREFACE.len() && client.first[..client.said] == PREFACE[..client.said] {
                match client.stream.read(&mut client.first[client.said..]).await? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    read => client.said += read,
                }
            }
            io::Result::Ok(())
        };
        timeout(PREFACE_TIMEOUT, spoken).await??;
        Ok(client)
    }

    /// Whether the peer speaks HTTP/2.
    pub fn is_http2(&self) -> bool {
        self.first == *PREFACE
    }

    /// Who is at the other end, if it has shown a certificate; and what says when that is no longer valid.
    pub fn peer(&self, tls: Option<&Tls>) -> Option<(Peer, impl Future<Output = ()> + Send + use<>)> {
        let (Either::Right(stream), Some(tls)) = (&self.stream, tls.cloned()) else { return None };
        let certificates: Vec<_> =
            stream.get_ref().1.peer_certificates()?.iter().map(|der| der.clone().into_owned()).collect();
        let peer = Peer::of(certificates.first()?);
        let expired = peer.expired.clone();
        let watch = async move {
            while tls.still_takes(&certificates) {
                sleep(CERTIFICATE_CHECK).await;
            }
            expired.cancel();
        };
        Some((peer, watch))
    }
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken == self.said {
            return Pin::new(&mut self.stream).poll_read(cx, into);
        }
        let end = self.said.min(self.taken + into.remaining());
        into.put_slice(&self.first[self.taken..end]);
        self.taken = end;
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
