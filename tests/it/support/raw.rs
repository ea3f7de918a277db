//! Calls as plain HTTP/2, for requests that a client library would not send, and answers that it would hide.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::{
    SendStream,
    client::{ResponseFuture, SendRequest},
};
use http::{HeaderName, HeaderValue, Request, StatusCode};
use prost::Message;
use prost_types::FileDescriptorSet;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tonic::{Code, Status};

use super::{error_info, violations};

/// A method, such as `JobService/GetJob`, and an encoded request for it.
#[derive(Clone, Debug)]
pub struct Call {
    pub method: &'static str,
    pub message: Vec<u8>,
}

/// Returns a call with a well-formed request.
pub fn call(method: &'static str, request: &impl Message) -> Call {
    Call { method, message: request.encode_to_vec() }
}

/// A connection.
#[derive(Clone)]
pub struct Raw {
    send: SendRequest<Bytes>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub http: StatusCode,
    /// The gRPC status, if there is one.
    pub status: Option<Status>,
    /// The messages, still in their frames.
    pub body: Bytes,
}

impl Raw {
    pub async fn connect(address: SocketAddr) -> Self {
        Self::with_window(address, 8 << 20).await
    }

    /// Opens a connection on which the server may send this many bytes on each stream before they are read.
    pub async fn with_window(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(64 << 20);
        let (send, connection) = builder.handshake(stream).await.expect("the server speaks HTTP/2");
        tokio::spawn(async move { _ = connection.await });
        Self { send }
    }

    /// Opens a connection that is never read.
    pub async fn unread(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(8 << 20).initial_connection_window_size(64 << 20);
        let (send, connection) = builder.handshake(Unread(stream)).await.expect("the server speaks HTTP/2");
        tokio::spawn(async move { _ = connection.await });
        Self { send }
    }

    /// Begins a call: sends the headers without the request.
    pub async fn open(&self, method: &str, headers: &[(&'static str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
        self.open_at(&format!("/jobtrack.v1.{method}"), headers).await
    }

    /// Begins a call of a method of any service.
    pub async fn open_at(&self, path: &str, headers: &[(&'static str, &str)]) -> (ResponseFuture, SendStream<Bytes>) {
        let mut request = Request::post(format!("http://jobtrack{path}"));
        let into = request.headers_mut().expect("a valid path");
        for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")].iter().chain(headers) {
            into.insert(HeaderName::from_static(name), HeaderValue::from_str(value).expect("a header's value"));
        }
        let request = request.body(()).expect("a valid request");
        let mut ready = self.send.clone().ready().await.expect("the connection is open");
        ready.send_request(request, false).expect("the connection is open")
    }

    /// Makes a call with `body` as its bytes.
    pub async fn send(&self, method: &str, headers: &[(&'static str, &str)], body: Vec<u8>) -> Answer {
        let (response, mut request) = self.open(method, headers).await;
        // The server may have answered before it has read everything.
        _ = request.send_data(body.into(), true);
        answer(response).await
    }

    /// Makes a call, whose response is one message.
    pub async fn call(&self, call: &Call) -> Result<Bytes, Status> {
        self.send(call.method, &[], frame(&call.message)).await.outcome()
    }
}

/// A stream that is only written to.
struct Unread(TcpStream);

impl AsyncRead for Unread {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Unread {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// Waits for the end of a response whose reader grants no more flow control. Returns its status.
pub async fn unread(response: ResponseFuture) -> Status {
    let (head, mut stream) = response.await.expect("a response").into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return status;
    }
    while let Some(data) = stream.data().await {
        data.expect("the response goes on to its end");
    }
    let trailers = stream.trailers().await.expect("the response goes on to its end");
    trailers.as_ref().and_then(Status::from_header_map).expect("every call ends with a status")
}

/// Waits for the whole response.
pub async fn answer(response: ResponseFuture) -> Answer {
    let (head, mut stream) = response.await.expect("a response").into_parts();
    let (http, mut status) = (head.status, Status::from_header_map(&head.headers));
    let mut body = BytesMut::new();
    if status.is_none() {
        while let Some(data) = stream.data().await {
            let data = data.expect("the response goes on to its end");
            stream.flow_control().release_capacity(data.len()).expect("what was received can be released");
            body.extend(data);
        }
        let trailers = stream.trailers().await.expect("the response goes on to its end");
        status = trailers.as_ref().and_then(Status::from_header_map);
    }
    Answer { http, status, body: body.freeze() }
}

impl Answer {
    /// Returns the messages of a call that succeeded, or its error.
    pub fn outcome(self) -> Result<Bytes, Status> {
        match self.status.expect("every call ends with a status") {
            status if status.code() == Code::Ok => Ok(self.body),
            status => Err(status),
        }
    }
}

/// Returns a message in its frame.
pub fn frame(message: &[u8]) -> Vec<u8> {
    frame_as(0, message.len(), message)
}

/// Returns a frame whose header may be wrong.
pub fn frame_as(flag: u8, length: usize, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(length).expect("a frame's length").to_be_bytes();
    [&[flag], &length[..], message].concat()
}

/// Decodes the only message of a response.
pub fn decode<M: Message + Default>(body: &[u8]) -> M {
    M::decode(&body[5..]).expect("the answer can be decoded")
}

/// Returns the methods of jobtrack's services, as `JobService/GetJob`, with or without a streaming response.
pub fn methods(streaming: bool) -> Vec<String> {
    let files = FileDescriptorSet::decode(jobtrack::proto::DESCRIPTORS).expect("the descriptors can be read").file;
    let ours = files.iter().filter(|file| file.package() == "jobtrack.v1");
    let services = ours.flat_map(|file| &file.service);
    let methods = services.flat_map(|service| service.method.iter().map(move |method| (service.name(), method)));
    let found = methods.filter(|(_, method)| method.server_streaming() == streaming);
    let found: Vec<_> = found.map(|(service, method)| format!("{service}/{}", method.name())).collect();
    assert!(!found.is_empty(), "the services have methods");
    found
}

/// Fails unless `status` names exactly `fields` as invalid.
pub fn assert_invalid(status: &Status, fields: &[&str], what: &str) {
    assert_eq!(status.code(), Code::InvalidArgument, "{what}: {status:?}");
    assert_eq!(error_info(status).reason, "INVALID_FIELD", "{what}");
    let violations = violations(status);
    let refused: BTreeSet<&str> = violations.keys().map(String::as_str).collect();
    assert_eq!(refused, fields.iter().copied().collect(), "{what}");
    assert!(violations.values().all(|description| !description.is_empty()), "{what}: a violation is not described");
}
