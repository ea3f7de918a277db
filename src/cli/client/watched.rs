//! The state of the jobs that a command follows.

use std::collections::{BTreeMap, BTreeSet};

use jobtrack_client::{
    Event, Job, JobFilter, Removal,
    proto::v1::{self, WatchJobsResponse},
};

use super::follow::Scope;
use crate::cli::{exit::Exit, text::escape};

/// The effect of an event on the followed jobs.
#[derive(Debug, PartialEq)]
pub enum Change {
    /// A version of a job that has not ended.
    Active(Job),
    /// The end of a job.
    Ended(Job),
    /// A job that no longer matches the filter.
    Left(Job),
    /// A job that was deleted or has expired.
    Removed(Job, Removal),
    /// Jobs that do not exist.
    Missing(Vec<String>),
    /// All jobs that match were sent.
    Synced,
    /// No effect.
    Nothing,
}

/// The jobs that a command follows.
pub struct Watched {
    /// The filter; `None` if jobs are named.
    filter: Option<JobFilter>,
    /// Ids of the named jobs that have not ended; `None`: the command follows a filter.
    awaited: Option<BTreeSet<String>>,
    /// The newest version of each job that has not ended.
    active: BTreeMap<String, Job>,
    /// Ids of the jobs that were sent since the last reset.
    sent: BTreeSet<String>,
    exit: Exit,
}

impl Watched {
    /// Returns the state before the first event.
    pub fn new(scope: &Scope) -> Self {
        let (filter, awaited) = match scope {
            Scope::Ids(ids) => (None, Some(ids.clone())),
            Scope::Filter(filter) => (Some(JobFilter::clone(filter)), None),
        };
        Self { filter, awaited, active: BTreeMap::new(), sent: BTreeSet::new(), exit: Exit::Done }
    }

    /// Returns the exit code once all named jobs have ended; `None` until then.
    pub fn exit(&self) -> Option<Exit> {
        self.awaited.as_ref().is_some_and(BTreeSet::is_empty).then_some(self.exit)
    }

    /// Returns the ids of the named jobs that have not ended.
    pub fn awaited(&self) -> impl Iterator<Item = &String> {
        self.awaited.iter().flatten()
    }

    /// Returns the jobs that have not ended.
    pub fn active(&self) -> impl Iterator<Item = &Job> {
        self.active.values()
    }

    /// Returns a job that has not ended.
    pub fn get(&self, id: &str) -> Option<&Job> {
        self.active.get(id)
    }

    /// Applies an event, and returns its effect.
    pub fn apply(&mut self, event: Event) -> Change {
        match event {
            Event::Job { job, .. } => self.version(job),
            Event::Removed { job, removal } => {
                self.active.remove(&job.id);
                self.sent.remove(&job.id);
                self.end(&job.id, Exit::NotFound);
                Change::Removed(job, removal)
            }
            Event::Reset => {
                self.sent.clear();
                Change::Nothing
            }
            Event::Synced => self.sync(),
            _ => Change::Nothing,
        }
    }

    fn version(&mut self, job: Job) -> Change {
        self.sent.insert(job.id.clone());
        if job.has_ended() {
            self.leave(&job.id);
            self.end(&job.id, Exit::of_job(&job));
            return Change::Ended(job);
        }
        if self.filter.as_ref().is_some_and(|filter| !matches(filter, &job)) {
            self.leave(&job.id);
            return Change::Left(job);
        }
        self.active.insert(job.id.clone(), job.clone());
        Change::Active(job)
    }

    /// Forgets a job. With a filter its id is forgotten, too: any number of jobs may match over time.
    fn leave(&mut self, id: &str) {
        self.active.remove(id);
        if self.awaited.is_none() {
            self.sent.remove(id);
        }
    }

    /// Records the end of a named job.
    fn end(&mut self, id: &str, exit: Exit) {
        if self.awaited.as_mut().is_some_and(|awaited| awaited.remove(id)) {
            self.exit = self.exit.and(exit);
        }
    }

    /// Forgets the jobs that were not sent again after a reset, and finds named jobs that do not exist.
    fn sync(&mut self) -> Change {
        self.active.retain(|id, _| self.sent.contains(id));
        let missing: Vec<_> = self.awaited().filter(|id| !self.sent.contains(*id)).cloned().collect();
        for id in &missing {
            self.end(id, Exit::NotFound);
        }
        if missing.is_empty() { Change::Synced } else { Change::Missing(missing) }
    }
}

/// Returns the message about a job that was removed.
pub fn gone(id: &str, removal: Removal) -> String {
    let end = match removal {
        Removal::Expired => "has expired",
        Removal::Deleted => "was deleted",
        Removal::Unspecified => "was removed",
    };
    format!("{} {end}", escape(id))
}

/// Returns the message about a job that does not exist.
pub fn missing(id: &str) -> String {
    format!("{} does not exist", escape(id))
}

/// Returns whether a job that matched before still matches. Only the fields that can change are compared.
fn matches(filter: &JobFilter, job: &Job) -> bool {
    let is_in = |values: &[i32], value| values.is_empty() || values.contains(&value);
    let is_worker = filter.worker.is_empty() || filter.worker == job.worker;
    is_in(&filter.states, job.state) && is_in(&filter.liveness, job.liveness) && is_worker
}

/// Converts events to the messages that the HTTP API sends.
#[derive(Default)]
pub struct Messages {
    sent: BTreeSet<String>,
    is_reset: bool,
}

impl Messages {
    /// Returns the message of an event; `None` if the event has no message of its own.
    pub fn of(&mut self, event: &Event) -> Option<WatchJobsResponse> {
        let mut message = WatchJobsResponse { reset: self.is_reset, ..WatchJobsResponse::default() };
        match event {
            Event::Job { job, skipped } => {
                let is_first = self.sent.insert(job.id.clone());
                message.set_event(if is_first { v1::Event::Snapshot } else { v1::Event::Update });
                message.skipped = if is_first { 0 } else { *skipped };
                if job.has_ended() {
                    // A later job with this id is a new job, and starts with a snapshot.
                    self.sent.remove(&job.id);
                }
                message.job = Some(job.clone());
            }
            Event::Removed { job, removal } => {
                self.sent.remove(&job.id);
                message.set_event(v1::Event::Removed);
                message.set_removal(*removal);
                message.job = Some(job.clone());
            }
            Event::Synced => {
                self.is_reset = false;
                message.set_event(v1::Event::Bookmark);
            }
            Event::Reset => {
                self.sent.clear();
                self.is_reset = true;
                return None;
            }
            _ => return None,
        }
        Some(message)
    }
}

#[cfg(test)]
mod tests {
    use jobtrack_client::State;

    use super::*;

    fn job(id: &str, state: State) -> Job {
        Job { id: id.to_owned(), state: state.into(), ..Job::default() }
    }

    fn version(id: &str, state: State) -> Event {
        Event::Job { job: job(id, state), skipped: 0 }
    }

    fn ids<const N: usize>(ids: [&str; N]) -> Scope {
        Scope::Ids(ids.into_iter().map(str::to_owned).collect())
    }

    #[test]
    fn ends_of_all_named_jobs_are_awaited() {
        let mut watched = Watched::new(&ids(["a", "b", "c"]));
        watched.apply(version("a", State::Running));
        watched.apply(version("b", State::Cancelled));
        assert_eq!(watched.exit(), None);
        assert_eq!(watched.apply(Event::Synced), Change::Missing(vec!["c".to_owned()]));
        assert_eq!(watched.active().count(), 1);
        assert_eq!(watched.apply(version("a", State::Failed)), Change::Ended(job("a", State::Failed)));
        assert_eq!(watched.exit(), Some(Exit::Failed));
    }

    #[test]
    fn jobs_that_are_gone_after_a_reset_are_forgotten() {
        let mut watched = Watched::new(&ids(["a", "b"]));
        watched.apply(version("a", State::Running));
        watched.apply(version("b", State::Running));
        assert_eq!(watched.apply(Event::Synced), Change::Synced);
        watched.apply(Event::Reset);
        watched.apply(version("b", State::Pending));
        assert_eq!(watched.apply(Event::Synced), Change::Missing(vec!["a".to_owned()]));
        assert_eq!(watched.active().map(Job::state).collect::<Vec<_>>(), [State::Pending]);
    }

    #[test]
    fn filter_never_ends_and_drops_jobs_that_leave_it() {
        let states = vec![State::Pending.into()];
        let mut watched = Watched::new(&Scope::Filter(JobFilter { states, ..JobFilter::default() }.into()));
        watched.apply(version("a", State::Pending));
        assert_eq!(watched.apply(version("a", State::Running)), Change::Left(job("a", State::Running)));
        assert_eq!((watched.active().count(), watched.exit()), (0, None));
    }

    #[test]
    fn lines_say_what_is_new_and_what_was_reset() {
        use v1::Event::{Bookmark, Snapshot, Update};

        let mut messages = Messages::default();
        let mut kinds = Vec::new();
        for event in [
            version("a", State::Running),
            Event::Synced,
            version("a", State::Running),
            Event::Reset,
            version("a", State::Running),
            Event::Synced,
            version("a", State::Succeeded),
        ] {
            kinds.extend(messages.of(&event).map(|line| (line.event(), line.reset)));
        }
        let expected = [(Snapshot, false), (Bookmark, false), (Update, false), (Snapshot, true), (Bookmark, true)];
        assert_eq!(kinds, [&expected[..], &[(Update, false)]].concat());
    }
}
