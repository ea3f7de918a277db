//! The log of commits, which returns the jobs that changed after a position, with their states at that position.

use std::{
    collections::{BTreeMap, VecDeque},
    num::NonZeroU64,
    ops::Bound,
    sync::Arc,
};

use crate::domain::{Job, State, TOMBSTONE_LIFE};

/// Maximum number of tombstones kept after the reuse of their ids.
const MAX_BURIED: usize = 10_000;

/// The newest commit of each incarnation of a job, by its position in the order of commits.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<u64, Entry>,
    /// Position of the last commit.
    position: u64,
    /// Position of the newest commit that was dropped from the log. Changes since an earlier position are no longer
    /// known completely.
    horizon: u64,
    /// Positions of tombstones whose ids were reused, in the order of reuse. They are no longer in the table.
    reused: VecDeque<u64>,
}

/// A version in the log.
#[derive(Debug)]
pub struct Logged {
    /// Position of its commit.
    pub position: u64,
    /// The version.
    pub job: Arc<Job>,
    /// State of its incarnation at the requested position; `None` before its creation.
    pub previous: Option<State>,
}

/// A version, and the positions at which its incarnation was created, first became RUNNING, and ended. The first
/// position is 1.
#[derive(Clone, Debug)]
struct Entry {
    job: Arc<Job>,
    created: u64,
    started: Option<NonZeroU64>,
    ended: Option<NonZeroU64>,
}

impl Entry {
    /// Returns the state of this incarnation at a position; `None` before its creation. A job that was between two
    /// attempts at that position counts as RUNNING, because the log does not record retries.
    fn state_at(&self, position: u64) -> Option<State> {
        let by = |entered: Option<NonZeroU64>| entered.is_some_and(|entered| entered.get() <= position);
        if self.created > position {
            None
        } else if by(self.ended) {
            Some(self.job.state)
        } else if by(self.started) {
            Some(State::Running)
        } else {
            Some(State::Pending)
        }
    }
}

impl Log {
    /// Returns the position of the last commit.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Returns the number of versions that are the newest of their id.
    pub fn current_len(&self) -> usize {
        self.entries.len() - self.reused.len()
    }

    /// Appends `job`, which replaced the version at position `old`. Returns its position.
    pub fn append(&mut self, job: &Arc<Job>, old: Option<u64>) -> u64 {
        debug_assert!(old.is_none_or(|old| old <= self.position), "positions only rise");
        self.position += 1;
        let position = self.position;
        let before = old.and_then(|old| self.entries.get(&old)).cloned();
        let incarnation = before.filter(|before| before.job.version.incarnation_id == job.version.incarnation_id);
        if let Some(old) = old {
            if incarnation.is_some() {
                self.entries.remove(&old);
            } else {
                self.reused.push_back(old);
            }
        }
        let mut entry =
            incarnation.unwrap_or(Entry { job: job.clone(), created: position, started: None, ended: None });
        if job.state == State::Running {
            entry.started = entry.started.or(NonZeroU64::new(position));
        } else if job.state.is_terminal() {
            entry.ended = entry.ended.or(NonZeroU64::new(position));
        }
        entry.job = job.clone();
        self.entries.insert(position, entry);
        self.clear_buried(job);
        position
    }

    /// Forgets the version at `position`.
    pub fn forget(&mut self, position: u64) {
        self.entries.remove(&position);
        self.horizon = self.horizon.max(position);
    }

    /// Returns up to `limit` versions committed after the position `after`, with their states at the position `since`,
    /// which must not be later than `after`; `None` if the changes since then are no longer known. The result ends with
    /// the version that brings its size to `max_bytes`.
    pub fn since(&self, since: u64, after: u64, limit: usize, max_bytes: usize) -> Option<Vec<Logged>> {
        if since < self.horizon || after > self.position {
            return None;
        }
        let mut bytes = 0;
        let later =
            self.entries.range((Bound::Excluded(after), Bound::Unbounded)).take(limit).take_while(|(_, entry)| {
                let is_room = bytes < max_bytes;
                bytes += entry.job.size();
                is_room
            });
        let logged = |(position, entry): (&u64, &Entry)| Logged {
            position: *position,
            job: entry.job.clone(),
            previous: entry.state_at(since),
        };
        Some(later.map(logged).collect())
    }

    fn clear_buried(&mut self, latest: &Job) {
        while let Some(oldest) = self.reused.front() {
            let tombstone = self.entries.get(oldest);
            let over = tombstone.is_none_or(|entry| entry.job.update_time + TOMBSTONE_LIFE < latest.update_time);
            if !over && self.reused.len() <= MAX_BURIED {
                return;
            }
            if let Some(oldest) = self.reused.pop_front() {
                self.forget(oldest);
            }
        }
    }
}
