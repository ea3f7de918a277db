//! Answers as protobuf messages.

use std::iter;

use prost::Message;
use uuid::Uuid;

use super::{
    job::job,
    values::{count, timestamp},
};
use crate::{
    auth::WatchToken,
    domain::{Cursor, Identity, Ignored, JobId, ListQuery, MAX_PAGE_BYTES},
    proto::v1,
    store::{Page, Source},
    tracker::{Effect, Purged},
};

/// Returns a page of the jobs that `query` selects for `caller`, truncated to the size that clients accept.
pub fn page(page: &Page, query: &ListQuery, caller: &Identity) -> v1::ListJobsResponse {
    let mut size = 0;
    let mut jobs = Vec::with_capacity(page.jobs.len());
    for stored in &page.jobs {
        let job = job(stored, query.now, query.view);
        size += job.encoded_len();
        if size > MAX_PAGE_BYTES && !jobs.is_empty() {
            break;
        }
        jobs.push(job);
    }
    let cut = page.jobs.get(..jobs.len()).filter(|kept| kept.len() < page.jobs.len()).and_then(|kept| kept.last());
    let next = cut.map(|stored| Cursor::of(&stored.job)).or_else(|| page.next.clone());
    let digest = query.order.bind(query.filter.digest(caller));
    v1::ListJobsResponse {
        jobs,
        next_page_token: next.map(|cursor| cursor.to_token(digest)).unwrap_or_default(),
        total_size: page.total.map(count),
        partial: page.partial,
    }
}

/// Returns the answer about a part of a purge. The page token is bound to the selection with this `digest`.
pub fn purged(purged: &Purged, digest: Uuid) -> v1::PurgeJobsResponse {
    v1::PurgeJobsResponse {
        purged_count: count(purged.count),
        next_page_token: purged.next.as_ref().map(|cursor| cursor.to_token(digest)).unwrap_or_default(),
        partial: purged.partial,
    }
}

/// Returns a watch token for `ids`, with the path of their events.
pub fn watch_token(token: WatchToken, ids: &[JobId]) -> v1::CreateWatchTokenResponse {
    // Ids need no escaping in a path or a query.
    let path = match ids {
        [id] => format!("/v1/jobs/{id}/events"),
        ids => ids
            .iter()
            .zip(iter::once('?').chain(iter::repeat('&')))
            .fold("/v1/events".to_owned(), |path, (id, mark)| path + &format!("{mark}id={id}")),
    };
    v1::CreateWatchTokenResponse { token: token.text, expire_time: Some(timestamp(token.expires)), path }
}

/// Returns the reason why a report was ignored, if it was.
pub fn ignored(effect: Effect) -> v1::Ignored {
    match effect {
        Effect::Ignored(Ignored::OlderSequence) => v1::Ignored::OlderSequence,
        Effect::Ignored(Ignored::LowerProgress) => v1::Ignored::LowerProgress,
        Effect::Applied | Effect::None => v1::Ignored::Unspecified,
    }
}

/// Returns the source of an answer.
pub fn source(from: Source) -> v1::Source {
    match from {
        Source::Redis => v1::Source::Redis,
        Source::Memory => v1::Source::Memory,
    }
}
