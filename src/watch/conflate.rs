//! Many changes of a job taken together.

use super::{Freshness, Sent};
use crate::{
    domain::{Job, State},
    store::CommitEvent,
};

/// Changes of one job that were not delivered yet: the newest, and what of those before it must not be passed over.
#[derive(Clone, Debug)]
pub struct Conflated {
    /// The place of the oldest change among them in the order of commits.
    pub first: u64,
    /// The state before that change; `None`: the job was created by it.
    previous: Option<State>,
    /// The end of the first life among them, if it ended before the newest change.
    end: Option<CommitEvent>,
    /// The removal of the first life among them, if it was removed before the newest change.
    removal: Option<CommitEvent>,
    /// The newest version.
    latest: CommitEvent,
}

impl Conflated {
    /// One change.
    pub fn new(change: CommitEvent) -> Self {
        Self { first: change.position, previous: change.previous, end: None, removal: None, latest: change }
    }

    /// The newest version.
    pub fn latest(&self) -> &Job {
        &self.latest.stored.job
    }

    /// Whether there is more to be delivered than the newest version.
    pub fn has_more(&self) -> bool {
        self.end.is_some() || self.removal.is_some()
    }

    /// Adds a later change. What turns out not to be later is passed over: where several replicas write, what one of
    /// them stored may be announced after what came behind it.
    pub fn push(&mut self, change: CommitEvent) {
        if Sent::of(self.latest()).compare(&change.stored.job) == Freshness::Stale {
            return;
        }
        let before = std::mem::replace(&mut self.latest, change);
        if self.removal.is_some() {
            return;
        }
        if before.stored.job.removal.is_some() {
            self.removal = Some(before);
        } else if self.end.is_none() && before.stored.job.state.is_terminal() {
            self.end = Some(before);
        }
    }

    /// Adds later changes.
    pub fn append(&mut self, later: Self) {
        for change in later.into_versions() {
            self.push(change);
        }
    }

    /// Returns the size of these versions in bytes.
    pub fn size(&self) -> usize {
        self.versions().map(Job::size).sum()
    }

    /// The versions to be delivered, in order.
    pub fn versions(&self) -> impl Iterator<Item = &Job> {
        self.end.iter().chain(&self.removal).chain([&self.latest]).map(|change| &*change.stored.job)
    }

    /// The changes to be delivered, in order, each with the state before it as a subscriber knows it who was told of
    /// those before.
    pub fn into_versions(self) -> impl Iterator<Item = CommitEvent> {
        let mut known = self.previous;
        let mut life = None;
        self.end.into_iter().chain(self.removal).chain([self.latest]).map(move |mut change| {
            let job = &change.stored.job;
            let same_life = life.is_none_or(|life| life == job.version.incarnation_id);
            change.previous = known.filter(|_| same_life);
            life = Some(job.version.incarnation_id);
            known = Some(job.state);
            change
        })
    }
}

/// Whether a stream that follows one job ends with this version.
pub fn is_end(job: &Job) -> bool {
    job.removal.is_some() || job.state.is_terminal()
}
