//! Jobs of which a change or a push is under way.

use std::{
    collections::HashSet,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;

use crate::domain::JobId;

/// A set of jobs, each of which at most one task has claimed.
#[derive(Default)]
pub struct BusyJobs {
    ids: Mutex<HashSet<JobId>>,
    ended: Notify,
}

/// A guard of claimed jobs, which other tasks can claim after it is dropped.
pub struct Claim<'a> {
    jobs: &'a BusyJobs,
    ids: Vec<JobId>,
}

impl BusyJobs {
    fn ids(&self) -> MutexGuard<'_, HashSet<JobId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Claims those of `ids` that no other task has claimed. The claim has them in the same order.
    pub fn claim<'a>(&self, ids: impl Iterator<Item = &'a JobId>) -> Claim<'_> {
        let mut claimed = self.ids();
        let free = ids.filter(|id| !claimed.contains(*id) && claimed.insert((*id).clone()));
        Claim { jobs: self, ids: free.cloned().collect() }
    }

    /// Claims a job as soon as no other task has claimed it; in no particular order if several tasks wait. Returns
    /// whether it had to wait, too.
    pub async fn claim_when_free(&self, id: &JobId) -> (Claim<'_>, bool) {
        let mut has_waited = false;
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            let claim = self.claim([id].into_iter());
            if claim.has(id) {
                return (claim, has_waited);
            }
            has_waited = true;
            ended.await;
        }
    }

    /// Waits until no task has claimed `id`.
    pub async fn wait(&self, id: &JobId) {
        loop {
            let ended = self.ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if !self.ids().contains(id) {
                return;
            }
            ended.await;
        }
    }
}

impl Claim<'_> {
    /// Returns the claimed jobs.
    pub fn ids(&self) -> impl Iterator<Item = &JobId> {
        self.ids.iter()
    }

    /// Returns whether the claim has this job.
    pub fn has(&self, id: &JobId) -> bool {
        self.ids.contains(id)
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.ids.is_empty() {
            return;
        }
        let mut ids = self.jobs.ids();
        self.ids.iter().for_each(|id| _ = ids.remove(id));
        drop(ids);
        self.jobs.ended.notify_waiters();
    }
}
