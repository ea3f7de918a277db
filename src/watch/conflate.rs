//! Many changes of a job taken together.

use crate::{
    domain::{Job, Timestamp},
    store::Announcement,
};

/// Changes of one job that were not delivered yet: the newest, and the first end among those before it.
#[derive(Clone, Debug)]
pub struct Conflated {
    /// The place of the oldest change among them in the order of commits.
    pub first: u64,
    /// When that change was made.
    pub since: Timestamp,
    /// The first version that was an end, if it is not the newest.
    pub end: Option<Announcement>,
    /// The newest version.
    pub latest: Announcement,
}

impl Conflated {
    /// One change.
    pub fn new(change: Announcement) -> Self {
        Self { first: change.position, since: change.stored.job.update_time, end: None, latest: change }
    }

    /// Adds a later change.
    pub fn push(&mut self, change: Announcement) {
        let before = std::mem::replace(&mut self.latest, change);
        if self.end.is_none() && is_end(&before.stored.job) {
            self.end = Some(before);
        }
    }

    /// Adds later changes.
    pub fn append(&mut self, later: Self) {
        if let Some(end) = later.end {
            self.push(end);
        }
        self.push(later.latest);
    }

    /// The versions to be delivered, in order.
    pub fn into_versions(self) -> impl Iterator<Item = Announcement> {
        self.end.into_iter().chain([self.latest])
    }
}

/// Whether a stream that follows one job ends with this version.
pub fn is_end(job: &Job) -> bool {
    job.removal.is_some() || job.state.is_terminal()
}
