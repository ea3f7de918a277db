//! Watches of client commands. A watch tells when the tracker is unavailable. It gives up only if it was never opened.

use std::{
    collections::BTreeSet,
    mem::replace,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::BoxStream};
use jobtrack_client::{Error, Event, JobFilter};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::cli::{connection::Connection, exit::CommandError};

/// Maximum number of jobs that one watch can name.
const IDS_MAX: usize = 1000;

/// The jobs to follow.
pub enum Scope {
    /// The jobs with these ids, until each has ended.
    Ids(BTreeSet<String>),
    /// All jobs that match the filter; the watch does not end.
    Filter(Box<JobFilter>),
}

impl Scope {
    /// Returns a scope of the jobs with these ids.
    pub fn of(ids: Vec<String>) -> Self {
        Self::Ids(ids.into_iter().collect())
    }
}

/// The rate of updates and the parts of jobs that a command needs.
#[derive(Clone, Copy)]
pub struct Detail {
    /// Minimum time between two versions of a job. Changes of the state and cancellations are sent at once.
    pub interval: Duration,
    /// Documents, such as results, are needed.
    pub documents: bool,
}

/// An event of a job, or a change in the availability of the tracker.
pub enum News {
    /// An event of the watch.
    Event(Box<Event>),
    /// The tracker is unavailable. The watch reconnects by itself.
    Unavailable(Error),
    /// The tracker is available again.
    Available,
}

/// A watch of one or many jobs.
pub struct Follow {
    events: BoxStream<'static, Result<Event, Error>>,
    troubles: UnboundedReceiver<Option<Error>>,
    /// Deadline for the first connection.
    first_by: Instant,
    /// Number of replicas that were not tried yet.
    untried: usize,
    /// The stream was open at least once.
    has_begun: bool,
    is_unavailable: bool,
}

impl Follow {
    /// Returns a watch of these jobs. The first call of [`next`](Self::next) connects.
    pub fn new(connection: &Connection, scope: &Scope, detail: Detail) -> Result<Self, CommandError> {
        let tracker = connection.tracker()?;
        let (told, troubles) = unbounded_channel();
        // The send fails only when the command ends, and then nobody needs the message.
        let told = move |error: Option<&Error>| _ = told.send(error.cloned());
        let events = match scope {
            Scope::Ids(ids) if ids.len() > IDS_MAX => {
                return Err(CommandError::Usage(format!("at most {IDS_MAX} jobs can be named; a filter has no limit")));
            }
            Scope::Ids(ids) if ids.len() == 1 => {
                // The stream of one job can be resumed on any replica.
                let watch = tracker.watch(ids.first().expect("one id")).min_interval(detail.interval);
                let watch = if detail.documents { watch } else { watch.without_documents() };
                watch.on_trouble(told).boxed()
            }
            Scope::Ids(ids) => {
                let watch = tracker.watch_many(JobFilter::default()).ids(ids).min_interval(detail.interval);
                let watch = if detail.documents { watch.with_documents() } else { watch };
                watch.on_trouble(told).boxed()
            }
            Scope::Filter(filter) => {
                let watch = tracker.watch_many(JobFilter::clone(filter)).min_interval(detail.interval);
                let watch = if detail.documents { watch.with_documents() } else { watch };
                watch.on_trouble(told).boxed()
            }
        };
        let (first_by, untried) = (Instant::now() + connection.call_timeout(), connection.replicas());
        Ok(Self { events, troubles, first_by, untried, has_begun: false, is_unavailable: false })
    }

    /// Returns the next news; `None` after the end of the stream. Cancel-safe: a dropped future loses no news.
    pub async fn next(&mut self) -> Result<Option<News>, CommandError> {
        loop {
            let deadline = tokio::time::sleep_until(self.first_by.into());
            tokio::select! {
                biased;
                Some(trouble) = self.troubles.recv() => {
                    if let Some(news) = self.trouble(trouble)? {
                        return Ok(Some(news));
                    }
                }
                event = self.events.next() => {
                    return Ok(event.transpose()?.map(|event| News::Event(Box::new(event))));
                }
                () = deadline, if !self.has_begun => {
                    return Err(CommandError::Unavailable("the tracker does not answer".to_owned()));
                }
            }
        }
    }

    /// Returns whether the tracker is unavailable at the moment.
    pub const fn is_unavailable(&self) -> bool {
        self.is_unavailable
    }

    /// Processes an error of the watch, or with `None` the news that the stream is open. Until the stream has been open
    /// once, the address may be wrong: the command fails if it can reach no replica.
    fn trouble(&mut self, trouble: Option<Error>) -> Result<Option<News>, CommandError> {
        let Some(error) = trouble else {
            self.has_begun = true;
            return Ok(replace(&mut self.is_unavailable, false).then_some(News::Available));
        };
        if !self.has_begun && error.is_unsent {
            self.untried = self.untried.saturating_sub(1);
            if self.untried == 0 {
                return Err(error.into());
            }
        }
        let is_new = !replace(&mut self.is_unavailable, true);
        Ok(is_new.then_some(News::Unavailable(error)))
    }
}
