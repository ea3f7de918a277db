//! Requests as whole messages.
//!
//! tonic allocates a message's buffer as soon as it has read the message's declared length, so a peer that sends five
//! bytes would occupy as much memory as the largest message. Here a message is passed on when all of it has arrived.

use std::{
    collections::VecDeque,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes};
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

use crate::{
    domain::JobError,
    grpc::{
        body_buffer::BodyBuffer,
        exchange::Exchange,
        message_size::{HEAVY_MIN, request_max},
    },
};

/// Maximum duration of a request from its head to its end.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Size from which on a request is counted among the bytes in memory. Most requests are smaller, and cost nothing.
const COUNTED_MIN: usize = 1024;

/// Bytes before each message: its compression flag and its length.
const PREFIX: usize = 5;

/// Flag of a compressed message, its first byte.
const COMPRESSED: u8 = 1;

/// Passes whole messages of requests to the services.
#[derive(Clone, Debug)]
pub struct WholeMessages(pub Routes);

impl Service<Request<Body>> for WholeMessages {
    type Response = <Routes as Service<Request<Messages>>>::Response;
    type Error = <Routes as Service<Request<Messages>>>::Error;
    type Future = <Routes as Service<Request<Messages>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Service::<Request<Messages>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let limit = request_max(path);
        // A stream to reflection has several requests, and a limit of its own.
        let is_bidirectional = path.starts_with("/grpc.reflection.");
        let timer = if is_bidirectional { Timer::Off } else { Timer::Due(Instant::now() + BODY_TIMEOUT) };
        self.0.call(request.map(|inner| Messages {
            inner,
            held: BodyBuffer::default(),
            whole: VecDeque::new(),
            next: None,
            limit,
            timer,
            turn: None,
        }))
    }
}

/// Body of a request, which passes on whole messages.
///
/// The received bytes of a large request are counted until its handler has stored the request or has returned: until
/// then the handler holds a job made of them.
pub struct Messages {
    inner: Body,
    /// Beginning of a message whose end has not arrived.
    held: BodyBuffer,
    /// Parts of messages whose end has arrived, to pass on.
    whole: VecDeque<Bytes>,
    /// Frame that follows the parts in `whole`.
    next: Option<Frame<Bytes>>,
    /// Maximum size of a message. A longer one is passed on unchanged, and tonic rejects it because of the length in
    /// its prefix.
    limit: usize,
    timer: Timer,
    /// Turn that whole messages wait for before they are decoded, if they are heavy.
    turn: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

/// Limits the duration of a request.
enum Timer {
    Off,
    /// Not started yet, because most requests have arrived when they are first polled.
    Due(Instant),
    Running(Pin<Box<Sleep>>),
}

impl Timer {
    /// Returns ready when the time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Off => Poll::Pending,
            Self::Due(time) => {
                let mut sleep = Box::pin(sleep_until(*time));
                let polled = sleep.as_mut().poll(cx);
                *self = Self::Running(sleep);
                polled
            }
            Self::Running(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

impl Messages {
    /// Appends `data` to the bytes that have arrived, and counts the memory that they occupy.
    fn take(&mut self, mut data: Bytes) -> Result<(), JobError> {
        if !self.held.is_empty() {
            self.hold(&data.split_to(data.len().min(PREFIX.saturating_sub(self.held.len()))))?;
            let Some([_, length @ ..]) = self.held.first::<PREFIX>() else { return Ok(()) };
            let length = u32::from_be_bytes(*length) as usize;
            // A message that is too long is not waited for.
            let end = if length > self.limit { self.held.len() } else { PREFIX + length };
            self.hold(&data.split_to(data.len().min(end - self.held.len())))?;
            if self.held.len() < end {
                return Ok(());
            }
            self.whole.extend(self.held.take());
        }
        let whole = data.split_to(whole(&data, self.limit));
        if whole.len() >= COUNTED_MIN {
            Exchange::hold_request(whole.len())?;
        }
        self.whole.extend(Some(whole).filter(|whole| !whole.is_empty()));
        self.hold(&data)
    }

    /// Appends `data` to a message whose end has not arrived.
    fn hold(&mut self, data: &[u8]) -> Result<(), JobError> {
        Exchange::hold_request(self.held.growth(data.len()))?;
        self.held.push(data);
        Ok(())
    }

    /// Makes the whole messages wait for a turn, if they are heavy.
    fn wait_for_turn(&mut self) {
        let is_compressed = self.whole.front().is_some_and(|part| part.first() == Some(&COMPRESSED));
        if is_compressed {
            Exchange::mark_compressed();
        }
        let length: usize = self.whole.iter().map(Bytes::len).sum();
        // A compressed message may be heavy however short it is.
        if is_compressed || length >= HEAVY_MIN {
            self.turn = Exchange::turn().map(|turn| Box::pin(turn) as _);
        }
    }
}

/// Returns whether these are whole messages that are too small to be counted or to wait. Most requests are.
fn is_small(data: &[u8], limit: usize) -> bool {
    data.first() != Some(&COMPRESSED) && data.len() < COUNTED_MIN && whole(data, limit) == data.len()
}

/// Returns the number of bytes at the beginning of `data` that can be passed on: of complete messages, and of one that
/// is longer than `limit`.
fn whole(mut data: &[u8], limit: usize) -> usize {
    let all = data.len();
    while data.len() >= PREFIX {
        let length = (&data[1..]).get_u32() as usize;
        if length > limit {
            return all;
        }
        if data.len() - PREFIX < length {
            break;
        }
        data = &data[PREFIX + length..];
    }
    all - data.len()
}

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(turn) = &mut this.turn {
                ready!(turn.as_mut().poll(cx));
                this.turn = None;
            }
            if let Some(part) = this.whole.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(part))));
            }
            if let Some(next) = this.next.take() {
                return Poll::Ready(Some(Ok(next)));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                ready!(this.timer.poll(cx));
                return Poll::Ready(Some(Err(JobError::DeadlineExceeded.into())));
            };
            let data = match frame.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => data,
                None if this.held.is_empty() => return Poll::Ready(None),
                end => {
                    // An incomplete message is passed on, and tonic reports the error.
                    this.whole.extend(this.held.take());
                    this.next = end.and_then(Result::err);
                    continue;
                }
            };
            if this.held.is_empty() && is_small(&data, this.limit) {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            this.take(data)?;
            this.wait_for_turn();
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.whole.is_empty() && self.next.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn messages_are_passed_on_whole_and_in_order(
            lengths in prop::collection::vec(0..3000_u32, 1..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let (mut all, mut ends) = (Vec::new(), vec![0]);
            for length in lengths {
                all.extend([&[0][..], &length.to_be_bytes(), &vec![7; length as usize]].concat());
                ends.push(all.len());
            }
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(all.len())).chain([0, all.len()]).collect();
            cuts.sort_unstable();
            let mut messages = Messages {
                inner: Body::empty(),
                held: BodyBuffer::default(),
                whole: VecDeque::new(),
                next: None,
                limit: 3000,
                timer: Timer::Off,
                turn: None,
            };
            for window in cuts.windows(2) {
                messages.take(Bytes::copy_from_slice(&all[window[0]..window[1]])).expect("there is memory");
                let passed = *ends.iter().rfind(|end| **end <= window[1]).expect("the first end is 0");
                prop_assert_eq!(messages.whole.iter().flatten().copied().collect::<Vec<_>>(), &all[..passed]);
                prop_assert_eq!(messages.held.len(), window[1] - passed);
            }
        }
    }

    #[test]
    fn messages_are_whole_when_their_end_has_come() {
        assert_eq!(whole(&[], 10), 0);
        assert_eq!(whole(&[0, 0, 0, 0], 10), 0);
        assert_eq!(whole(&[0, 0, 0, 0, 0], 10), 5);
        assert_eq!(whole(&[0, 0, 0, 0, 2, 7], 10), 0);
        assert_eq!(whole(&[0, 0, 0, 0, 2, 7, 7, 0, 0], 10), 7);
        assert_eq!(whole(&[0, 0, 0, 0, 1, 7, 1, 0, 0, 0, 1, 7], 10), 12);
    }

    #[test]
    fn a_message_that_is_too_long_is_not_waited_for() {
        assert_eq!(whole(&[0, 0, 0, 0, 11, 7], 10), 6);
        assert_eq!(whole(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 11, 7], 10), 11);
    }
}
