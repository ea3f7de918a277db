//! The finished jobs of each owner, in the order in which they are evicted.

use std::{collections::BTreeSet, sync::Arc};

use ahash::HashMap;

use crate::domain::{Job, JobId, Timestamp};

/// Finished jobs by owner. The owner whose finished jobs use the most memory loses its oldest one first, so that no
/// owner's jobs displace those of an owner that uses less.
#[derive(Debug, Default)]
pub struct Finished {
    shares: HashMap<Arc<str>, Share>,
    by_size: BTreeSet<(usize, Arc<str>)>,
}

/// The finished jobs of one owner.
#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    jobs: BTreeSet<(Timestamp, JobId)>,
}

impl Finished {
    /// Adds a job, if it has ended.
    pub fn insert(&mut self, job: &Job) {
        let Some(entry) = entry(job) else { return };
        self.change(job, |share| {
            share.jobs.insert(entry);
            share.bytes += job.size();
        });
    }

    /// Removes a job, if it has ended.
    pub fn remove(&mut self, job: &Job) {
        let Some(entry) = entry(job) else { return };
        self.change(job, |share| {
            let was_there = share.jobs.remove(&entry);
            debug_assert!(was_there, "each finished job is in the share of its owner");
            share.bytes -= job.size();
        });
    }

    fn change(&mut self, job: &Job, change: impl FnOnce(&mut Share)) {
        let owner = match self.shares.get_key_value(job.owner.as_str()) {
            Some((owner, share)) => {
                self.by_size.remove(&(share.bytes, owner.clone()));
                owner.clone()
            }
            None => job.owner.as_str().into(),
        };
        let share = self.shares.entry(owner.clone()).or_default();
        change(share);
        if share.jobs.is_empty() {
            self.shares.remove(&owner);
        } else {
            self.by_size.insert((share.bytes, owner));
        }
    }

    /// Returns up to `each` finished jobs of each owner, in the order of eviction.
    pub fn iter(&self, each: usize) -> impl Iterator<Item = &JobId> {
        let shares = self.by_size.iter().rev().filter_map(|(_, owner)| self.shares.get(owner));
        shares.flat_map(move |share| share.jobs.iter().take(each).map(|(_, id)| id))
    }
}

fn entry(job: &Job) -> Option<(Timestamp, JobId)> {
    job.end_time.map(|time| (time, job.id.clone()))
}
