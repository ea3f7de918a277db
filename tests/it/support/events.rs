//! A reader of server-sent events, as a browser reads them.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::client::legacy::Error;
use serde_json::Value;
use tokio::time::timeout;

use super::json::Http;

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
        Self::try_open(http, path, headers).await.expect("the server answers")
    }

    /// Opens a stream of a server that may be away.
    pub async fn try_open(http: &Http, path: &str, headers: &[(&str, &str)]) -> Result<Self, Error> {
        let (head, body) = http.try_open(Method::GET, path, headers, Bytes::new()).await?.into_parts();
        Ok(Self { status: head.status, headers: head.headers, body, text: String::new() })
    }

    /// Waits for the next block; `None`: the stream has ended.
    pub async fn next(&mut self) -> Option<Event> {
        let received = timeout(WAIT_TIMEOUT, self.try_next()).await;
        received.expect("an event").expect("the stream goes on to its end")
    }

    /// Waits for the next block of a server that may go away, however long; `None`: the stream has ended.
    pub async fn try_next(&mut self) -> hyper::Result<Option<Event>> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                return Ok(Some(Event::parse(block.trim_end())));
            }
            let Some(frame) = self.body.frame().await else { return Ok(None) };
            let data = frame?.into_data().expect("nothing but data");
            self.text.push_str(std::str::from_utf8(&data).expect("text"));
        }
    }

    /// Reads the body of an answer that is no stream.
    pub async fn whole(self) -> hyper::Result<Value> {
        let body = self.body.collect().await?.to_bytes();
        Ok(serde_json::from_slice(&body).unwrap_or_default())
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

impl Event {
    /// Reads a block.
    pub fn parse(block: &str) -> Self {
        let mut event = Self::default();
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
}
