//! A small client of the NATS protocol: requests in flight together, with answers by number, and subscriptions.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::{mpsc, oneshot},
};
use uuid::Uuid;

const HELLO: &str = "CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true,\
                     \"lang\":\"rust\",\"version\":\"0\",\"protocol\":1}\r\n";

/// The subscription of all answers.
const INBOX: u64 = 1;

/// Maximum number of messages that are written together.
const BATCH_MESSAGES: usize = 256;

const READ_BYTES: usize = 64 * 1024;

/// Receives the messages of a subscription.
type Handler = Box<dyn FnMut(Bytes) + Send>;

/// A message.
pub struct Reply {
    pub headers: Bytes,
    pub payload: Bytes,
}

/// A connection for many concurrent requests.
pub struct Connection {
    sender: mpsc::UnboundedSender<Bytes>,
    shared: Arc<Shared>,
    inbox: String,
    next: AtomicU64,
}

#[derive(Default)]
struct Shared {
    pending: Mutex<HashMap<u64, oneshot::Sender<Reply>>>,
    subscriptions: Mutex<HashMap<u64, Handler>>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("the server listens");
        stream.set_nodelay(true).expect("it is a TCP connection");
        let (reader, writer) = stream.into_split();
        let (sender, messages) = mpsc::unbounded_channel();
        let inbox = format!("_INBOX.{}", Uuid::new_v4().simple());
        let shared = Arc::new(Shared::default());
        tokio::spawn(write(writer, messages));
        tokio::spawn(read(reader, shared.clone(), sender.clone()));
        let connection = Self { sender, shared, inbox, next: AtomicU64::new(INBOX + 1) };
        connection.send(format!("{HELLO}SUB {}.* {INBOX}\r\n", connection.inbox).into());
        connection
    }

    /// Publishes a message, and returns the answer to it. `headers` may be empty.
    pub async fn request(&self, subject: &str, headers: &str, payload: &[u8]) -> Reply {
        let number = self.next.fetch_add(1, Relaxed);
        let (answer, answered) = oneshot::channel();
        lock(&self.shared.pending).insert(number, answer);
        let (inbox, size) = (&self.inbox, payload.len());
        let head = if headers.is_empty() {
            format!("PUB {subject} {inbox}.{number} {size}\r\n")
        } else {
            format!("HPUB {subject} {inbox}.{number} {} {}\r\n{headers}", headers.len(), headers.len() + size)
        };
        self.send([head.as_bytes(), payload, b"\r\n"].concat().into());
        answered.await.expect("the server answers")
    }

    /// Subscribes to a subject. `handler` receives the content of each message.
    pub fn subscribe(&self, subject: &str, handler: impl FnMut(Bytes) + Send + 'static) {
        let number = self.next.fetch_add(1, Relaxed);
        lock(&self.shared.subscriptions).insert(number, Box::new(handler));
        self.send(format!("SUB {subject} {number}\r\n").into());
    }

    fn send(&self, message: Bytes) {
        self.sender.send(message).expect("the connection is open");
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes messages, those that wait together, until the server ends.
async fn write(mut stream: OwnedWriteHalf, mut messages: mpsc::UnboundedReceiver<Bytes>) {
    let mut batch = Vec::new();
    while messages.recv_many(&mut batch, BATCH_MESSAGES).await > 0 {
        let written = stream.write_all(&batch.concat()).await;
        batch.clear();
        if written.is_err() {
            return;
        }
    }
}

/// Reads until the server ends, which is how most measurements end. The connection is open until then.
async fn read(mut stream: OwnedReadHalf, shared: Arc<Shared>, sender: mpsc::UnboundedSender<Bytes>) {
    let mut buffer = BytesMut::with_capacity(READ_BYTES);
    loop {
        while let Some(frame) = Frame::take(&mut buffer) {
            match frame {
                Frame::Message { subject, subscription, reply } => shared.deliver(&subject, subscription, reply),
                Frame::Ping => _ = sender.send(Bytes::from_static(b"PONG\r\n")),
                Frame::Other => {}
            }
        }
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
            return;
        }
    }
}

impl Shared {
    fn deliver(&self, subject: &str, subscription: u64, reply: Reply) {
        if subscription == INBOX {
            let number = subject.rsplit('.').next().and_then(|number| number.parse().ok());
            let answer = number.and_then(|number: u64| lock(&self.pending).remove(&number));
            _ = answer.expect("it was asked for").send(reply);
        } else if let Some(handler) = lock(&self.subscriptions).get_mut(&subscription) {
            handler(reply.payload);
        }
    }
}

/// A part of what the server sends.
enum Frame {
    Message { subject: String, subscription: u64, reply: Reply },
    Ping,
    Other,
}

impl Frame {
    /// Takes a frame that has arrived in full.
    fn take(buffer: &mut BytesMut) -> Option<Self> {
        let end = memchr::memmem::find(buffer, b"\r\n")?;
        let line = std::str::from_utf8(&buffer[..end]).expect("a line is text");
        let mut words = line.split(' ');
        let kind = words.next().unwrap_or_default();
        if kind != "MSG" && kind != "HMSG" {
            assert!(kind != "-ERR", "the server says {line}");
            let frame = if kind == "PING" { Self::Ping } else { Self::Other };
            _ = buffer.split_to(end + 2);
            return Some(frame);
        }
        let subject = words.next().expect("a message has a subject").to_owned();
        let subscription = words.next().and_then(|number| number.parse().ok()).expect("and a subscription");
        let mut sizes = words.rev().map_while(|size| size.parse::<usize>().ok());
        let size = sizes.next().expect("and a size");
        let headers = if kind == "HMSG" { sizes.next().expect("and the size of its headers") } else { 0 };
        if buffer.len() < end + 2 + size + 2 {
            return None;
        }
        _ = buffer.split_to(end + 2);
        let headers = buffer.split_to(headers).freeze();
        let payload = buffer.split_to(size - headers.len()).freeze();
        _ = buffer.split_to(2);
        Some(Self::Message { subject, subscription, reply: Reply { headers, payload } })
    }
}
