//! Changes of jobs: where each is sent, and what follows from the answer.
//!
//! At most one change of a job is under way at a time. Otherwise a change could be accepted here that was made from an
//! old version, while the primary stores the next one. If a change ends without an outcome, because its caller has left
//! or a decision has no answer, its entry is marked as unanswered: then a merge may discard one change of this replica
//! in favour of another change of the same replica, and must report that.

use std::{mem::forget, sync::Arc};

use super::{
    FallbackStore,
    cache::{LocalCache, Route},
    entries::CacheEntry,
};
use crate::{
    domain::{Job, JobId},
    store::{Decided, Decision, JobStore, Replaced, StoreError, Stored, fallback::FreshnessToken},
};

/// A guard of a change that was sent to the primary. When dropped without an outcome, it marks the entry of the job as
/// unanswered.
struct Sent<'a> {
    cache: &'a LocalCache,
    id: &'a JobId,
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.cache.mark_unanswered(self.id);
    }
}

impl FallbackStore {
    /// Implements [`JobStore::replace`].
    pub(super) async fn replace_in_turn(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let (_turn, has_waited) = self.changes.claim_when_free(&job.id).await;
        if has_waited
            && let Some(fresh) = self.cache.get_fresh(&job.id)
            && Some(fresh.job.version) != previous.map(|previous| previous.version)
        {
            return Ok(Replaced::Conflict(Some(fresh)));
        }
        match self.cache.route_write(&job) {
            Route::Primary(token) => self.replace_at_primary(job, previous, token).await,
            Route::Dirty => self.replace_dirty(job, previous).await,
            Route::Local => self.accept_local(job, previous).await,
        }
    }

    /// Implements [`JobStore::decide`].
    pub(super) async fn decide_in_turn(
        &self,
        job: Arc<Job>,
        previous: &Job,
        decision: Decision,
    ) -> Result<Decided, StoreError> {
        let (_turn, _) = self.changes.claim_when_free(&job.id).await;
        match self.cache.route_write(&job) {
            Route::Primary(_) if !self.cache.is_unavailable(self.cache.partition_of(&job.id)) => {
                let sent = Sent { cache: &self.cache, id: &previous.id };
                match self.primary.decide(job, previous, decision).await {
                    // The answer is of a lineage that has ended, so it counts as no answer.
                    Ok(Decided::Stored(stored)) if !self.cache.confirm_write(&stored.job, None) => {
                        Err(StoreError::Unavailable)
                    }
                    Err(StoreError::Unavailable) => {
                        self.suspect(Some(&previous.id));
                        Err(StoreError::Unavailable)
                    }
                    outcome => {
                        forget(sent);
                        outcome
                    }
                }
            }
            Route::Local if self.cache.decides(previous, &decision.deadline) => {
                Ok(match self.cache.accept(job, Some(previous), false)? {
                    Replaced::Stored(stored) => Decided::Stored(stored),
                    Replaced::Conflict(_) => Decided::Conflict,
                })
            }
            Route::Primary(_) | Route::Dirty | Route::Local => Ok(Decided::Deferred),
        }
    }

    /// Handles a change that can't be sent to the primary.
    async fn accept_local(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        // If the primary can still be read, it is asked before a job is created under an id that is not cached.
        if previous.is_none()
            && self.cache.entry(&job.id).is_none()
            && let Route::Primary(_) = self.cache.route_read(&job.id)
        {
            match self.primary.get(&job.id).await {
                Ok(Some(there)) => {
                    self.cache.learn(&there);
                    let is_ours = there.job.version == job.version;
                    return Ok(if is_ours { Replaced::Stored(there) } else { Replaced::Conflict(Some(there)) });
                }
                Err(error @ StoreError::Corrupt(_)) => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        self.accept(job, previous, false)
    }

    /// Handles a change of a job that is dirty although the primary serves. The accepted version is pushed first:
    /// otherwise it would not reach the primary as long as further changes arrive.
    async fn replace_dirty(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        if self.pusher.push_one(&job.id).await.is_err() {
            self.suspect(Some(&job.id));
        }
        match self.cache.route_write(&job) {
            Route::Primary(token) => {
                let current = self.cache.entry(&job.id).map(|entry| entry.job);
                if current.as_ref().map(|current| current.version) != previous.map(|previous| previous.version) {
                    return Ok(Replaced::Conflict(self.get(&job.id).await?));
                }
                self.replace_at_primary(job, previous, token).await
            }
            Route::Dirty | Route::Local => self.accept(job, previous, false),
        }
    }

    async fn replace_at_primary(
        &self,
        job: Arc<Job>,
        previous: Option<&Job>,
        token: Option<FreshnessToken>,
    ) -> Result<Replaced, StoreError> {
        // A primary that has lost the record of a cached job would accept another job under its id.
        let is_cached = |entry: CacheEntry| entry.job.removal.is_none();
        if previous.is_none()
            && self.cache.entry(&job.id).is_some_and(is_cached)
            && let Some(there) = self.get(&job.id).await?
        {
            return Ok(Replaced::Conflict(Some(there)));
        }
        let sent = Sent { cache: &self.cache, id: &job.id };
        let outcome = self.primary.replace(job.clone(), previous).await;
        let outcome = self.conclude(job.clone(), previous, outcome, token).await;
        if outcome.is_ok() {
            forget(sent);
        }
        outcome
    }

    /// Handles the outcome of a change at the primary.
    async fn conclude(
        &self,
        job: Arc<Job>,
        previous: Option<&Job>,
        outcome: Result<Replaced, StoreError>,
        token: Option<FreshnessToken>,
    ) -> Result<Replaced, StoreError> {
        match outcome {
            Ok(Replaced::Stored(stored)) if self.cache.confirm_write(&stored.job, token) => {
                Ok(Replaced::Stored(stored))
            }
            // The answer is of a lineage that has ended, so it counts as no answer.
            Ok(Replaced::Stored(_)) => self.accept(job, previous, true),
            Ok(Replaced::Conflict(Some(there))) => {
                self.cache.learn(&there);
                Ok(Replaced::Conflict(Some(there)))
            }
            Ok(Replaced::Conflict(None)) => Ok(Replaced::Conflict(self.handle_missing_record(&job.id, token))),
            // A later push shows whether the write was executed.
            Err(StoreError::Unavailable) => {
                let accepted = self.accept(job.clone(), previous, true);
                self.suspect(Some(&job.id));
                accepted
            }
            Err(StoreError::ReadOnly) => {
                self.cache.set_unavailable(self.cache.partition_of(&job.id), true);
                self.accept_local(job, previous).await
            }
            Err(error) => Err(error),
        }
    }

    /// Returns the answer for `id` after the primary reported that it has no record. `since` was taken before the
    /// primary was asked. If the record was lost, the answer is the cached version, which is then pushed again.
    pub(super) fn handle_missing_record(&self, id: &JobId, since: Option<FreshnessToken>) -> Option<Stored> {
        let lost = self.cache.mark_record_lost(id, since)?;
        tracing::warn!(job_id = %id, "Redis has lost the record of this job; the cached version is stored again");
        Some(lost)
    }
}
