//! What a caller can do. A job that is not the caller's is met here with what is said of one that is not there.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::time::timeout;
use uuid::Uuid;

use super::{Changed, Tracker, TrackerStats, quota::Place};
use crate::{
    domain::{
        Change, Filter, Identity, Job, JobError, JobId, Limit, ListQuery, MAX_PAGE, MAX_PAGE_BYTES, Needed, NewJob,
        Order, Owners, Subject, View,
    },
    store::{Page, Replaced, Stored},
    watch::{JobToken, JobWatch, JobsWatch, Pace, Scope},
};

/// How long a read waits for the revision it was asked for.
const REVISION_WAIT: Duration = Duration::from_secs(1);

/// How many jobs of many are read at a time: each may have a megabyte.
const READ_AHEAD: usize = 8;

/// What was found for an id.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The job.
    Found(Stored),
    /// There is no such job.
    Missing(JobId),
}

/// The use cases, as one caller has them: only the jobs of its owners exist for it.
#[derive(Clone, Copy)]
pub struct Calls<'a> {
    pub(super) tracker: &'a Tracker,
    pub(super) caller: &'a Identity,
}

impl<'a> Calls<'a> {
    /// Creates a job, or returns the one that the same request made. Says whether it was created.
    pub async fn create(&self, new: NewJob) -> Result<(Stored, bool), JobError> {
        if !self.caller.owners.include(&new.owner) {
            return Err(JobError::PermissionDenied(Needed::Owner(new.owner)));
        }
        let derived = || new.request_id.as_ref().map(|request_id| JobId::derived(&new.owner, request_id));
        let id = new.id.clone().or_else(derived).unwrap_or_else(|| JobId::from(Uuid::now_v7()));
        let full = self.full(&new.owner).await?;
        // Mostly there is none; if there is, the store says so when one is to be stored.
        let mut current = match full {
            Some(_) => self.tracker.settle(self.tracker.store.get(&id).await?).await?,
            None => None,
        };
        loop {
            if let Some(existing) = current.as_ref().filter(|stored| stored.job.removal.is_none()) {
                let job = &existing.job;
                if !self.caller.owners.include(&job.owner) {
                    return Err(JobError::Taken(id));
                }
                if new.request_id.is_some() && new.request_id == job.request_id {
                    return Ok((existing.clone(), false));
                }
                return Err(JobError::Exists(Subject::from(&**job)));
            }
            if let Some(limit) = full {
                return Err(JobError::Exhausted(self.tracker.limits.refused(limit)));
            }
            let previous = current.as_ref().map(|stored| &*stored.job);
            let job = Job::create(id.clone(), new.clone(), previous, Uuid::new_v4(), &self.tracker.moment());
            current = match self.tracker.replace(Arc::new(job), previous).await? {
                Replaced::Stored(stored) => return Ok((stored, true)),
                Replaced::Conflict(there) => self.tracker.settle(there).await?,
            };
        }
    }

    /// A job as it is now, at `min_revision` or later if that is given.
    pub async fn get(&self, id: &JobId, min_revision: Option<i64>) -> Result<Stored, JobError> {
        let stored = match self.recent(id) {
            Some(recent) => recent,
            None => self.visible(id).await?,
        };
        let Some(wanted) = min_revision.filter(|wanted| *wanted > stored.job.version.revision) else {
            return Ok(stored);
        };
        let mut newest = stored;
        let subscription = self.tracker.hub.subscribe(vec![id.clone()], Filter::default());
        let reached = timeout(REVISION_WAIT, async {
            loop {
                newest = self.visible(id).await?;
                if newest.job.version.revision >= wanted {
                    return Ok(());
                }
                subscription.arrived().await;
                drop(subscription.take());
            }
        });
        if let Ok(result) = reached.await {
            return result.map(|()| newest);
        }
        Err(JobError::RevisionNotReached(Subject::from(&*newest.job), wanted))
    }

    /// Reads the jobs of `ids`, in their order. Whoever drops the stream has read no more than a few ahead.
    pub fn batch_get(self, ids: Vec<JobId>) -> impl Stream<Item = Result<Lookup, JobError>> + use<'a> {
        let look = move |id: JobId| async move {
            match self.get(&id, None).await {
                Ok(stored) => Ok(Lookup::Found(stored)),
                Err(JobError::NotFound(id)) => Ok(Lookup::Missing(id)),
                Err(error) => Err(error),
            }
        };
        stream::iter(ids).map(look).buffered(READ_AHEAD)
    }

    /// A page of the jobs that a query selects.
    pub async fn list(&self, query: &ListQuery) -> Result<Page, JobError> {
        let store = &self.tracker.store;
        let page = match &self.caller.owners {
            Owners::All => store.list(query).await,
            Owners::Only(_) => {
                let filter = self.limited(query.filter.clone());
                store.list(&ListQuery { filter, confined: true, ..query.clone() }).await
            }
        };
        Ok(page?)
    }

    /// Makes a change. Returns the job as stored, and the effect of the change.
    pub async fn change(&self, id: &JobId, change: &Change) -> Result<Changed, JobError> {
        let changed = self.apply(id, change).await?;
        if let Change::Cancel { .. } = change { self.tracker.end_if_lost(changed).await } else { Ok(changed) }
    }

    async fn apply(&self, id: &JobId, change: &Change) -> Result<Changed, JobError> {
        let mut current = match self.recent(id) {
            Some(recent) => match self.tracker.try_change(recent, change).await {
                Ok(Ok(changed)) if changed.is_stored => return Ok(changed),
                Ok(Err(conflict)) => self.own(id, conflict).await?,
                // It may be a moment behind: what does not fit it may fit what is there.
                Ok(Ok(_)) | Err(JobError::Rejected(..)) => self.found(id).await?,
                Err(error) => return Err(error),
            },
            None => self.found(id).await?,
        };
        loop {
            let Some(stored) = current.filter(|stored| stored.job.is_visible(self.tracker.now())) else {
                return Err(JobError::NotFound(id.clone()));
            };
            match self.tracker.try_change(stored, change).await? {
                Ok(done) => return Ok(done),
                Err(conflict) => current = self.own(id, conflict).await?,
            }
        }
    }

    /// Watches a job, from `resume_token` on or from now.
    pub async fn watch_job(&self, id: &JobId, resume_token: &str, pace: Pace) -> Result<JobWatch, JobError> {
        let subscription = self.tracker.hub.subscribe(vec![id.clone()], Filter::default()).as_watcher();
        let current = match self.fresh_for(id, resume_token) {
            Some(fresh) => Some(fresh),
            None => self.tracker.settle(self.found(id).await?).await?,
        };
        let current = self.own(id, current).await?;
        JobWatch::start(subscription, self.tracker.store.epoch(), self.caller, id, current, resume_token, pace)
    }

    /// Watches the jobs of a scope, from `resume_token` on or from now.
    pub fn watch_jobs(&self, scope: Scope, resume_token: &str, pace: Pace) -> JobsWatch {
        let Tracker { store, hub, clock, .. } = self.tracker;
        let owners = self.caller.owners.clone();
        let scope = Scope { filter: self.limited(scope.filter), owners, ..scope };
        let digest = scope.digest(self.caller);
        let subscription = hub.subscribe(scope.ids.iter().cloned().collect(), scope.filter.clone()).as_watcher();
        JobsWatch::start(store.clone(), clock.clone(), subscription, scope, digest, resume_token, pace)
    }

    /// How the tracker is, which tells of the jobs of all owners.
    pub async fn stats(&self) -> Result<TrackerStats, JobError> {
        if self.caller.owners != Owners::All {
            return Err(JobError::PermissionDenied(Needed::AllOwners));
        }
        let (stats, registration) = tokio::join!(self.tracker.stats(), self.tracker.store.registration());
        let mut stats = stats?;
        (stats.store.replicas, stats.store.held_back) = registration;
        Ok(stats)
    }

    /// The same filter, for what is the caller's.
    fn limited(&self, filter: Filter) -> Filter {
        Filter { owners: filter.owners.and(&self.caller.owners), ..filter }
    }

    /// The limit of jobs that `owner` has come to, if there is one.
    async fn full(&self, owner: &str) -> Result<Option<Limit>, JobError> {
        let limit = self.tracker.limits.jobs_per_owner().filter(|_| !owner.is_empty());
        let Some(most) = limit else { return Ok(None) };
        let store = &self.tracker.store;
        if store.count_of_owner(owner).await? < most as u64 {
            return Ok(None);
        }
        let refused = Some(Limit::JobsPerOwner(most));
        let looks = &self.tracker.quota_looks;
        let Some(Place(after)) = looks.begin(owner) else { return Ok(refused) };
        let owners = Owners::Only([owner.to_owned()].into());
        let filter = Filter { owners, ..Filter::default() };
        let (now, view) = (self.tracker.now(), View::Basic);
        let order = Order::Newest;
        let (limit, max_bytes) = (MAX_PAGE, MAX_PAGE_BYTES);
        let page = store.list(&ListQuery { filter, order, limit, max_bytes, after, now, confined: true, view }).await?;
        looks.end(owner, page.next);
        let jobs = store.count_of_owner(owner).await?;
        Ok(refused.filter(|_| jobs >= most as u64))
    }

    /// A version that is at most a moment behind, if one is at hand.
    fn recent(&self, id: &JobId) -> Option<Stored> {
        let recent = self.tracker.store.get_fresh(id)?;
        let is_there = recent.job.is_visible(self.tracker.now()) && self.caller.owners.include(&recent.job.owner);
        is_there.then_some(recent)
    }

    /// A version for a stream to begin with, if one is at hand that is no older than what the stream has sent: what came
    /// since will be announced.
    fn fresh_for(&self, id: &JobId, resume_token: &str) -> Option<Stored> {
        let sent = JobToken::decode(resume_token).map_or(0, |token| token.revision);
        self.recent(id).filter(|fresh| sent <= fresh.job.version.revision)
    }

    /// A job as it is now.
    async fn visible(&self, id: &JobId) -> Result<Stored, JobError> {
        let stored = self.found(id).await?.filter(|stored| stored.job.is_visible(self.tracker.now()));
        stored.ok_or_else(|| JobError::NotFound(id.clone()))
    }

    /// What the store has for `id`, a tombstone too.
    async fn found(&self, id: &JobId) -> Result<Option<Stored>, JobError> {
        self.own(id, self.tracker.store.get(id).await?).await
    }

    /// What was found for `id`, if it is the caller's.
    async fn own(&self, id: &JobId, found: Option<Stored>) -> Result<Option<Stored>, JobError> {
        match found {
            Some(stored) if !self.caller.owners.include(&stored.job.owner) => {
                self.tracker.store.absence(&stored).await?;
                Err(JobError::NotFound(id.clone()))
            }
            own => Ok(own),
        }
    }
}
