//! Sends a response as fast as its reader accepts it, and until its deadline at most.

use std::{
    convert::Infallible,
    future::poll_fn,
    mem::take,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{Response, header::CONTENT_TYPE};
use http_body::{Body as _, Frame};
use tokio::{task::futures::TaskLocalFuture, time::sleep};
use tonic::{Status, body::Body};
use tracing::debug;

use crate::{
    domain::JobError,
    grpc::{exchange::Exchange, expiry::Expiry, status::trailers},
    offload::offload,
};

/// Maximum bytes of a response that h2 buffers.
pub const SEND_BUFFER_MAX: usize = 16 * 1024;

/// Maximum time for which a reader may accept nothing of a response.
pub const STALL_LIMIT: Duration = Duration::from_secs(60);

/// The beginning of the content types of gRPC and of gRPC-Web.
const GRPC: &[u8] = b"application/grpc";

/// The beginning of the content type of gRPC-Web.
const GRPC_WEB: &[u8] = b"application/grpc-web";

/// A reason for which nothing more of a response is sent.
enum End {
    /// The peer has reset the stream, or the connection broke.
    Gone,
    /// The body ended with an error.
    Broken,
    /// The response had to end before its reader had taken all of it.
    CutOff(JobError),
}

/// Waits for `response` and sends it by `respond`.
pub async fn send<F>(response: TaskLocalFuture<Exchange, F>, mut respond: SendResponse<Bytes>)
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    // The exchange is kept to the end of the response: while its reference to the connection exists, the connection is
    // not idle.
    let Some((response, mut exchange)) = answer(response, &mut respond).await else { return };
    let (head, body) = response.into_parts();
    let is_whole = body.is_end_stream();
    let has_status = head.headers.get(CONTENT_TYPE).is_some_and(|kind| has_status_in_trailers(kind.as_bytes()));
    let Ok(mut stream) = respond.send_response(Response::from_parts(head, ()), is_whole) else {
        return respond.send_reset(Reason::INTERNAL_ERROR);
    };
    if is_whole {
        return;
    }
    match pipe(body, &mut stream, &mut exchange).await {
        Ok(()) | Err(End::Gone) => {}
        Err(End::Broken) => stream.send_reset(Reason::INTERNAL_ERROR),
        Err(End::CutOff(error)) => {
            debug!(%error, "response ended early");
            // Trailers need no window, and h2 has buffered only data for which the window had room. Therefore the peer
            // usually receives the trailers. gRPC-Web sends its trailers in the body, which needs a window, and
            // responses that are not gRPC have no trailers.
            if !has_status || stream.send_trailers(trailers(&error.into())).is_err() {
                stream.send_reset(Reason::CANCEL);
            }
        }
    }
}

/// Returns whether a response of this content type ends with a status in its trailers.
fn has_status_in_trailers(content_type: &[u8]) -> bool {
    content_type.starts_with(GRPC) && !content_type.starts_with(GRPC_WEB)
}

/// Waits for the headers of a response; `None`: the caller has reset the stream.
async fn answer<F>(
    response: TaskLocalFuture<Exchange, F>,
    respond: &mut SendResponse<Bytes>,
) -> Option<(Response<Body>, Exchange)>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    let mut response = pin!(response);
    let answered = poll_fn(|cx| match response.as_mut().poll(cx) {
        Poll::Ready(Ok(answered)) => Poll::Ready(Some(answered)),
        Poll::Ready(Err(error)) => match error {},
        Poll::Pending => respond.poll_reset(cx).map(|_| None),
    });
    let answered = answered.await?;
    let exchange = response.take_value().expect("it was not taken before");
    Some((answered, exchange))
}

/// Sends `body` to its end.
async fn pipe(mut body: Body, to: &mut SendStream<Bytes>, exchange: &mut Exchange) -> Result<(), End> {
    let mut first = None;
    if exchange.has_heavy_response() {
        // Boxed to keep the futures of the other responses small: few responses are heavy.
        (first, body) = Box::pin(encode_in_turn(body, to, exchange)).await?;
    }
    loop {
        let next = poll_fn(|cx| match (to.poll_reset(cx), first.take()) {
            (Poll::Ready(_), _) => Poll::Ready(Err(End::Gone)),
            (Poll::Pending, Some(first)) => Poll::Ready(Ok(first)),
            (Poll::Pending, None) => Pin::new(&mut body).poll_frame(cx).map(Ok),
        });
        let frame = next.await?;
        exchange.end_turn();
        let Some(frame) = frame else { return send_part(to, Bytes::new(), Last::Yes) };
        match frame.map_err(|_| End::Broken)?.into_data() {
            Ok(data) if body.is_end_stream() => return send_all(to, data, Last::Yes, exchange).await,
            Ok(data) => send_all(to, data, Last::No, exchange).await?,
            Err(frame) => {
                let Ok(trailers) = Frame::into_trailers(frame) else { continue };
                return to.send_trailers(trailers).map_err(|_| End::Gone);
            }
        }
    }
}

/// A frame of a response, as its body returns it; `None` at the end.
type Encoded = Option<Result<Frame<Bytes>, Status>>;

/// Encodes the first frame of a response, if the frame is available without waiting.
fn encode(mut body: Body) -> (Option<Encoded>, Body) {
    let frame = Pin::new(&mut body).poll_frame(&mut Context::from_waker(Waker::noop()));
    (if let Poll::Ready(frame) = frame { Some(frame) } else { None }, body)
}

/// Encodes the first frame of a response on another thread, in the turn of the call, unless the response must end
/// before.
async fn encode_in_turn(
    body: Body,
    to: &mut SendStream<Bytes>,
    exchange: &mut Exchange,
) -> Result<(Option<Encoded>, Body), End> {
    let expiry = take(exchange.expiry());
    let encoding = async {
        exchange.take_turn().await;
        offload(move || encode(body)).await
    };
    let encoded = tokio::select! {
        biased;
        encoded = encoding => encoded,
        _ = poll_fn(|cx| to.poll_reset(cx)) => return Err(End::Gone),
        error = expiry.reached() => return Err(End::CutOff(error)),
    };
    *exchange.expiry() = expiry;
    Ok(encoded)
}

/// Marks the part of a response after which nothing more is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Last {
    Yes,
    No,
}

/// Sends `data`, in the parts that the peer has room for.
async fn send_all(to: &mut SendStream<Bytes>, mut data: Bytes, last: Last, exchange: &mut Exchange) -> Result<(), End> {
    let size = data.len();
    loop {
        // Reserves no more than h2 buffers, because a reservation takes a part of the connection's window, which all
        // streams share.
        to.reserve_capacity(data.len().min(SEND_BUFFER_MAX));
        let room = to.capacity();
        if room >= data.len() {
            // Copied, because a slice would keep the whole buffer in memory until the peer has accepted the slice.
            let rest = if data.len() < size { Bytes::copy_from_slice(&data) } else { data };
            exchange.release_response();
            return send_part(to, rest, last);
        }
        if room > 0 {
            send_part(to, Bytes::copy_from_slice(&data.split_to(room)), Last::No)?;
        } else {
            // Counted only now, because most responses are sent without waiting. Heavy ones are counted before they are
            // encoded.
            exchange.hold_response(size).map_err(End::CutOff)?;
            wait_for_room(to, exchange.expiry()).await?;
        }
    }
}

fn send_part(to: &mut SendStream<Bytes>, data: Bytes, last: Last) -> Result<(), End> {
    to.send_data(data, last == Last::Yes).map_err(|_| End::Gone)
}

/// Waits until the peer's window has room for more of the response, or the response must end.
async fn wait_for_room(to: &mut SendStream<Bytes>, expiry: &Expiry) -> Result<(), End> {
    // Boxed to keep the futures of the other responses small: few responses ever wait.
    let ended = Box::pin(async {
        tokio::select! {
            error = expiry.reached() => error,
            () = sleep(STALL_LIMIT) => JobError::DeadlineExceeded,
        }
    });
    let room = poll_fn(|cx| {
        if to.poll_reset(cx).is_ready() {
            return Poll::Ready(Err(End::Gone));
        }
        while to.capacity() == 0 {
            match to.poll_capacity(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(End::Gone)),
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(Ok(()))
    });
    tokio::select! {
        biased;
        room = room => room,
        error = ended => Err(End::CutOff(error)),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use h2::client;
    use http::Request;
    use http_body_util::Full;
    use tokio::{
        io::duplex,
        time::{Instant, timeout},
    };
    use tonic::Code;

    use super::*;
    use crate::{
        grpc::{exchange::ClientConnection, message_size::HEAVY_MIN},
        offload::occupy,
        quota::Quotas,
    };

    /// Answers a call with `size` bytes after `prepare`, and accepts only `window` of them. Returns the status with
    /// which the response ends and its duration; `None` if it has not ended after `limit`.
    async fn end(prepare: fn(), window: u32, size: usize, limit: Duration) -> Option<(Option<Code>, Duration)> {
        let (ours, theirs) = duplex(1 << 20);
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(ours).await.expect("a connection");
            while let Some(call) = connection.accept().await {
                let (_, respond) = call.expect("a call");
                let origin = Arc::new(ClientConnection::of_test(Quotas::default()));
                let response = Response::builder().header(CONTENT_TYPE, "application/grpc");
                let response = response.body(Body::new(Full::from(vec![0; size]))).expect("a response");
                let response = async move {
                    prepare();
                    Ok(response)
                };
                tokio::spawn(send(Exchange::scope(origin, response), respond));
            }
        });
        let (mut send, connection) = client::Builder::new()
            .initial_window_size(window)
            .handshake::<_, Bytes>(theirs)
            .await
            .expect("a connection");
        tokio::spawn(connection);
        let began = Instant::now();
        let (response, _) = send.send_request(Request::new(()), true).expect("a stream");
        let mut body = response.await.expect("an answer").into_body();
        let ended = async {
            while let Some(data) = body.data().await {
                data.expect("it goes on to its end");
            }
            let trailers = body.trailers().await.expect("it goes on to its end");
            (trailers.as_ref().and_then(Status::from_header_map).map(|status| status.code()), began.elapsed())
        };
        timeout(limit, ended).await.ok()
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_of_which_nothing_is_taken_ends() {
        for window in [0, 1, 100] {
            assert_eq!(end(|| {}, window, 1000, STALL_LIMIT / 2).await, None, "{window}");
            let (code, time) = end(|| {}, window, 1000, 2 * STALL_LIMIT).await.expect("it ends");
            assert_eq!((code, time.as_secs()), (Some(Code::DeadlineExceeded), STALL_LIMIT.as_secs()), "{window}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_that_is_taken_ends_by_itself() {
        let (code, _) = end(|| {}, 1000, 1000, STALL_LIMIT).await.expect("it ends");
        assert_eq!(code, None);
    }

    #[tokio::test(start_paused = true)]
    async fn heavy_response_ends_at_its_deadline_while_all_threads_are_occupied() {
        let _occupied = occupy().await;
        let prepare = || {
            Exchange::reserve_response(HEAVY_MIN).expect("there is room");
            let deadline = Some(Instant::now() + Duration::from_secs(1));
            Exchange::expire_by(Expiry { deadline, ..Expiry::default() });
        };
        let (code, time) = end(prepare, 1000, 1000, STALL_LIMIT).await.expect("it ends");
        assert_eq!((code, time.as_secs()), (Some(Code::DeadlineExceeded), 1));
    }
}
