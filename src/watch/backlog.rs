//! Changes that a stream of many jobs has taken from its subscription and not sent yet.

use std::collections::{BTreeSet, HashMap, VecDeque};

use tokio::time::Instant;

use super::CoalescedChanges;
use crate::{domain::JobId, store::CommitPosition};

/// Maximum size of the waiting changes, in bytes. Beyond it, changes are sent before their time.
const MAX_BYTES: usize = 32 * 1024 * 1024;

/// Changes that wait to be sent: one entry for each job, in the order of arrival. Some are delayed until a given time.
#[derive(Default)]
pub struct Backlog {
    /// Changes of each job, with the time until which they are delayed.
    changes: HashMap<JobId, (CoalescedChanges, Option<Instant>)>,
    ready: VecDeque<JobId>,
    delayed: BTreeSet<(Instant, JobId)>,
    /// Position of the oldest waiting commit of each job.
    firsts: BTreeSet<CommitPosition>,
    /// Size of all changes.
    bytes: usize,
}

impl Backlog {
    /// Adds changes that may be sent at `ready_at`, or at once.
    pub fn push(&mut self, changes: CoalescedChanges, ready_at: Option<Instant>) {
        let id = changes.latest().id.clone();
        if let Some((waiting, delayed_until)) = self.changes.get_mut(&id) {
            self.bytes -= waiting.size();
            waiting.append(changes);
            self.bytes += waiting.size();
            if let (Some(time), None) = (*delayed_until, ready_at) {
                *delayed_until = None;
                self.delayed.remove(&(time, id.clone()));
                self.ready.push_back(id);
            }
            return;
        }
        self.bytes += changes.size();
        self.firsts.insert(changes.first);
        self.changes.insert(id.clone(), (changes, ready_at));
        match ready_at {
            Some(time) => _ = self.delayed.insert((time, id)),
            None => self.ready.push_back(id),
        }
    }

    /// Takes the changes of one job that may be sent at `now`; those of any job if the backlog exceeds its maximum
    /// size.
    pub fn pop(&mut self, now: Instant) -> Option<CoalescedChanges> {
        if self.bytes > MAX_BYTES {
            return self.pop_any();
        }
        while self.delayed.first().is_some_and(|(time, _)| *time <= now) {
            self.release_first();
        }
        self.pop_ready()
    }

    /// Takes the changes of one job, delayed or not.
    pub fn pop_any(&mut self) -> Option<CoalescedChanges> {
        if self.ready.is_empty() {
            self.release_first();
        }
        self.pop_ready()
    }

    fn release_first(&mut self) {
        if let Some((_, id)) = self.delayed.pop_first() {
            if let Some((_, delayed_until)) = self.changes.get_mut(&id) {
                *delayed_until = None;
            }
            self.ready.push_back(id);
        }
    }

    fn pop_ready(&mut self) -> Option<CoalescedChanges> {
        let (changes, _) = self.changes.remove(&self.ready.pop_front()?)?;
        self.firsts.remove(&changes.first);
        self.bytes -= changes.size();
        debug_assert!(self.bytes == 0 || !self.changes.is_empty(), "sizes are counted once");
        Some(changes)
    }

    /// Returns whether nothing can be sent before [`next_ready`](Self::next_ready).
    pub fn is_idle(&self) -> bool {
        self.ready.is_empty()
    }

    /// Returns the time when the next delayed change may be sent.
    pub fn next_ready(&self) -> Option<Instant> {
        self.delayed.first().map(|(time, _)| *time)
    }

    /// Returns the position of the oldest waiting commit.
    pub fn oldest(&self) -> Option<CommitPosition> {
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

    /// Returns changes of a job of about a megabyte.
    fn large(position: u64) -> CoalescedChanges {
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
        CoalescedChanges::new(CommitEvent { stored, position, previous: None, replaced: None })
    }

    #[test]
    fn changes_beyond_the_maximum_size_are_sent_early() {
        let now = Instant::now();
        let later = Some(now + Duration::from_secs(3600));
        let mut backlog = Backlog::default();
        for position in 1..=40 {
            backlog.push(large(position), later);
        }
        let sent: Vec<_> = std::iter::from_fn(|| backlog.pop(now)).map(|changes| changes.first).collect();
        assert_eq!(sent.len(), 9, "changes up to the maximum size stay delayed");
        assert_eq!(std::iter::from_fn(|| backlog.pop_any()).count(), 31);
        assert_eq!(backlog.bytes, 0);
    }
}
