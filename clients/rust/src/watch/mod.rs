//! Watches of jobs: streams that reconnect and resume by themselves.

mod watcher;

use std::{
    future::poll_fn,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use tonic::Code;

use self::watcher::{PollState, Request, Watcher};
use crate::{
    Error, Job, Tracker,
    job::duration,
    proto::v1::{JobFilter, Removal, View, WatchJobRequest, WatchJobsRequest},
};

/// Time without an event after which the server sends a bookmark.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(20);

/// An event of a watch.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A version of a job.
    Job {
        /// The job.
        job: Job,
        /// Number of versions that were skipped between the previous event of the job and this one.
        skipped: i64,
    },
    /// A job was deleted or has expired.
    Removed {
        /// The last known version of the job, without documents and texts.
        job: Job,
        /// The reason.
        removal: Removal,
    },
    /// Earlier events are no longer valid, because the server has lost data or can't resume the stream. All existing
    /// jobs follow.
    Reset,
    /// All existing jobs that match were sent, at the start or after a [`Reset`](Self::Reset). Changes follow. Only
    /// [`WatchMany`] has this event.
    Synced,
}

/// A stream of the versions of one job, to its end. A broken stream reconnects, to another replica if there are
/// several, and continues after the last event. The stream fails only with final errors, for example because the job
/// does not exist.
pub struct Watch(PollState);

impl Watch {
    pub(crate) fn new(tracker: Tracker, job_id: String) -> Self {
        let bookmark_interval = Some(duration(BOOKMARK_INTERVAL));
        let request = WatchJobRequest { job_id, bookmark_interval, ..Default::default() };
        Self(PollState::Idle(Box::new(Watcher::new(tracker, Request::One(request)))))
    }

    fn change(mut self, change: impl FnOnce(&mut WatchJobRequest)) -> Self {
        // After the first poll the request was sent, and can't change any more.
        if let PollState::Idle(watcher) = &mut self.0
            && let Request::One(request) = &mut watcher.request
        {
            change(request);
        }
        self
    }

    /// Sets the minimum time between two versions. Changes of the state and cancellations are sent at once.
    pub fn min_interval(self, interval: Duration) -> Self {
        self.change(|request| request.min_interval = Some(duration(interval)))
    }

    /// Sets a function that is called with each error after which the stream reconnects, and with `None` when the
    /// stream is open.
    pub fn on_trouble(mut self, told: impl Fn(Option<&Error>) + Send + Sync + 'static) -> Self {
        if let PollState::Idle(watcher) = &mut self.0 {
            watcher.trouble.on_trouble = Some(Arc::new(told));
        }
        self
    }

    /// Leaves `result`, `metadata` and `details` out of the jobs.
    pub fn without_documents(self) -> Self {
        self.change(|request| request.set_view(View::Basic))
    }

    /// Returns the next event; `None` after the end of the job or a final error.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| self.0.poll_next(context)).await
    }

    /// Waits for the end of the job, and returns the job.
    pub async fn end(mut self) -> Result<Job, Error> {
        let mut last = None;
        while let Some(event) = self.next().await {
            match event? {
                Event::Job { job, .. } => last = Some(job),
                Event::Removed { job, .. } => {
                    let gone = format!("job {:?} was deleted or has expired", job.id);
                    return Err(Error::new(Code::NotFound, "JOB_REMOVED", gone));
                }
                Event::Reset | Event::Synced => {}
            }
        }
        last.ok_or_else(|| Error::new(Code::Internal, "", "the stream ended without an event"))
    }
}

impl Stream for Watch {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context)
    }
}

/// A stream of the jobs that match a filter, and then of their changes. A broken stream reconnects and continues after
/// the last event, or starts over with a [`Reset`](Event::Reset).
pub struct WatchMany(PollState);

impl WatchMany {
    pub(crate) fn new(tracker: Tracker, filter: JobFilter) -> Self {
        let bookmark_interval = Some(duration(BOOKMARK_INTERVAL));
        let view = View::Basic.into();
        let request = WatchJobsRequest { filter: Some(filter), bookmark_interval, view, ..Default::default() };
        Self(PollState::Idle(Box::new(Watcher::new(tracker, Request::Many(Box::new(request))))))
    }

    fn change(mut self, change: impl FnOnce(&mut WatchJobsRequest)) -> Self {
        if let PollState::Idle(watcher) = &mut self.0
            && let Request::Many(request) = &mut watcher.request
        {
            change(request);
        }
        self
    }

    /// Restricts the watch to the jobs with these ids, at most 1000. Jobs that do not exist yet are watched, too.
    pub fn ids(self, ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.change(|request| request.job_ids = ids.into_iter().map(Into::into).collect())
    }

    /// Sets the minimum time between two versions of a job. Changes of the state and cancellations are sent at once.
    pub fn min_interval(self, interval: Duration) -> Self {
        self.change(|request| request.min_interval = Some(duration(interval)))
    }

    /// Sets a function that is called with each error after which the stream reconnects, and with `None` when the
    /// stream is open.
    pub fn on_trouble(mut self, told: impl Fn(Option<&Error>) + Send + Sync + 'static) -> Self {
        if let PollState::Idle(watcher) = &mut self.0 {
            watcher.trouble.on_trouble = Some(Arc::new(told));
        }
        self
    }

    /// Includes `result`, `metadata` and `details` in the jobs.
    pub fn with_documents(self) -> Self {
        self.change(|request| request.set_view(View::Full))
    }

    /// Returns the next event. `None` after a final error, or, with a watch token, when none of its jobs exists any
    /// more.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| self.0.poll_next(context)).await
    }
}

impl Stream for WatchMany {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_next(context)
    }
}
