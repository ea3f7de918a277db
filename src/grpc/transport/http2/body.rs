//! The body of a request.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, RecvStream};
use http_body::{Body, Frame};
use tokio::{runtime::Handle, time::timeout};

/// Maximum time for which the rest of a request is discarded after its response.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// Body that a peer sends on a stream.
///
/// Many requests are answered before their bodies have arrived, because of their paths, headers or credentials. The
/// rest of such a body is read and discarded. Otherwise h2 would reset the stream and forget it, and count each frame
/// that arrives later as an error of the peer; after [`MAX_ERROR_RESETS`](super::MAX_ERROR_RESETS) of them h2 would
/// close the connection, and end the calls of all callers that share it.
pub struct RequestBody {
    /// The stream; `None` only after it was taken to be discarded.
    stream: Option<RecvStream>,
    has_data: bool,
}

impl RequestBody {
    /// Reads `stream`.
    pub const fn new(stream: RecvStream) -> Self {
        Self { stream: Some(stream), has_data: true }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if let Some(stream) = self.stream.take().filter(|stream| self.has_data && !stream.is_end_stream())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(timeout(DISCARD_TIMEOUT, discard(stream)));
        }
    }
}

/// Reads a stream to its end, and discards its data.
async fn discard(mut stream: RecvStream) {
    while let Some(Ok(data)) = stream.data().await {
        // Fails only if the stream has ended.
        _ = stream.flow_control().release_capacity(data.len());
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        let this = self.get_mut();
        let Some(stream) = &mut this.stream else { return Poll::Ready(None) };
        if this.has_data {
            match ready!(stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Fails only if the stream has ended.
                    _ = stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                // The peer reset the stream without an error: this is the end of the body.
                Some(Err(error)) if matches!(error.reason(), Some(Reason::NO_ERROR | Reason::CANCEL)) => {
                    return Poll::Ready(None);
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => this.has_data = false,
            }
        }
        let trailers = ready!(stream.poll_trailers(cx));
        Poll::Ready(trailers.map(|trailers| trailers.map(Frame::trailers)).transpose())
    }

    fn is_end_stream(&self) -> bool {
        self.stream.as_ref().is_none_or(RecvStream::is_end_stream)
    }
}
