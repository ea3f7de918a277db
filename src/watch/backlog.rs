//! What a stream of many jobs has taken from its subscription and not sent yet.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::Conflated;
use crate::domain::JobId;

/// Maximum size of the changes that wait, in bytes. More is sent before its time.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Changes that wait to be sent: of each job once, first come first served, some held back for a time.
#[derive(Default)]
pub struct Backlog {
    /// With the time until which they are held back.
    changes: HashMap<JobId, (Conflated, Option<Instant>)>,
    ready: VecDeque<JobId>,
    held: BTreeSet<(Instant, JobId)>,
    /// The place of each one's first commit.
    firsts: BTreeSet<u64>,
    /// Size of all changes.
    bytes: usize,
}

impl Backlog {
    /// Adds changes that may be sent at `ready_at`, or at once.
    pub fn push(&mut self, changes: Conflated, ready_at: Option<Instant>) {
        let id = changes.latest().id.clone();
        if let Some((waiting, held)) = self.changes.get_mut(&id) {
            self.bytes -= waiting.size();
            waiting.append(changes);
            self.bytes += waiting.size();
            if let (Some(time), None) = (*held, ready_at) {
                *held = None;
                self.held.remove(&(time, id.clone()));
                self.ready.push_back(id);
            }
            return;
        }
        self.bytes += changes.size();
        self.firsts.insert(changes.first);
        self.changes.insert(id.clone(), (changes, ready_at));
        match ready_at {
            Some(time) => _ = self.held.insert((time, id)),
            None => self.ready.push_back(id),
        }
    }

    /// Takes the changes of one job that may be sent at `now`, or of any one if too much waits.
    pub fn pop(&mut self, now: Instant) -> Option<Conflated> {
        if self.bytes > MAX_BYTES {
            return self.pop_any();
        }
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
        self.bytes -= changes.size();
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

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use uuid::Uuid;

    use super::*;
    use crate::{
        domain::{ChangeContext, ChangeId, Job, NewJob, Retention, Timestamp},
        store::{CommitEvent, Durability, Source, Stored},
    };

    /// Changes of a job of about a megabyte.
    fn large(position: u64) -> Conflated {
        let none = Duration::ZERO;
        let context = ChangeContext {
            now: Timestamp::from_micros(1),
            change_id: ChangeId { process: 1, counter: position },
            retention: Retention { succeeded: none, failed: none, cancelled: none, active: none },
        };
        let metadata = serde_json::from_value(serde_json::json!({ "text": "x".repeat(1024 * 1024) })).ok();
        let id = JobId::from(Uuid::new_v4());
        let job = Job::create(id, NewJob { metadata, ..NewJob::default() }, None, Uuid::new_v4(), &context);
        let stored = Stored { job: Arc::new(job), durability: Durability::Volatile, source: Source::Memory };
        Conflated::new(CommitEvent { stored, position, previous: None })
    }

    #[test]
    fn too_much_is_not_held_back() {
        let now = Instant::now();
        let later = Some(now + Duration::from_secs(3600));
        let mut backlog = Backlog::default();
        for position in 1..=40 {
            backlog.push(large(position), later);
        }
        let sent: Vec<_> = std::iter::from_fn(|| backlog.pop(now)).map(|changes| changes.first).collect();
        assert_eq!(sent.len(), 9, "as much waits as may");
        assert_eq!(std::iter::from_fn(|| backlog.pop_any()).count(), 31);
        assert_eq!(backlog.bytes, 0);
    }
}
