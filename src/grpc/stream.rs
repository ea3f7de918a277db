//! From a watch to a response stream, which also ends when the server drains or the caller's time is over.

use std::{pin::Pin, time::Duration};

use futures_util::{FutureExt, Stream, StreamExt, stream::unfold};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::{Extensions, Response, Status};

use super::{MAX_RESPONSE, deadline::Deadline};
use crate::domain::JobError;

/// Most clients accept compression whether it helps or not: answers up to this size in bytes are sent as they are.
const WORTH_COMPRESSING: usize = 1024;

/// A response stream.
pub type Events<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What ends a stream from the server's side.
pub struct Ending {
    drain: CancellationToken,
    deadline: Option<Duration>,
}

impl Ending {
    /// For the call with these `extensions`, on a server whose draining `drain` tells.
    pub fn of(extensions: &Extensions, drain: &CancellationToken) -> Self {
        let deadline = extensions.get::<Deadline>().and_then(Deadline::remaining);
        Self { drain: drain.clone(), deadline }
    }

    async fn reached(self) -> JobError {
        let deadline = async {
            match self.deadline {
                Some(deadline) => sleep(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.drain.cancelled() => JobError::Draining,
            () = deadline => JobError::DeadlineExceeded,
        }
    }
}

/// Sends `items` until they end or `ending` is reached. One that is ready then is still sent, and if they end there, so
/// does the stream: without an error.
pub fn until<T, S>(items: S, ending: Ending) -> Events<T>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    let open = Course::Open { items: Box::pin(items), ending: Box::pin(ending.reached()) };
    Box::pin(unfold(open, |course| async move {
        match course {
            Course::Open { mut items, mut ending } => {
                tokio::select! {
                    biased;
                    error = &mut ending => match items.next().now_or_never() {
                        Some(item) => item.map(|item| (item, Course::Last { items, error })),
                        None => Some((Err(error.into()), Course::Over)),
                    },
                    item = items.next() => item.map(|item| (item, Course::Open { items, ending })),
                }
            }
            Course::Last { mut items, error } => match items.next().now_or_never() {
                Some(None) => None,
                _ => Some((Err(error.into()), Course::Over)),
            },
            Course::Over => None,
        }
    }))
}

/// How far a stream is.
enum Course<S, E> {
    /// Under way.
    Open { items: Pin<Box<S>>, ending: Pin<Box<E>> },
    /// The last item was sent.
    Last { items: Pin<Box<S>>, error: JobError },
    /// The error was sent.
    Over,
}

/// Sends `message`, compressed only if that is worth it, unless it is larger than clients take.
pub fn respond<M: prost::Message>(message: M) -> Result<Response<M>, Status> {
    let size = message.encoded_len();
    if size > MAX_RESPONSE {
        return Err(JobError::TooLarge { what: "answer", limit: MAX_RESPONSE }.into());
    }
    let mut response = Response::new(message);
    if size <= WORTH_COMPRESSING {
        response.disable_compression();
    }
    Ok(response)
}

/// Sends `events`, compressed if the first one is worth it. Waits for that.
pub async fn respond_with<M: prost::Message + 'static>(mut events: Events<M>) -> Result<Response<Events<M>>, Status> {
    let first = events.next().await.transpose()?;
    let worthwhile = first.as_ref().is_some_and(|first| first.encoded_len() > WORTH_COMPRESSING);
    let all: Events<M> = Box::pin(futures_util::stream::iter(first.map(Ok)).chain(events));
    let mut response = Response::new(all);
    if !worthwhile {
        response.disable_compression();
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use futures_util::stream::{iter, pending};
    use tonic::Code;

    use super::*;

    async fn drained(items: impl Stream<Item = Result<u8, Status>> + Send + 'static) -> Vec<Result<u8, Code>> {
        let drain = CancellationToken::new();
        drain.cancel();
        let sent = until(items, Ending { drain, deadline: None }).collect::<Vec<_>>().await;
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
