//! The text of one server-sent event. Each thread encodes an event once for all of its subscribers.

use std::{cell::RefCell, mem::take};

use bytes::Bytes;
use prost::Message;

use super::form::Form;
use crate::proto::{EncodedEvent, v1};

/// Number of small texts that each thread keeps: those of one version of a job, for 2 kinds of streams and 2 views.
const KEPT: usize = 4;

/// Maximum size of a small text in bytes. Of larger texts, each thread keeps only the last one.
const SMALL_MAX: usize = 64 * 1024;

/// Maximum size of a kept text in bytes: enough for most jobs with a result of the maximum size.
const LARGE_MAX: usize = 2 * 1024 * 1024;

thread_local! {
    /// Events that this thread encoded last.
    static RECENT: RefCell<Recent> = const { RefCell::new(Recent::new()) };
}

/// Events that were encoded last.
struct Recent {
    small: [Option<Written>; KEPT],
    /// Index at which the next small event is stored.
    next: usize,
    large: Option<Written>,
}

/// An encoded message, and its text.
struct Written {
    message: Bytes,
    text: Bytes,
}

impl Recent {
    const fn new() -> Self {
        Self { small: [const { None }; KEPT], next: 0, large: None }
    }

    fn find(&self, message: &[u8]) -> Option<Bytes> {
        let mut written = self.small.iter().chain([&self.large]).flatten();
        written.find(|it| it.message == message).map(|it| it.text.clone())
    }

    fn keep(&mut self, message: &[u8], text: Bytes) {
        if text.len() > LARGE_MAX {
            return;
        }
        let is_small = text.len() <= SMALL_MAX;
        // The message is copied, because it may be a part of a large buffer.
        let written = Some(Written { message: Bytes::copy_from_slice(message), text });
        if is_small {
            self.small[self.next] = written;
            self.next = (self.next + 1) % KEPT;
        } else {
            self.large = written;
        }
    }
}

/// The text form of events.
pub struct Event;

impl Event {
    /// Returns the text of an encoded message of this form, `WatchJobResponse` or `WatchJobsResponse`.
    pub fn text(form: &Form, message: &Bytes) -> Bytes {
        RECENT.with_borrow_mut(|recent| {
            if let Some(text) = recent.find(message) {
                return text;
            }
            let text = Bytes::from(text(form, message.clone()));
            recent.keep(message, text.clone());
            text
        })
    }

    /// Returns the line with the id of an event, which is its resume token.
    pub fn id_line(token: &[u8]) -> Vec<u8> {
        [b"id: ", token, b"\n"].concat()
    }
}

/// Writes the text of an encoded event.
fn text(form: &Form, message: Bytes) -> Vec<u8> {
    let size = message.len();
    let mut event = EncodedEvent::decode(message).expect("this process has encoded the message");
    let (token, skipped) = (take(&mut event.resume_token), take(&mut event.skipped));
    let is_bookmark = event.event == i32::from(v1::Event::Bookmark);
    let mut text = Vec::with_capacity(2 * size);
    if is_bookmark {
        text.extend_from_slice(b"event: bookmark\n");
    }
    if !token.is_empty() {
        text.extend(Event::id_line(&token));
    }
    text.extend_from_slice(b"data: ");
    form.write(&event.encode_to_vec(), &mut text);
    if !is_bookmark {
        // JSON of protobuf would write 64 bits as a string. A number is easier for scripts, and `skipped` is far below
        // 2^53, from which scripts would round it.
        let end = text.pop();
        debug_assert_eq!(end, Some(b'}'), "a message is an object");
        text.extend(format!(",\"skipped\":{skipped}}}").into_bytes());
    }
    text.extend_from_slice(b"\n\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::api::schema::Schema;

    fn written(event: &v1::WatchJobResponse) -> String {
        let (_, descriptor, _) = Schema::new().method("JobService/WatchJob").expect("a method");
        let form = Form::new(descriptor);
        let text = Event::text(&form, &event.encode_to_vec().into());
        assert_eq!(text.as_ptr(), Event::text(&form, &event.encode_to_vec().into()).as_ptr(), "it is written once");
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
