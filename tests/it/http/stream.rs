//! A reader of server-sent events, as a browser reads them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde_json::Value;
use tokio::time::timeout;

use super::client::Http;

/// Maximum wait for an event.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// One event, or another block of the stream.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Its name; empty: none.
    pub name: String,
    pub id: String,
    pub data: Value,
    /// Pause until the next connection, in milliseconds.
    pub retry: Option<u64>,
    pub comment: Option<String>,
}

/// An open stream.
pub struct Events {
    pub status: StatusCode,
    pub headers: HeaderMap,
    body: Incoming,
    text: String,
}

impl Events {
    /// Opens a stream.
    pub async fn open(http: &Http, path: &str, headers: &[(&str, &str)]) -> Self {
        let (head, body) = http.open(Method::GET, path, headers, Bytes::new()).await.into_parts();
        Self { status: head.status, headers: head.headers, body, text: String::new() }
    }

    /// Waits for the next block; `None`: the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let received = async {
            while !self.text.contains("\n\n") {
                let frame = self.body.frame().await?.expect("the stream goes on to its end");
                let data = frame.into_data().expect("nothing but data");
                self.text.push_str(std::str::from_utf8(&data).expect("text"));
            }
            let end = self.text.find("\n\n").expect("a whole block");
            let block: String = self.text.drain(..end + 2).collect();
            Some(parsed(block.trim_end()))
        };
        timeout(WAIT_TIMEOUT, received).await.expect("an event")
    }

    /// Waits for the next event with this value of `event`.
    pub async fn expect(&mut self, kind: &str) -> Event {
        loop {
            let event = self.next().await.unwrap_or_else(|| panic!("the stream ends without {kind}"));
            if event.data.is_null() {
                continue;
            }
            assert_eq!(event.data["event"], kind, "{event:?}");
            return event;
        }
    }

    /// Reads to the end.
    pub async fn rest(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await {
            events.push(event);
        }
        events
    }
}

fn parsed(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').expect("a field and its value");
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "" => event.comment = Some(value.to_owned()),
            "event" => value.clone_into(&mut event.name),
            "id" => value.clone_into(&mut event.id),
            "data" => event.data = serde_json::from_str(value).expect("JSON"),
            "retry" => event.retry = Some(value.parse().expect("a number")),
            other => panic!("a field {other:?}"),
        }
    }
    event
}
