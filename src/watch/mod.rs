//! Watching: from what a store announces to what each subscriber is sent.
//!
//! A [`Hub`] listens to the store. It keeps the newest version of each job that somebody watches until its dispatcher
//! has handed it to the subscribers, so writers pay for a map entry and never for those who watch. A [`Subscription`]
//! keeps what its stream has not yet taken: of each job the newest version, and its end. [`JobWatch`] and [`JobsWatch`]
//! make the events of `WatchJob` and `WatchJobs` from it.
//!
//! What a stream promises: it subscribes before it reads, so nothing falls between; revisions rise; what came between
//! two events may be passed over, but neither the newest version nor an end (of an id that was used again
//! meanwhile: the end of the job that the subscriber knew). A subscriber that does not read delays nobody, and what
//! waits for it is bounded: a stream of many jobs that falls too far behind catches up from the store.
//! A stream of one job has a fixed size; one of many jobs remembers a few words of each that matches, and what it holds
//! back on request.

mod backlog;
mod conflate;
mod hub;
mod job_watch;
mod jobs_watch;
mod token;

use std::{pin::Pin, time::Duration};

use tokio::time::{Instant, Sleep, sleep_until};

pub use conflate::Conflated;
pub use hub::{Hub, Subscription};
pub use job_watch::JobWatch;
pub use jobs_watch::{JobsWatch, Scope};
pub use token::{JobToken, JobsToken, ResumeToken};

use crate::{
    domain::{ChangeId, Job, State, Timestamp},
    store::Stored,
};

/// How often a stream speaks.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// At most one update of a job in this time, state changes, cancellation and the end aside.
    pub min_interval: Duration,
    /// A bookmark whenever nothing was sent for this long.
    pub bookmark_interval: Duration,
}

/// What an event says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// The job as it is now.
    Snapshot,
    /// The job has changed.
    Update,
    /// Nothing new.
    Bookmark,
    /// The job is gone.
    Removed,
}

impl EventKind {
    /// What is said of this version in the place of that: the removal, if it is a tombstone.
    fn of(self, job: &Job) -> Self {
        if job.removal.is_some() { Self::Removed } else { self }
    }
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct WatchEvent {
    /// What it says.
    pub kind: EventKind,
    /// The job; `None` in a bookmark.
    pub stored: Option<Stored>,
    /// How many revisions were passed over.
    pub skipped: i64,
    /// Resumes the stream behind this event.
    pub resume_token: ResumeToken,
    /// What came before no longer counts.
    pub reset: bool,
    /// The snapshot of a stream of many jobs is not complete, in a bookmark.
    pub snapshot_pending: bool,
}

/// Wakes a stream. It is set anew when it rings or has to ring sooner, not for each event.
#[derive(Debug)]
struct Alarm(Pin<Box<Sleep>>);

impl Alarm {
    fn at(time: Instant) -> Self {
        Self(Box::pin(sleep_until(time)))
    }

    /// Waits until `time`, or a little less.
    async fn wait(&mut self, time: Instant) {
        if self.0.is_elapsed() || time < self.0.deadline() {
            self.0.as_mut().reset(time);
        }
        self.0.as_mut().await;
    }
}

/// The last version of a job that a stream sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    incarnation_id: uuid::Uuid,
    change_id: ChangeId,
    create_time: Timestamp,
    revision: i64,
    state: State,
    cancelled: bool,
}

/// How a version stands to the last one sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Freshness {
    /// It came later; so many revisions lie between.
    Newer(i64),
    /// It was sent already, or it came before.
    Stale,
    /// It belongs to a later life of the id whose revisions start over, or it took the place of the one sent.
    StartedOver,
}

impl Sent {
    fn of(job: &Job) -> Self {
        Self {
            incarnation_id: job.version.incarnation_id,
            change_id: job.version.change_id,
            create_time: job.create_time,
            revision: job.version.revision,
            state: job.state,
            cancelled: job.cancel.is_some(),
        }
    }

    fn compare(&self, job: &Job) -> Freshness {
        let version = job.version;
        // Of two lives that replicas began apart, the one that stands may be the one that began earlier.
        if version.revision > self.revision {
            return Freshness::Newer(version.revision - self.revision - 1);
        }
        let in_its_place = version.revision == self.revision && version.change_id != self.change_id;
        let starts_over = if version.incarnation_id == self.incarnation_id {
            in_its_place
        } else if version.revision == self.revision && version.change_id == self.change_id {
            // A merge gave it the identity of another creation by the same request.
            true
        } else {
            job.create_time > self.create_time
        };
        if starts_over { Freshness::StartedOver } else { Freshness::Stale }
    }

    /// Whether subscribers must hear of `job` at once, whatever interval they asked for.
    fn is_urgent(&self, job: &Job) -> bool {
        job.removal.is_some()
            || job.version.incarnation_id != self.incarnation_id
            || job.state != self.state
            || job.cancel.is_some() != self.cancelled
    }
}
