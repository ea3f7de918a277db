//! A write buffer that occupies memory only while it has bytes.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_write_buf;

/// Size of the buffer, in bytes.
const BUFFER_SIZE: usize = 8 * 1024;

/// A stream with a write buffer. It differs from [`BufWriter`](tokio::io::BufWriter) in that the buffer is freed when
/// it is empty: most connections are idle most of the time.
#[derive(Debug)]
pub struct LazyBufWriter<S> {
    stream: S,
    unsent: BytesMut,
}

impl<S> LazyBufWriter<S> {
    /// Buffers what is written to `stream`.
    pub fn new(stream: S) -> Self {
        Self { stream, unsent: BytesMut::new() }
    }

    /// Returns the stream.
    pub const fn get_ref(&self) -> &S {
        &self.stream
    }

    fn add(&mut self, bytes: &[u8]) {
        if self.unsent.capacity() == 0 {
            self.unsent.reserve(BUFFER_SIZE);
        }
        self.unsent.extend_from_slice(bytes);
    }
}

impl<S: Unpin> LazyBufWriter<S> {
    fn stream(&mut self) -> Pin<&mut S> {
        Pin::new(&mut self.stream)
    }
}

impl<S: AsyncWrite + Unpin> LazyBufWriter<S> {
    /// Sends the buffered bytes, unless `bytes` more fit into the buffer.
    fn poll_room(&mut self, cx: &mut Context<'_>, bytes: usize) -> Poll<io::Result<()>> {
        if self.unsent.len() + bytes > BUFFER_SIZE { self.poll_send(cx) } else { Poll::Ready(Ok(())) }
    }

    /// Sends what is buffered, and frees the buffer.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.unsent.is_empty() {
            if ready!(poll_write_buf(Pin::new(&mut self.stream), cx, &mut self.unsent))? == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
        }
        self.unsent = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for LazyBufWriter<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for LazyBufWriter<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_room(cx, bytes.len()))?;
        if bytes.len() > BUFFER_SIZE {
            return self.stream().poll_write(cx, bytes);
        }
        self.add(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_send(cx))?;
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        self.stream().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        ready!(self.poll_room(cx, bytes))?;
        if bytes > BUFFER_SIZE {
            return self.stream().poll_write_vectored(cx, slices);
        }
        for slice in slices {
            self.add(slice);
        }
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    #[tokio::test]
    async fn buffer_is_freed_when_everything_is_sent() {
        let (stream, mut peer) = duplex(64 * 1024);
        let mut writer = LazyBufWriter::new(stream);
        assert_eq!(writer.unsent.capacity(), 0);
        writer.write_all(b"ab").await.expect("it is open");
        writer.write_all(b"c").await.expect("it is open");
        assert_eq!(&*writer.unsent, b"abc");
        writer.flush().await.expect("it is open");
        assert_eq!(writer.unsent.capacity(), 0);
        let mut said = [0; 3];
        peer.read_exact(&mut said).await.expect("it is open");
        assert_eq!(&said, b"abc");
    }

    #[tokio::test]
    async fn large_writes_keep_their_place_behind_buffered_bytes() {
        let (stream, mut peer) = duplex(1024);
        let mut writer = LazyBufWriter::new(stream);
        let large = vec![b'x'; 3 * BUFFER_SIZE];
        let sent = async {
            writer.write_all(b"first").await.expect("it is open");
            writer.write_all(&large).await.expect("it is open");
            writer.write_all(b"last").await.expect("it is open");
            writer.shutdown().await.expect("it is open");
        };
        let mut said = Vec::new();
        let ((), read) = tokio::join!(sent, peer.read_to_end(&mut said));
        read.expect("it is open");
        assert_eq!(said, [b"first", &*large, b"last"].concat());
    }
}
