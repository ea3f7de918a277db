//! Several changes of a job, merged into one delivery.

use super::last_sent::{LastSent, VersionOrder};
use crate::{
    domain::{Job, State},
    store::{CommitEvent, CommitPosition},
};

/// Changes of one job that were not delivered yet: the newest version, and those before it that a subscriber must not
/// miss.
#[derive(Clone, Debug)]
pub struct CoalescedChanges {
    /// Position of the oldest of the changes.
    pub first: CommitPosition,
    /// State before the oldest change; `None` if that change created the job, or if the state is unknown.
    previous: Option<State>,
    /// End of the first incarnation, if it ended before the newest change.
    end: Option<CommitEvent>,
    /// Removal of the first incarnation, if it was removed before the newest change.
    removal: Option<CommitEvent>,
    /// Newest version.
    latest: CommitEvent,
}

impl CoalescedChanges {
    /// Creates the changes from a single one.
    pub fn new(change: CommitEvent) -> Self {
        Self { first: change.position, previous: change.previous, end: None, removal: None, latest: change }
    }

    /// Returns the newest version.
    pub fn latest(&self) -> &Job {
        &self.latest.stored.job
    }

    /// Returns whether another version must be delivered before the newest one.
    pub fn has_more(&self) -> bool {
        self.end.is_some() || self.removal.is_some()
    }

    /// Adds a later change. A change that turns out to be older is ignored: where several replicas write, the commits
    /// of a job may be announced out of order.
    pub fn push(&mut self, change: CommitEvent) {
        debug_assert_eq!(self.latest().id, change.stored.job.id);
        if LastSent::of(self.latest()).compare(&change.stored.job) == VersionOrder::NotNewer {
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

    /// Returns the size of the versions to be delivered, in bytes.
    pub fn size(&self) -> usize {
        self.versions().map(Job::size).sum()
    }

    /// Returns the versions to be delivered, in order.
    pub fn versions(&self) -> impl Iterator<Item = &Job> {
        self.end.iter().chain(&self.removal).chain([&self.latest]).map(|change| &*change.stored.job)
    }

    /// Returns the changes to be delivered, in order. The previous state of each is that of the version delivered
    /// before it: the states in between are unknown to the subscriber.
    pub fn into_versions(self) -> impl Iterator<Item = CommitEvent> {
        let mut delivered = self.previous;
        let mut incarnation = None;
        self.end.into_iter().chain(self.removal).chain([self.latest]).map(move |mut change| {
            let job = &change.stored.job;
            let is_same = incarnation.is_none_or(|incarnation| incarnation == job.version.incarnation_id);
            change.previous = delivered.filter(|_| is_same);
            incarnation = Some(job.version.incarnation_id);
            delivered = Some(job.state);
            change
        })
    }
}
