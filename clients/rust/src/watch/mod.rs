//! Watching jobs: streams that resume by themselves.

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

use self::watcher::{Progress, Request, Watcher};
use crate::{
    Error, Job, Tracker,
    job::duration,
    proto::v1::{JobFilter, Removal, View, WatchJobRequest, WatchJobsRequest},
};

/// Time without news after which the server sends a bookmark.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(20);

/// News of a watched job.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event {
    /// The job as it is now.
    Job {
        /// The job.
        job: Job,
        /// Number of versions between this one and the last one of this stream.
        skipped: i64,
    },
    /// The job is gone.
    Removed {
        /// Its last known version, without documents and texts.
        job: Job,
        /// The reason.
        removal: Removal,
    },
    /// Earlier events no longer count: the server has lost data, or can't resume the stream. The jobs that exist
    /// follow.
    Reset,
    /// All jobs that match were sent, for the first time or after a [`Reset`](Self::Reset); changes follow. Only of
    /// [`WatchMany`].
    Synced,
}

/// The versions of one job, as they come, to its end. A stream that breaks is opened again at the version after the
/// last one, on another replica if there are several; it fails only with final errors: the job does not exist, or the
/// caller may not see it.
pub struct Watch(Progress);

impl Watch {
    pub(crate) fn new(tracker: Tracker, job_id: String) -> Self {
        let bookmark_interval = Some(duration(BOOKMARK_INTERVAL));
        let request = WatchJobRequest { job_id, bookmark_interval, ..Default::default() };
        Self(Progress::Idle(Box::new(Watcher::new(tracker, Request::One(request)))))
    }

    fn change(mut self, change: impl FnOnce(&mut WatchJobRequest)) -> Self {
        // A stream that was polled has sent its request.
        if let Progress::Idle(watcher) = &mut self.0
            && let Request::One(request) = &mut watcher.request
        {
            change(request);
        }
        self
    }

    /// Sets the least time between two versions. Another state, a cancellation and the end are never held back.
    pub fn min_interval(self, interval: Duration) -> Self {
        self.change(|request| request.min_interval = Some(duration(interval)))
    }

    /// Calls `told` with `None` once the stream is open, and with each error after which it is opened again.
    pub fn on_trouble(mut self, told: impl Fn(Option<&Error>) + Send + Sync + 'static) -> Self {
        if let Progress::Idle(watcher) = &mut self.0 {
            watcher.trouble.on_trouble = Some(Arc::new(told));
        }
        self
    }

    /// Leaves out `result`, `metadata` and `details`.
    pub fn without_documents(self) -> Self {
        self.change(|request| request.set_view(View::Basic))
    }

    /// Returns the next event; `None` after the end of the job.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        poll_fn(|context| self.0.poll_next(context)).await
    }

    /// Waits for the end of the job and returns it.
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

/// The jobs that match a filter, then their changes. A stream that breaks is opened again, and goes on where it was.
pub struct WatchMany(Progress);

impl WatchMany {
    pub(crate) fn new(tracker: Tracker, filter: JobFilter) -> Self {
        let bookmark_interval = Some(duration(BOOKMARK_INTERVAL));
        let view = View::Basic.into();
        let request = WatchJobsRequest { filter: Some(filter), bookmark_interval, view, ..Default::default() };
        Self(Progress::Idle(Box::new(Watcher::new(tracker, Request::Many(Box::new(request))))))
    }

    fn change(mut self, change: impl FnOnce(&mut WatchJobsRequest)) -> Self {
        if let Progress::Idle(watcher) = &mut self.0
            && let Request::Many(request) = &mut watcher.request
        {
            change(request);
        }
        self
    }

    /// Watches only these jobs, at most 1000. Ids that do not exist yet are watched, too.
    pub fn ids(self, ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.change(|request| request.job_ids = ids.into_iter().map(Into::into).collect())
    }

    /// Sets the least time between two versions of a job. Another state, a cancellation and the end are never held
    /// back.
    pub fn min_interval(self, interval: Duration) -> Self {
        self.change(|request| request.min_interval = Some(duration(interval)))
    }

    /// Calls `told` with `None` once the stream is open, and with each error after which it is opened again.
    pub fn on_trouble(mut self, told: impl Fn(Option<&Error>) + Send + Sync + 'static) -> Self {
        if let Progress::Idle(watcher) = &mut self.0 {
            watcher.trouble.on_trouble = Some(Arc::new(told));
        }
        self
    }

    /// Adds `result`, `metadata` and `details`.
    pub fn with_documents(self) -> Self {
        self.change(|request| request.set_view(View::Full))
    }

    /// Returns the next event. `None` after a final error, or when none of the jobs that a watch token is for exists
    /// any more.
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
