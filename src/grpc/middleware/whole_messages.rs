//! Requests as whole messages.
//!
//! tonic allocates a message's buffer as soon as it has read the message's declared length, so a peer that sends five
//! bytes would occupy as much memory as the largest message. Here a message is passed on when all of it has arrived.

use std::{
    mem::take,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::Request;
use http_body::{Body as HttpBody, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::{Status, body::Body, service::Routes};
use tower::Service;

use crate::{
    domain::JobError,
    grpc::{
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
        let is_conversation = path.starts_with("/grpc.reflection.");
        let timer = if is_conversation { Timer::Off } else { Timer::Due(Instant::now() + BODY_TIMEOUT) };
        self.0.call(request.map(|inner| Messages {
            inner,
            held: BytesMut::new(),
            next: None,
            limit,
            timer,
            turn: Turn::None,
        }))
    }
}

/// Body of a request, which passes on whole messages.
///
/// The received bytes of a large request are counted until its handler has returned: until then the handler holds a job
/// made of them.
pub struct Messages {
    inner: Body,
    /// Beginning of a message whose end has not arrived.
    held: BytesMut,
    /// Frame that follows the held bytes.
    next: Option<Frame<Bytes>>,
    /// Maximum size of a message. A longer one is passed on as it is, and tonic refuses it for its prefix.
    limit: usize,
    timer: Timer,
    turn: Turn,
}

/// State of a heavy message that waits to be decoded.
#[derive(Default)]
enum Turn {
    #[default]
    None,
    Waiting(Bytes, Pin<Box<dyn Future<Output = ()> + Send>>),
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
    /// Ends with `last`. An incomplete held message is passed on before it, and tonic reports the error.
    fn finish(&mut self, last: Option<Frame<Bytes>>) -> Option<Frame<Bytes>> {
        if self.held.is_empty() {
            return last;
        }
        self.next = last;
        Some(Frame::data(self.held.split().freeze()))
    }

    /// Appends `data` to the held bytes. Returns the messages that are complete.
    fn take(&mut self, mut data: Bytes) -> Bytes {
        if self.held.is_empty() {
            let whole = whole(&data, self.limit);
            if whole == data.len() {
                return data;
            }
            // Copied, so that a small part does not keep a large buffer.
            self.held.extend_from_slice(&data[whole..]);
            data.truncate(whole);
            return data;
        }
        self.held.extend_from_slice(&data);
        let whole = whole(&self.held, self.limit);
        self.held.split_to(whole).freeze()
    }
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
        if let Some(next) = this.next.take() {
            return Poll::Ready(Some(Ok(next)));
        }
        loop {
            if let Turn::Waiting(_, turn) = &mut this.turn {
                ready!(turn.as_mut().poll(cx));
                let Turn::Waiting(data, _) = take(&mut this.turn) else { unreachable!("it was just looked at") };
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            let Poll::Ready(frame) = Pin::new(&mut this.inner).poll_frame(cx) else {
                ready!(this.timer.poll(cx));
                return Poll::Ready(Some(Err(JobError::DeadlineExceeded.into())));
            };
            let data = match frame.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => data,
                Some(Ok(Err(trailers))) => return Poll::Ready(this.finish(Some(trailers)).map(Ok)),
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(this.finish(None).map(Ok)),
            };
            if (data.len() >= COUNTED_MIN || !this.held.is_empty())
                && let Err(error) = Exchange::hold_request(data.len())
            {
                return Poll::Ready(Some(Err(error.into())));
            }
            let whole = this.take(data);
            if whole.first() == Some(&COMPRESSED) {
                Exchange::mark_compressed();
            }
            // A compressed message may be heavy however short it is.
            if (whole.len() >= HEAVY_MIN || whole.first() == Some(&COMPRESSED))
                && let Some(turn) = Exchange::turn()
            {
                this.turn = Turn::Waiting(whole, Box::pin(turn));
            } else if !whole.is_empty() {
                return Poll::Ready(Some(Ok(Frame::data(whole))));
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.turn, Turn::None) && self.held.is_empty() && self.next.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
