//! What a stream of many jobs has taken from its subscription and not sent yet.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::Conflated;
use crate::domain::JobId;

/// Changes that wait to be sent: of each job once, first come first served, some held back for a time.
#[derive(Default)]
pub struct Backlog {
    /// With the time until which they are held back.
    changes: HashMap<JobId, (Conflated, Option<Instant>)>,
    ready: VecDeque<JobId>,
    held: BTreeSet<(Instant, JobId)>,
    /// The place of each one's first commit.
    firsts: BTreeSet<u64>,
}

impl Backlog {
    /// Adds changes that may be sent at `ready_at`, or at once.
    pub fn push(&mut self, changes: Conflated, ready_at: Option<Instant>) {
        let id = changes.latest().id.clone();
        if let Some((waiting, held)) = self.changes.get_mut(&id) {
            waiting.append(changes);
            if let (Some(time), None) = (*held, ready_at) {
                *held = None;
                self.held.remove(&(time, id.clone()));
                self.ready.push_back(id);
            }
            return;
        }
        self.firsts.insert(changes.first);
        self.changes.insert(id.clone(), (changes, ready_at));
        match ready_at {
            Some(time) => _ = self.held.insert((time, id)),
            None => self.ready.push_back(id),
        }
    }

    /// Takes the changes of one job that may be sent at `now`.
    pub fn pop(&mut self, now: Instant) -> Option<Conflated> {
        while self.held.first().is_some_and(|(time, _)| *time <= now) {
            self.release_first();
        }
        self.pop_ready()
    }

    /// Takes the changes of one job, held back or not.
    pub fn pop_any(&mut self) -> Option<Conflated> {
        if self.ready.is_empty() {
            self.release_first();
        }
        self.pop_ready()
    }

    fn release_first(&mut self) {
        if let Some((_, id)) = self.held.pop_first() {
            if let Some((_, held)) = self.changes.get_mut(&id) {
                *held = None;
            }
            self.ready.push_back(id);
        }
    }

    fn pop_ready(&mut self) -> Option<Conflated> {
        let (changes, _) = self.changes.remove(&self.ready.pop_front()?)?;
        self.firsts.remove(&changes.first);
        Some(changes)
    }

    /// Whether nothing can be sent before [`next_ready`](Self::next_ready).
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// When something that is held back may be sent.
    pub fn next_ready(&self) -> Option<Instant> {
        self.held.first().map(|(time, _)| *time)
    }

    /// The place of the oldest commit that waits.
    pub fn oldest(&self) -> Option<u64> {
        self.firsts.first().copied()
    }
}
