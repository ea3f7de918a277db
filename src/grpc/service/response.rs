//! Responses: compression and limits of answers, and streams that end when the server drains, at the caller's deadline,
//! or with the caller's credentials.

use std::{
    mem::replace,
    ops::RangeInclusive,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{Stream, StreamExt, stream::FuturesUnordered};
use pin_project_lite::pin_project;
use tokio::time::timeout;
use tonic::{Response, Status};

use crate::{
    domain::JobError,
    grpc::{
        exchange::Exchange,
        message_size::{HEAVY_MIN, RESPONSE_MAX},
        middleware::ending::Ending,
    },
};

/// Sizes, in bytes, of answers that are compressed. Smaller ones would hardly shrink. Compressing a larger one takes
/// more than a millisecond, in which the thread runs no other call.
const COMPRESSED: RangeInclusive<usize> = 1025..=64 * 1024;

/// Maximum time that the headers of a stream's response wait for the first event, which decides whether the call fails
/// and whether it is compressed. A scan for the first matching job may take longer than clients wait for the headers.
const FIRST_EVENT_WAIT: Duration = Duration::from_secs(1);

/// A response stream.
pub type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// Returns a stream of `items` until they end or `ending` is reached. If `ending` is reached first, an item that is
/// ready at that time is still sent. If that item is the last one, the stream ends without an error. A caller whose
/// credentials have ended gets nothing more.
pub fn until<T, S>(items: S, ending: Ending) -> Pin<Box<dyn PutBack<T> + Send>>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    let ending = FuturesUnordered::from_iter([ending.reached()]);
    Box::pin(Until { put_back: None, items, ending, course: Course::Open })
}

/// A stream whose first item can be taken out and put back.
pub trait PutBack<T>: Stream<Item = Result<T, Status>> {
    /// Puts `item` at the front.
    fn put_back(self: Pin<&mut Self>, item: Result<T, Status>);
}

pin_project! {
    /// The stream that [`until`] returns.
    struct Until<S: Stream, E> {
        put_back: Option<S::Item>,
        #[pin]
        items: S,
        // Contains one future. The set polls it only after it was woken, although it is checked before each item.
        ending: FuturesUnordered<E>,
        course: Course,
    }
}

/// State of a stream.
enum Course {
    /// The stream is open, and `ending` is not reached.
    Open,
    /// The last item was sent. This error follows, unless the items have ended.
    Last(JobError),
    /// The stream has ended.
    Over,
}

impl<T, S, E> PutBack<T> for Until<S, E>
where
    S: Stream<Item = Result<T, Status>>,
    E: Future<Output = JobError>,
{
    fn put_back(self: Pin<&mut Self>, item: Result<T, Status>) {
        *self.project().put_back = Some(item);
    }
}

impl<T, S, E> Stream for Until<S, E>
where
    S: Stream<Item = Result<T, Status>>,
    E: Future<Output = JobError>,
{
    type Item = Result<T, Status>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.project();
        if let Some(item) = this.put_back.take() {
            return Poll::Ready(Some(item));
        }
        let reached = match replace(this.course, Course::Over) {
            Course::Open => match this.ending.poll_next_unpin(cx) {
                Poll::Ready(reached) => reached,
                Poll::Pending => {
                    let item = this.items.poll_next(cx);
                    if !matches!(item, Poll::Ready(None)) {
                        *this.course = Course::Open;
                    }
                    return item;
                }
            },
            Course::Last(error) => {
                let is_end = matches!(this.items.poll_next(cx), Poll::Ready(None));
                return Poll::Ready((!is_end).then(|| Err(error.into())));
            }
            Course::Over => None,
        };
        let Some(error) = reached else { return Poll::Ready(None) };
        // A caller whose credentials have ended gets nothing more.
        if matches!(error, JobError::Unauthenticated(_)) {
            return Poll::Ready(Some(Err(error.into())));
        }
        match this.items.poll_next(cx) {
            Poll::Ready(item) => {
                if item.is_some() {
                    *this.course = Course::Last(error);
                }
                Poll::Ready(item)
            }
            Poll::Pending => Poll::Ready(Some(Err(error.into()))),
        }
    }
}

/// Answers with `message`, compressed if its size is in [`COMPRESSED`]. Fails if the message is larger than clients
/// accept, or if too little memory is left for it.
pub fn respond<M: prost::Message>(message: M) -> Result<Response<M>, Status> {
    let size = size_to_send(&message)?;
    if size >= HEAVY_MIN {
        Exchange::reserve_response(size)?;
    }
    Ok(compressed(message, size))
}

/// Answers with `message` about a stored change. Does not fail for lack of memory, because an error would suggest that
/// the change is not stored.
pub fn respond_stored<M: prost::Message>(message: M) -> Result<Response<M>, Status> {
    let size = size_to_send(&message)?;
    if size >= HEAVY_MIN {
        // If this fails, the answer is counted only if it has to wait for its reader.
        _ = Exchange::reserve_response(size);
    }
    Ok(compressed(message, size))
}

/// Returns the size of `message`, unless it is larger than clients accept.
fn size_to_send(message: &impl prost::Message) -> Result<usize, Status> {
    let size = message.encoded_len();
    if size > RESPONSE_MAX { Err(too_large()) } else { Ok(size) }
}

/// Returns a response that is compressed if its size is in [`COMPRESSED`].
fn compressed<M>(message: M, size: usize) -> Response<M> {
    let mut response = Response::new(message);
    if !COMPRESSED.contains(&size) {
        response.disable_compression();
    }
    response
}

/// Returns the error of an answer that is larger than clients accept.
pub fn too_large() -> Status {
    JobError::TooLarge { what: "answer", limit: RESPONSE_MAX }.into()
}

/// Answers with `events`, compressed if the size of the first one is in [`COMPRESSED`]. Waits for the first event, for
/// a limited time.
pub async fn respond_with<M>(mut events: Pin<Box<dyn PutBack<M> + Send>>) -> Result<Response<Events<M>>, Status>
where
    M: prost::Message + 'static,
{
    let first = timeout(FIRST_EVENT_WAIT, events.next()).await.ok().flatten().transpose()?;
    let worthwhile = first.as_ref().is_some_and(|first| COMPRESSED.contains(&first.encoded_len()));
    if let Some(first) = first {
        events.as_mut().put_back(Ok(first));
    }
    let mut response = Response::new(events as Events<M>);
    if !worthwhile {
        response.disable_compression();
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{iter, pending};
    use tokio_util::sync::CancellationToken;
    use tonic::Code;

    use super::*;

    async fn drained(items: impl Stream<Item = Result<u8, Status>> + Send + 'static) -> Vec<Result<u8, Code>> {
        let drain = CancellationToken::new();
        drain.cancel();
        let sent = until(items, Ending::by_drain(drain)).collect::<Vec<_>>().await;
        sent.into_iter().map(|item| item.map_err(|status| status.code())).collect()
    }

    #[tokio::test]
    async fn a_stream_that_is_over_ends_well_though_the_server_drains() {
        assert_eq!(drained(iter([])).await, []);
        assert_eq!(drained(iter([Ok(1)])).await, [Ok(1)]);
    }

    #[tokio::test]
    async fn a_stream_that_goes_on_ends_with_an_error_after_what_is_ready() {
        assert_eq!(drained(pending()).await, [Err(Code::Unavailable)]);
        assert_eq!(drained(iter([Ok(1)]).chain(pending())).await, [Ok(1), Err(Code::Unavailable)]);
        assert_eq!(drained(iter([Ok(1), Ok(2)]).chain(pending())).await, [Ok(1), Err(Code::Unavailable)]);
    }
}
