//! Watching: delivery of changes from the store to each subscriber.
//!
//! The [`Hub`] listens to the store. It keeps the newest version of each watched job until its dispatcher has delivered
//! it to the inboxes of the subscribers: a write costs one map entry, however many subscribers there are. The inbox
//! behind a [`Subscription`] keeps, of each job, the newest version and its end until the stream takes them.
//! [`JobWatch`] and [`JobsWatch`] produce the events of `WatchJob` and `WatchJobs` from the inbox.
//!
//! Guarantees of a stream:
//!
//! - It subscribes before it reads, so no change is missed between the two.
//! - Revisions rise. Versions between two events may be skipped, but never the newest one, nor an end. If an id was
//!   reused meanwhile, the end that is sent is that of the incarnation which the subscriber has seen.
//! - A subscriber that does not read delays nobody, and its waiting changes are bounded: a stream of many jobs that
//!   falls too far behind catches up from the store.
//! - The memory of a stream of one job is constant. A stream of many jobs keeps a small entry for each job that
//!   matches, and for each active job that matched before; and the changes that it delays on request.

mod backlog;
mod batch;
mod coalesced;
mod hub;
mod inbox;
mod job_watch;
mod jobs_watch;
mod last_sent;
mod scope;
mod token;

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until};

pub use coalesced::CoalescedChanges;
pub use hub::{Hub, Subscription};
pub use job_watch::JobWatch;
pub use jobs_watch::JobsWatch;
pub use scope::Scope;
pub use token::{JobToken, JobsToken, ResumeToken};

use crate::{domain::Job, store::Stored};

/// The intervals of a stream.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Minimum interval between updates of a job. Changes of state, cancellation and the end are sent at once.
    pub min_interval: Duration,
    /// Time without an event after which a bookmark is sent.
    pub bookmark_interval: Duration,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The current version of a job.
    Snapshot,
    /// A change of a job.
    Update,
    /// A position in the stream, without news.
    Bookmark,
    /// The removal of a job.
    Removed,
}

impl EventKind {
    /// Returns the kind of an event with this version: the removal for a tombstone, otherwise this kind.
    fn of(self, job: &Job) -> Self {
        if job.removal.is_some() { Self::Removed } else { self }
    }
}

/// The effect of an event on those before it: a reset starts the stream over, so that they no longer count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reset {
    Yes,
    No,
}

impl Reset {
    /// Returns whether a stream that can't resume at `resume_token` starts over: `No` if the token is empty, because
    /// nothing was sent before.
    const fn from_token(resume_token: &str) -> Self {
        if resume_token.is_empty() { Self::No } else { Self::Yes }
    }
}

impl From<Reset> for bool {
    fn from(reset: Reset) -> Self {
        reset == Reset::Yes
    }
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// Kind of the event.
    pub kind: EventKind,
    /// The job; `None` in a bookmark.
    pub stored: Option<Stored>,
    /// Number of revisions that were skipped since the last event with this job.
    pub skipped: i64,
    /// Token that resumes the stream after this event.
    pub resume_token: ResumeToken,
    /// The stream starts over: the events before this one no longer count.
    pub reset: bool,
    /// In a bookmark of a stream of many jobs: the snapshot is not complete yet.
    pub snapshot_pending: bool,
}

/// A timer for a deadline that moves later with each event. It is reset only when it has elapsed or the deadline is
/// earlier: resetting it for each event would cost more than the rare early wake-up.
#[derive(Debug)]
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn at(time: Instant) -> Self {
        Self(Box::pin(sleep_until(time)))
    }

    /// Waits until `time`, or until an earlier time that was waited for before.
    async fn wait(&mut self, time: Instant) {
        if self.0.is_elapsed() || time < self.0.deadline() {
            self.0.as_mut().reset(time);
        }
        self.0.as_mut().await;
    }
}
