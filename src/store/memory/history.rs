//! The order of commits: what changed since, and what the state was then.

use std::{
    collections::{BTreeMap, VecDeque},
    ops::Bound,
    sync::Arc,
};

use crate::domain::{Job, State, TOMBSTONE_LIFE};

/// How many tombstones are kept whose ids were used again.
const MAX_BURIED: usize = 10_000;

/// The newest commit of each life of a job, by its place in the order of commits.
#[derive(Debug, Default)]
pub struct Log {
    entries: BTreeMap<u64, Entry>,
    /// The place of the last commit.
    position: u64,
    /// The newest commit that has left no trace: what changed since an earlier one can't be told.
    horizon: u64,
    /// Tombstones whose ids were used again, in the order in which that happened.
    buried: VecDeque<u64>,
}

/// A version that was entered.
#[derive(Debug)]
pub struct Logged {
    /// Its place.
    pub position: u64,
    /// The version.
    pub job: Arc<Job>,
    /// The state that its life was in at the place that was asked about; `None` before its creation.
    pub previous: Option<State>,
}

/// A version, and where its life came to which state.
#[derive(Clone, Debug)]
struct Entry {
    job: Arc<Job>,
    created: u64,
    started: Option<u64>,
    ended: Option<u64>,
}

impl Entry {
    /// The state of this life at a place; `None` before its creation.
    fn state_at(&self, position: u64) -> Option<State> {
        let by = |place: Option<u64>| place.is_some_and(|place| place <= position);
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
    /// The place of the last commit.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Enters `job`, which replaced what was entered at `old`. Returns its place.
    pub fn append(&mut self, job: &Arc<Job>, old: Option<u64>) -> u64 {
        self.position += 1;
        let position = self.position;
        let before = old.and_then(|old| self.entries.get(&old)).cloned();
        let life = before.filter(|before| before.job.version.incarnation_id == job.version.incarnation_id);
        if let Some(old) = old {
            if life.is_some() {
                self.entries.remove(&old);
            } else {
                self.buried.push_back(old);
            }
        }
        let mut entry = life.unwrap_or(Entry { job: job.clone(), created: position, started: None, ended: None });
        if job.state == State::Running {
            entry.started.get_or_insert(position);
        } else if job.state.is_terminal() {
            entry.ended.get_or_insert(position);
        }
        entry.job = job.clone();
        self.entries.insert(position, entry);
        self.clear_buried(job);
        position
    }

    /// Leaves no trace of what was entered at `position`.
    pub fn forget(&mut self, position: u64) {
        self.entries.remove(&position);
        self.horizon = self.horizon.max(position);
    }

    /// Up to `limit` versions entered after `after`, with their states at
    /// `since`, which is not later. `None` where this can't be told.
    pub fn since(&self, since: u64, after: u64, limit: usize) -> Option<Vec<Logged>> {
        if since < self.horizon || after > self.position {
            return None;
        }
        let later = self.entries.range((Bound::Excluded(after), Bound::Unbounded)).take(limit);
        let logged = |(place, entry): (&u64, &Entry)| Logged {
            position: *place,
            job: entry.job.clone(),
            previous: entry.state_at(since),
        };
        Some(later.map(logged).collect())
    }

    fn clear_buried(&mut self, latest: &Job) {
        while let Some(oldest) = self.buried.front() {
            let tombstone = self.entries.get(oldest);
            let over = tombstone.is_none_or(|entry| entry.job.update_time + TOMBSTONE_LIFE < latest.update_time);
            if !over && self.buried.len() <= MAX_BURIED {
                return;
            }
            if let Some(oldest) = self.buried.pop_front() {
                self.forget(oldest);
            }
        }
    }
}
