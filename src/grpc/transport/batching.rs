//! Batches the writes of a connection: one flush for each pass of the scheduler.
//!
//! Each stream is a task of its own, which wakes its connection when it has something to send. tokio first runs the
//! task that was woken most recently, so each response, and each event of each watch, would cost a system call or two,
//! and a packet. A connection therefore yields to the tasks that were ready before it. Its writes are buffered and sent
//! at the end of its own pass, or when the buffer is full.
//!
//! A connection with a single unary call has nothing to batch, and its yield would wake another thread of the runtime,
//! which finds nothing to do. It therefore yields only if several calls or a watch are open, or were a few passes ago:
//! short calls of many callers often end before the next one begins.

use std::{
    future::poll_fn,
    io::{self, IoSlice},
    pin::{Pin, pin},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{pending, poll};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    task::yield_now,
    time::sleep,
};

use super::{counted_stream::CountedStream, lazy_writer::LazyBufWriter};

/// Number of passes with at most one unary call after which a connection no longer yields.
const SINGLE_CALL_PASSES: u32 = 64;

/// Maximum time in which a peer accepts nothing of the data sent to it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Runs the connection that `connect` makes of `stream`, with batched writes. `may_batch` returns whether calls are open
/// now that may have several writes in one pass. Returns the result of the connection, or the error of a write;
/// `TimedOut` if the peer accepted nothing for too long.
pub async fn batch_writes<S: AsyncWrite + Unpin, C: Future>(
    stream: S,
    may_batch: impl Fn() -> bool,
    connect: impl FnOnce(BatchedStream<S>) -> C,
) -> io::Result<C::Output> {
    batch_writes_within(|| sleep(WRITE_TIMEOUT), stream, may_batch, connect).await
}

/// Does the same as [`batch_writes`], with another time limit: the peer must accept something before the future that
/// `limit` returns is ready.
async fn batch_writes_within<S: AsyncWrite + Unpin, C: Future, L: Future>(
    limit: impl Fn() -> L,
    stream: S,
    may_batch: impl Fn() -> bool,
    connect: impl FnOnce(BatchedStream<S>) -> C,
) -> io::Result<C::Output> {
    let writer = LazyBufWriter::new(CountedStream::new(stream));
    let stream = BatchedStream(Arc::new(Mutex::new(Buffered { writer, is_blocked: false })));
    let mut connection = pin!(connect(BatchedStream(stream.0.clone())));
    // Number of bytes that the peer had accepted when it stopped accepting more, and the time limit that began then.
    let mut blocked: Option<(u64, Pin<Box<L>>)> = None;
    let mut passes_to_yield = SINGLE_CALL_PASSES;
    loop {
        if passes_to_yield > 0 {
            yield_now().await;
        }
        let turn = poll!(&mut connection);
        // The calls that this pass has accepted are open now. Later one may end before the other is answered.
        passes_to_yield = if may_batch() { SINGLE_CALL_PASSES } else { passes_to_yield.saturating_sub(1) };
        let sent = poll!(poll_fn(|cx| stream.buffered().poll_flush(cx)));
        match (turn, sent) {
            (Poll::Ready(ended), _) => return Ok(ended),
            (Poll::Pending, Poll::Ready(Err(error))) => return Err(error),
            (Poll::Pending, Poll::Ready(Ok(()))) => blocked = None,
            (Poll::Pending, Poll::Pending) => {
                let written = stream.buffered().writer.get_ref().written();
                if blocked.as_ref().is_none_or(|(before, _)| *before != written) {
                    blocked = Some((written, Box::pin(limit())));
                }
                if let Some((_, limit)) = &mut blocked
                    && poll!(limit).is_ready()
                {
                    return Err(io::ErrorKind::TimedOut.into());
                }
            }
        }
        // Returns to the scheduler. What was polled above wakes the task when there is something to do.
        pending!();
    }
}

/// A stream that is flushed at the end of each pass of its connection.
#[derive(Debug)]
pub struct BatchedStream<S>(Arc<Mutex<Buffered<S>>>);

#[derive(Debug)]
struct Buffered<S> {
    writer: LazyBufWriter<CountedStream<S>>,
    /// The last flush could not send everything.
    is_blocked: bool,
}

impl<S> BatchedStream<S> {
    /// Locks the stream. The lock is never contended, because only the task of the connection uses it.
    fn buffered(&self) -> MutexGuard<'_, Buffered<S>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: AsyncWrite + Unpin> Buffered<S> {
    fn writer(&mut self) -> Pin<&mut LazyBufWriter<CountedStream<S>>> {
        Pin::new(&mut self.writer)
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = self.writer().poll_flush(cx);
        self.is_blocked = flushed.is_pending();
        flushed
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for BatchedStream<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.buffered().writer().poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BatchedStream<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.buffered().writer().poll_write(cx, bytes)
    }

    /// Does nothing, because the stream is flushed at the end of this pass. If the last flush could not send
    /// everything, this method flushes as well, so that the writer waits.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut held = self.buffered();
        if held.is_blocked { held.poll_flush(cx) } else { Poll::Ready(Ok(())) }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.buffered().writer().poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.buffered().writer().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::pending,
        pin::pin,
        sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
        task::{Wake, Waker},
    };

    use tokio::io::AsyncWriteExt;

    use super::*;

    /// The parts that arrived at the other end, and the outcome of the next write.
    #[derive(Default)]
    struct Wire {
        sent: Vec<String>,
        is_full: bool,
        is_broken: bool,
        waker: Option<Waker>,
    }

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Wire>>);

    impl Shared {
        fn wire(&self) -> MutexGuard<'_, Wire> {
            self.0.lock().expect("no test has failed with it")
        }
    }

    impl AsyncWrite for Shared {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let mut wire = self.wire();
            if wire.is_broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            if wire.is_full {
                wire.waker = Some(cx.waker().clone());
                return Poll::Pending;
            }
            wire.sent.push(String::from_utf8_lossy(bytes).into_owned());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.wire().sent.push("the end".to_owned());
            Poll::Ready(Ok(()))
        }
    }

    /// Runs without a time limit, as most of these tests have no clock.
    async fn batch_writes<C: Future>(
        stream: Shared,
        connect: impl FnOnce(BatchedStream<Shared>) -> C,
    ) -> io::Result<C::Output> {
        batch_writes_within(pending::<()>, stream, || true, connect).await
    }

    /// Counts how often it was woken.
    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Relaxed);
        }
    }

    /// Polls as long as it is woken.
    fn run<F: Future>(mut future: Pin<&mut F>, woken: &Arc<Woken>) -> Poll<F::Output> {
        let waker = Waker::from(woken.clone());
        loop {
            let before = woken.0.load(Relaxed);
            let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
            if polled.is_ready() || woken.0.load(Relaxed) == before {
                return polled;
            }
        }
    }

    async fn say(stream: &mut BatchedStream<Shared>, words: &[&str]) {
        for word in words {
            stream.write_all(word.as_bytes()).await.expect("it can be written to");
            stream.flush().await.expect("it can be written to");
        }
    }

    #[test]
    fn ready_tasks_run_before_a_connection() {
        let mut connection = pin!(batch_writes(Shared::default(), |_| async {}));
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        assert!(connection.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        assert_eq!(woken.0.load(Relaxed), 1, "it is to be polled again");
        assert!(connection.as_mut().poll(&mut Context::from_waker(&waker)).is_ready());
    }

    #[test]
    fn a_connection_with_a_single_call_soon_yields_no_more() {
        let several = Arc::new(AtomicBool::new(true));
        let seen = several.clone();
        let mut connection = pin!(batch_writes_within(
            pending::<()>,
            Shared::default(),
            move || seen.load(Relaxed),
            |_| pending::<()>()
        ));
        let woken = Arc::new(Woken::default());
        // A pass that yields wakes its own task once, and is then polled a second time.
        let mut yields = |passes: u32| {
            let before = woken.0.load(Relaxed);
            for _ in 0..passes {
                assert!(run(connection.as_mut(), &woken).is_pending());
            }
            woken.0.load(Relaxed) - before
        };
        assert_eq!(yields(3), 3);
        several.store(false, Relaxed);
        assert_eq!(yields(3 * SINGLE_CALL_PASSES), SINGLE_CALL_PASSES as usize);
        several.store(true, Relaxed);
        assert_eq!(yields(3), 2, "all but the first, which accepts the calls");
    }

    #[test]
    fn writes_of_one_pass_are_flushed_together() {
        let shared = Shared::default();
        let connection = batch_writes(shared.clone(), |mut stream| async move {
            say(&mut stream, &["a", "b"]).await;
            yield_now().await;
            say(&mut stream, &["c", "d"]).await;
            pending::<()>().await;
        });
        assert!(run(pin!(connection), &Arc::default()).is_pending());
        assert_eq!(shared.wire().sent, ["ab", "cd"]);
    }

    #[test]
    fn unsent_bytes_are_sent_when_the_peer_accepts_more() {
        let shared = Shared::default();
        shared.wire().is_full = true;
        let mut connection = pin!(batch_writes(shared.clone(), |mut stream| async move {
            say(&mut stream, &["a"]).await;
            pending::<()>().await;
        }));
        let woken = Arc::new(Woken::default());
        assert!(run(connection.as_mut(), &woken).is_pending());
        assert!(shared.wire().sent.is_empty());
        shared.wire().is_full = false;
        shared.wire().waker.take().expect("the writer waits").wake();
        assert!(run(connection.as_mut(), &woken).is_pending());
        assert_eq!(shared.wire().sent, ["a"]);
    }

    #[test]
    fn no_more_than_a_buffer_is_held() {
        let shared = Shared::default();
        shared.wire().is_full = true;
        let held = Arc::new(AtomicUsize::new(0));
        let counted = held.clone();
        let mut connection = pin!(batch_writes(shared.clone(), |mut stream| async move {
            loop {
                say(&mut stream, &["0123456789abcdef"]).await;
                counted.fetch_add(16, Relaxed);
            }
        }));
        assert!(run(connection.as_mut(), &Arc::default()).is_pending());
        assert!((1..=8192).contains(&held.load(Relaxed)), "{} bytes", held.load(Relaxed));
    }

    #[test]
    fn a_connection_that_ends_has_said_everything() {
        for is_shut_down in [false, true] {
            let shared = Shared::default();
            let connection = batch_writes(shared.clone(), |mut stream| async move {
                say(&mut stream, &["a", "b"]).await;
                if is_shut_down {
                    stream.shutdown().await.expect("it can be shut down");
                }
                "done"
            });
            assert!(matches!(run(pin!(connection), &Arc::default()), Poll::Ready(Ok("done"))));
            assert_eq!(shared.wire().sent[0], "ab");
        }
    }

    #[test]
    fn flush_waits_until_the_previous_pass_is_sent() {
        let shared = Shared::default();
        shared.wire().is_full = true;
        let flushed = Arc::new(AtomicUsize::new(0));
        let counted = flushed.clone();
        let mut connection = pin!(batch_writes(shared.clone(), |mut stream| async move {
            say(&mut stream, &["a"]).await;
            counted.fetch_add(1, Relaxed);
            yield_now().await;
            say(&mut stream, &["b"]).await;
            counted.fetch_add(1, Relaxed);
            pending::<()>().await;
        }));
        let woken = Arc::new(Woken::default());
        assert!(run(connection.as_mut(), &woken).is_pending());
        assert_eq!(flushed.load(Relaxed), 1);
        shared.wire().is_full = false;
        shared.wire().waker.take().expect("the writer waits").wake();
        assert!(run(connection.as_mut(), &woken).is_pending());
        assert_eq!((flushed.load(Relaxed), shared.wire().sent.concat().as_str()), (2, "ab"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_takes_nothing_is_not_waited_for() {
        let shared = Shared::default();
        shared.wire().is_full = true;
        let connection = super::batch_writes(
            shared,
            || true,
            |mut stream| async move {
                say(&mut stream, &["a"]).await;
                pending::<()>().await;
            },
        );
        let began = tokio::time::Instant::now();
        let error = connection.await.expect_err("it takes nothing");
        assert_eq!((error.kind(), began.elapsed().as_secs()), (io::ErrorKind::TimedOut, WRITE_TIMEOUT.as_secs()));
    }

    #[test]
    fn a_connection_that_breaks_ends() {
        let shared = Shared::default();
        shared.wire().is_broken = true;
        let connection = batch_writes(shared.clone(), |mut stream| async move {
            say(&mut stream, &["a"]).await;
            pending::<()>().await;
        });
        let Poll::Ready(Err(error)) = run(pin!(connection), &Arc::default()) else { panic!("it goes on") };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
