//! The streams of the output. Output of the command is written to this process's output first, and searched for
//! progress afterwards.

use std::{
    fs::File,
    io::{self, PipeReader, PipeWriter, pipe},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    process::Stdio,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::fstat,
    io::{Errno, read, write},
};
use tokio::sync::Notify;

use super::{
    internal::copier,
    progress::{Detector, Found, Lane, Pattern},
    tail::Tail,
};

/// Maximum size of one read in bytes: the capacity of a pipe.
const READ_MAX: usize = 64 * 1024;

/// Time without output after which an unfinished line is searched for progress.
const SETTLE_TIME: Duration = Duration::from_millis(100);

/// After the end of the command: time without output after which a stream is no longer read. Other processes may keep
/// the stream open.
const LAST_OUTPUT_TIME: Duration = Duration::from_millis(50);

/// Maximum output in bytes that is copied after the end of the command: another process may write without end.
const LAST_OUTPUT_MAX: usize = 1024 * 1024;

/// The progress and the last lines of the output.
#[derive(Debug, Default)]
struct Observed {
    detector: Detector,
    tail: Tail,
}

/// Finds progress in the output of a command, and keeps the end of the output.
#[derive(Clone, Debug, Default)]
pub struct Observer {
    observed: Arc<Mutex<Observed>>,
    news: Arc<Notify>,
}

impl Observer {
    /// Returns an observer that finds lines of this pattern, or without a pattern all known forms of progress.
    pub fn new(pattern: Option<Pattern>) -> Self {
        let observed = Observed { detector: Detector::new(pattern), tail: Tail::default() };
        Self { observed: Arc::new(Mutex::new(observed)), news: Arc::default() }
    }

    /// Waits until there is progress.
    pub async fn news(&self) {
        self.news.notified().await;
    }

    /// Returns the newest progress, unless it was returned before.
    pub fn take(&self) -> Option<Found> {
        self.lock().detector.take()
    }

    /// Returns the end of the output.
    pub fn message(&self) -> String {
        self.lock().tail.message()
    }

    fn lock(&self) -> MutexGuard<'_, Observed> {
        self.observed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self, lane: Lane, bytes: &[u8]) {
        let mut observed = self.lock();
        observed.tail.push(bytes);
        observed.detector.feed(lane, bytes);
        self.tell(observed);
    }

    fn settle(&self, lane: Lane) {
        let mut observed = self.lock();
        observed.detector.settle(lane);
        self.tell(observed);
    }

    fn tell(&self, observed: MutexGuard<'_, Observed>) {
        if observed.detector.has_news() {
            drop(observed);
            self.news.notify_one();
        }
    }
}

/// An output of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    Output,
    Error,
}

impl Sink {
    fn with<T>(self, call: impl FnOnce(BorrowedFd<'_>) -> T) -> T {
        match self {
            Self::Output => call(io::stdout().as_fd()),
            Self::Error => call(io::stderr().as_fd()),
        }
    }
}

/// An output of the command, and the output of this process that it is copied to.
#[derive(Debug)]
pub struct Stream {
    pub source: OwnedFd,
    pub sink: Sink,
    pub lane: Lane,
}

/// A stream that another process keeps open after the end of the command; `None`: the stream has ended.
pub type Leftover = Option<Stream>;

/// Returns the standard output and standard error of the command, and the streams that read from them. If both outputs
/// of this process are the same file, the command gets one pipe for both, which keeps the order of its writes.
pub fn pipes() -> io::Result<(Stdio, Stdio, Vec<Stream>)> {
    let (output, output_end) = pipe()?;
    let stream = |source: PipeReader, sink, lane| Stream { source: source.into(), sink, lane };
    let first = stream(output, Sink::Output, Lane::Output);
    if is_same_file(io::stdout().as_fd(), io::stderr().as_fd()) {
        return Ok((output_end.try_clone()?.into(), output_end.into(), vec![first]));
    }
    let (error, error_end) = pipe()?;
    Ok((output_end.into(), error_end.into(), vec![first, stream(error, Sink::Error, Lane::Error)]))
}

fn is_same_file(a: BorrowedFd<'_>, b: BorrowedFd<'_>) -> bool {
    match (fstat(a), fstat(b)) {
        (Ok(a), Ok(b)) => (a.st_dev, a.st_ino, a.st_rdev) == (b.st_dev, b.st_ino, b.st_rdev),
        _ => false,
    }
}

/// Tells [`copy`], when dropped, that the command has ended: only its remaining output is copied.
#[derive(Debug)]
pub struct Stop {
    _end: PipeWriter,
}

impl Stop {
    /// Returns a stop, and the pipe by which [`copy`] detects its drop.
    pub fn new() -> io::Result<(PipeReader, Self)> {
        let (stopped, end) = pipe()?;
        Ok((stopped, Self { _end: end }))
    }
}

/// Copies a stream to its end. If the reader of the sink has closed it, the source is closed, too: the command gets
/// SIGPIPE, as it would without this process.
pub fn copy(stream: Stream, stopped: &PipeReader, observer: &Observer) -> Leftover {
    let Stream { source, sink, lane } = stream;
    let mut buffer = vec![0; READ_MAX];
    let (mut is_stopping, mut is_unsettled, mut rest) = (false, false, LAST_OUTPUT_MAX);
    loop {
        let timeout = timeout(is_stopping, is_unsettled);
        match wait(source.as_fd(), sink, (!is_stopping).then_some(stopped.as_fd()), timeout) {
            Ready::Source => {}
            Ready::Stopped => {
                is_stopping = true;
                continue;
            }
            Ready::Timeout if is_stopping => return Some(Stream { source, sink, lane }),
            Ready::Timeout => {
                observer.settle(lane);
                is_unsettled = false;
                continue;
            }
            Ready::SinkClosed => return None,
        }
        let length = match read(&source, &mut *buffer) {
            Ok(length @ 1..) => length,
            Err(Errno::INTR | Errno::AGAIN) => continue,
            // A terminal whose processes have all ended returns an error instead of an end of file.
            Ok(0) | Err(_) => break,
        };
        if !write_all(sink, &buffer[..length]) {
            return None;
        }
        observer.feed(lane, &buffer[..length]);
        is_unsettled = true;
        rest = if is_stopping { rest.saturating_sub(length) } else { rest };
        if rest == 0 {
            return Some(Stream { source, sink, lane });
        }
    }
    observer.settle(lane);
    None
}

/// Returns the maximum time to wait for more of a stream.
fn timeout(is_stopping: bool, is_unsettled: bool) -> Option<Duration> {
    match (is_stopping, is_unsettled) {
        (true, _) => Some(LAST_OUTPUT_TIME),
        (false, true) => Some(SETTLE_TIME),
        (false, false) => None,
    }
}

/// The event that a stream waited for.
enum Ready {
    Source,
    SinkClosed,
    Stopped,
    Timeout,
}

fn wait(source: BorrowedFd<'_>, sink: Sink, stopped: Option<BorrowedFd<'_>>, timeout: Option<Duration>) -> Ready {
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    sink.with(|sink| {
        loop {
            let stopped = stopped.unwrap_or(source);
            let mut files = [
                PollFd::from_borrowed_fd(source, PollFlags::IN),
                // `poll` reports errors and hang-ups even if no event is requested.
                PollFd::from_borrowed_fd(sink, PollFlags::empty()),
                PollFd::from_borrowed_fd(stopped, PollFlags::IN),
            ];
            match poll(&mut files, timeout.as_ref()) {
                Ok(0) => return Ready::Timeout,
                Ok(_) if files[1].revents().intersects(PollFlags::ERR | PollFlags::HUP) => return Ready::SinkClosed,
                Ok(_) if !files[0].revents().is_empty() => return Ready::Source,
                Ok(_) => return Ready::Stopped,
                Err(Errno::INTR | Errno::AGAIN) => {}
                // The following read returns the error.
                Err(_) => return Ready::Source,
            }
        }
    })
}

/// Writes all bytes. Returns `false` if the sink takes no more.
fn write_all(sink: Sink, mut bytes: &[u8]) -> bool {
    sink.with(|sink| {
        while !bytes.is_empty() {
            match write(sink, bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(Errno::INTR) => {}
                // Another process has set the file to be non-blocking.
                Err(Errno::AGAIN) => _ = poll(&mut [PollFd::from_borrowed_fd(sink, PollFlags::OUT)], None),
                Err(_) => return false,
            }
        }
        true
    })
}

/// Starts a process that copies the rest of a stream. This process can then exit.
pub fn hand_over(stream: Stream) -> io::Result<()> {
    let sink = stream.sink.with(|sink| sink.try_clone_to_owned())?;
    let mut command = copier()?;
    command.stdin(File::from(stream.source)).stdout(File::from(sink)).spawn()?;
    Ok(())
}
