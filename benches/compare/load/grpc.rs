//! A cheap gRPC client, which leaves most of a shared machine to the server.

use std::net::SocketAddr;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use h2::{
    RecvStream,
    client::{self, SendRequest},
};
use http::{Method, Request, Response, Uri};
use prost::Message;
use tokio::net::TcpStream;

/// Flow-control windows of a stream and of a connection, in bytes.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

/// The package of jobtrack's services.
const PACKAGE: &str = "jobtrack.v1";

/// Length of the prefix of a message: a flag and a length of four bytes.
const PREFIX: usize = 5;

/// A connection for many concurrent calls.
#[derive(Clone)]
pub struct Connection {
    sender: SendRequest<Bytes>,
    address: SocketAddr,
    /// The package of the services that are called.
    package: &'static str,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self::open_package(address, PACKAGE).await
    }

    /// Opens a connection to a server of other services.
    pub async fn open_package(address: SocketAddr, package: &'static str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("it is a TCP connection");
        let mut builder = client::Builder::new();
        builder.initial_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
        let (sender, connection) = builder.handshake(stream).await.expect("the server speaks HTTP/2");
        tokio::spawn(async move {
            // Most measurements end by killing the server, so an error at the end is expected.
            _ = connection.await;
        });
        Self { sender, address, package }
    }

    /// Calls a unary method and returns the response, which must be OK.
    pub async fn call<A: Message + Default>(&self, method: &str, request: &impl Message) -> A {
        let mut messages = self.stream(method, request).await;
        let answer = messages.next().await.unwrap_or_else(|| panic!("{method} has no answer"));
        assert!(messages.next::<A>().await.is_none(), "{method} answers once");
        answer
    }

    /// Calls a streaming method.
    pub async fn stream(&self, method: &str, request: &impl Message) -> Messages {
        let mut sender = self.sender.clone().ready().await.expect("the connection is open");
        let (response, mut body) = sender.send_request(self.head(method), false).expect("a stream is free");
        body.send_data(frame(request), true).expect("the stream is open");
        let response = response.await.expect("the server answers");
        assert_ok(method, response.headers());
        Messages { method: method.to_owned(), body: Response::into_body(response), buffer: BytesMut::new() }
    }

    fn head(&self, method: &str) -> Request<()> {
        let path = format!("http://{}/{}.{method}", self.address, self.package);
        let uri = Uri::try_from(path).expect("a method is a path");
        let head = Request::builder().method(Method::POST).uri(uri);
        let head = head.header("content-type", "application/grpc").header("te", "trailers");
        head.body(()).expect("the headers are valid")
    }
}

/// The messages of a response.
pub struct Messages {
    method: String,
    body: RecvStream,
    buffer: BytesMut,
}

impl Messages {
    /// Returns the next message; `None` at the end, which must be OK.
    pub async fn next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let Some(chunk) = self.body.data().await else { break };
            let chunk = chunk.unwrap_or_else(|error| panic!("{}: {error}", self.method));
            self.body.flow_control().release_capacity(chunk.len()).expect("so much was received");
            self.buffer.extend_from_slice(&chunk);
        }
        if let Some(trailers) = self.body.trailers().await.expect("the stream ends in order") {
            assert_ok(&self.method, &trailers);
        }
        None
    }

    /// Returns the next message; a server that is killed ends the stream.
    pub async fn try_next<M: Message + Default>(&mut self) -> Option<M> {
        loop {
            if let Some(message) = self.take() {
                return Some(message);
            }
            let chunk = self.body.data().await?.ok()?;
            _ = self.body.flow_control().release_capacity(chunk.len());
            self.buffer.extend_from_slice(&chunk);
        }
    }

    /// Returns a message that has arrived in full.
    fn take<M: Message + Default>(&mut self) -> Option<M> {
        let length = usize::try_from(self.buffer.get(1..PREFIX)?.get_u32()).expect("it fits");
        if self.buffer.len() < PREFIX + length {
            return None;
        }
        self.buffer.advance(PREFIX);
        Some(M::decode(self.buffer.split_to(length)).expect("the answer is a message of this type"))
    }
}

/// Returns the frame of a message.
fn frame(message: &impl Message) -> Bytes {
    let length = message.encoded_len();
    let mut frame = BytesMut::with_capacity(PREFIX + length);
    frame.put_u8(0);
    frame.put_u32(u32::try_from(length).expect("requests are small"));
    message.encode(&mut frame).expect("there is room");
    frame.freeze()
}

fn assert_ok(method: &str, headers: &http::HeaderMap) {
    let status = headers.get("grpc-status").map_or("0", |status| status.to_str().unwrap_or("?"));
    assert!(status == "0", "{method} ended with status {status}: {:?}", headers.get("grpc-message"));
}
