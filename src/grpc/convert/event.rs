//! Events of streams. A job is encoded once for all subscribers on a thread.

use std::{cell::RefCell, sync::Arc};

use bytes::Bytes;
use prost::Message;

use super::job::job;
use crate::{
    domain::{Job, Liveness, Removal, Timestamp, View},
    proto::{EncodedEvent, v1},
    store::{Durability, Stored},
    watch::{EventKind, ResumeToken, WatchEvent},
};

/// Returns an event of a stream, whose job has the fields of `view`.
pub fn event(event: WatchEvent, now: Timestamp, view: View) -> EncodedEvent {
    EncodedEvent {
        event: event_kind(event.kind).into(),
        removal: removal(&event).into(),
        job: event.stored.map(|stored| encoded_job(stored, now, view)),
        skipped: event.skipped,
        resume_token: encoded_token(event.resume_token),
        reset: event.reset,
        snapshot_pending: event.snapshot_pending,
    }
}

/// An encoded job, and the values that it was encoded from.
struct Encoded {
    job: Arc<Job>,
    durability: Durability,
    liveness: Liveness,
    bytes: Bytes,
}

thread_local! {
    /// Job that this thread encoded last, for each view. One is enough, because the subscribers of a job receive a
    /// change one after the other.
    static LAST: RefCell<[Option<Encoded>; 2]> = const { RefCell::new([None, None]) };
    /// Token that this thread encoded last.
    static LAST_TOKEN: RefCell<Option<(ResumeToken, Bytes)>> = const { RefCell::new(None) };
}

/// Returns an encoded token.
fn encoded_token(token: ResumeToken) -> Bytes {
    LAST_TOKEN.with_borrow_mut(|last| match last {
        Some((known, bytes)) if *known == token => bytes.clone(),
        _ => {
            let bytes = Bytes::from(token.encode());
            *last = Some((token, bytes.clone()));
            bytes
        }
    })
}

/// Returns an encoded job as it is at `now`, with the fields of `view`.
fn encoded_job(stored: Stored, now: Timestamp, view: View) -> Bytes {
    let (durability, liveness) = (stored.durability, stored.job.liveness(now));
    LAST.with_borrow_mut(|last| {
        let last = &mut last[view as usize];
        let is_same = |last: &&Encoded| {
            Arc::ptr_eq(&last.job, &stored.job) && (last.durability, last.liveness) == (durability, liveness)
        };
        if let Some(last) = last.as_ref().filter(is_same) {
            return last.bytes.clone();
        }
        let bytes = Bytes::from(job(&stored, now, view).encode_to_vec());
        *last = Some(Encoded { job: stored.job, durability, liveness, bytes: bytes.clone() });
        bytes
    })
}

fn event_kind(from: EventKind) -> v1::Event {
    match from {
        EventKind::Snapshot => v1::Event::Snapshot,
        EventKind::Update => v1::Event::Update,
        EventKind::Bookmark => v1::Event::Bookmark,
        EventKind::Removed => v1::Event::Removed,
    }
}

fn removal(event: &WatchEvent) -> v1::Removal {
    match event.stored.as_ref().and_then(|stored| stored.job.removal) {
        None => v1::Removal::Unspecified,
        Some(Removal::Deleted) => v1::Removal::Deleted,
        Some(Removal::Expired) => v1::Removal::Expired,
    }
}
