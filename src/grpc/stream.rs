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

/// Sends `items` until they end or `ending` is reached. What is ready then is still sent.
pub fn until<T, S>(items: S, ending: Ending) -> Events<T>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + 'static,
{
    struct Open<S, E> {
        items: Pin<Box<S>>,
        ending: Pin<Box<E>>,
    }
    enum Course<S, E> {
        Open(Open<S, E>),
        Last(JobError),
        Over,
    }
    let open = Open { items: Box::pin(items), ending: Box::pin(ending.reached()) };
    Box::pin(unfold(Course::Open(open), |course| async move {
        match course {
            Course::Open(mut open) => {
                tokio::select! {
                    biased;
                    error = &mut open.ending => match open.items.next().now_or_never().flatten() {
                        Some(item) => Some((item, Course::Last(error))),
                        None => Some((Err(error.into()), Course::Over)),
                    },
                    item = open.items.next() => item.map(|item| (item, Course::Open(open))),
                }
            }
            Course::Last(error) => Some((Err(error.into()), Course::Over)),
            Course::Over => None,
        }
    }))
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
