//! The text of one event. It is made once for all subscribers on a thread.

use std::cell::RefCell;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use crate::proto::v1;

/// Number of texts that each thread keeps: those of one version, for streams of one job and of many, in both views.
const KEPT: usize = 4;

/// Size in bytes up to which a text is kept.
const KEPT_MAX: usize = 64 * 1024;

thread_local! {
    /// Events that this thread wrote last.
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent { written: [const { None }; KEPT], next: 0 }) };
}

/// Events that were written last.
struct Recent {
    written: [Option<Written>; KEPT],
    /// Place of the next one.
    next: usize,
}

/// An event that was written.
struct Written {
    message: Bytes,
    text: Bytes,
}

impl Recent {
    fn find(&self, message: &[u8]) -> Option<Bytes> {
        self.written.iter().flatten().find(|it| it.message == message).map(|it| it.text.clone())
    }

    fn keep(&mut self, message: &[u8], text: Bytes) {
        // Copied, so that a small message does not keep a large buffer.
        self.written[self.next] = Some(Written { message: Bytes::copy_from_slice(message), text });
        self.next = (self.next + 1) % KEPT;
    }
}

/// The parts of an event.
pub struct Event;

impl Event {
    /// Returns the text of an encoded `WatchJobResponse` or `WatchJobsResponse`.
    pub fn text(descriptor: &MessageDescriptor, message: &[u8]) -> Bytes {
        RECENT.with_borrow_mut(|recent| {
            if let Some(text) = recent.find(message) {
                return text;
            }
            let text = Bytes::from(text(descriptor, message));
            if text.len() <= KEPT_MAX {
                recent.keep(message, text.clone());
            }
            text
        })
    }

    /// Returns the line that gives an event its token.
    pub fn id_line(token: &str) -> Vec<u8> {
        format!("id: {token}\n").into_bytes()
    }
}

/// Writes the text of an encoded event.
fn text(descriptor: &MessageDescriptor, message: &[u8]) -> Vec<u8> {
    let mut message = DynamicMessage::decode(descriptor.clone(), message).expect("it was encoded in this process");
    let is_bookmark =
        message.get_field_by_name("event").and_then(|kind| kind.as_enum_number()) == Some(v1::Event::Bookmark.into());
    let mut text = Vec::new();
    if is_bookmark {
        text.extend_from_slice(b"event: bookmark\n");
    }
    let token = take(&mut message, "resume_token");
    if let Some(token) = token.as_ref().and_then(Value::as_str).filter(|token| !token.is_empty()) {
        text.extend(Event::id_line(token));
    }
    let skipped = take(&mut message, "skipped").and_then(|skipped| skipped.as_i64()).unwrap_or_default();
    text.extend_from_slice(b"data: ");
    serde_json::to_writer(&mut text, &message).expect("a message has a form in JSON");
    if !is_bookmark {
        // A number, which is never so large that a script reads another one.
        let end = text.pop();
        debug_assert_eq!(end, Some(b'}'), "a message is an object");
        text.extend(format!(",\"skipped\":{skipped}}}").into_bytes());
    }
    text.extend_from_slice(b"\n\n");
    text
}

/// Takes a field out of a message.
fn take(message: &mut DynamicMessage, name: &str) -> Option<Value> {
    let value = message.get_field_by_name(name)?.into_owned();
    message.clear_field_by_name(name);
    Some(value)
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::http::api::schema::Schema;

    fn written(event: &v1::WatchJobResponse) -> String {
        let (_, descriptor, _) = Schema::new().method("JobService/WatchJob").expect("a method");
        let text = Event::text(&descriptor, &event.encode_to_vec());
        assert_eq!(text, Event::text(&descriptor, &event.encode_to_vec()));
        String::from_utf8(text.to_vec()).expect("text")
    }

    #[test]
    fn events_are_written_as_browsers_read_them() {
        let job = Some(v1::Job { id: "a".to_owned(), kind: "line\nfeed".to_owned(), ..v1::Job::default() });
        let event = v1::WatchJobResponse {
            event: v1::Event::Update.into(),
            job,
            skipped: 2,
            resume_token: "t.1".to_owned(),
            ..v1::WatchJobResponse::default()
        };
        let data = r#"{"event":"UPDATE","job":{"id":"a","kind":"line\nfeed"},"skipped":2}"#;
        assert_eq!(written(&event), format!("id: t.1\ndata: {data}\n\n"));
        let event = v1::Event::Bookmark.into();
        let bookmark = v1::WatchJobResponse { event, resume_token: "t".to_owned(), ..v1::WatchJobResponse::default() };
        assert_eq!(written(&bookmark), "event: bookmark\nid: t\ndata: {\"event\":\"BOOKMARK\"}\n\n");
        let (event, removal) = (v1::Event::Removed.into(), v1::Removal::Deleted.into());
        let removed = v1::WatchJobResponse { event, removal, ..v1::WatchJobResponse::default() };
        assert_eq!(written(&removed), "data: {\"event\":\"REMOVED\",\"removal\":\"DELETED\",\"skipped\":0}\n\n");
    }
}
