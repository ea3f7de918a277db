//! The use cases, as one caller sees them. Jobs of owners that the caller may not see are reported as not found.

use std::{sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, TryStreamExt, stream};
use tokio::time::timeout;
use uuid::Uuid;

use super::{
    Changed, Tracker, TrackerStats, TryChange,
    quota::ScanStart,
    reports::{Position, ReportOutcome},
};
use crate::{
    domain::{
        Change, Filter, Identity, Job, JobError, JobId, Limit, ListQuery, MAX_PAGE, MAX_PAGE_BYTES, Needed, NewJob,
        Order, Owners, SharedJobs, Subject, View,
    },
    store::{Page, Replaced, Stored},
    watch::{JobToken, JobWatch, JobsWatch, Pace, Scope},
};

/// Maximum time for which a read waits for the requested revision.
const REVISION_TIMEOUT: Duration = Duration::from_secs(1);

/// Number of concurrent reads of a batch; few, because each job may have a size of a megabyte.
const READ_AHEAD: usize = 8;

/// The result of looking up an id.
#[derive(Clone, Debug)]
pub enum Lookup {
    /// The job exists.
    Found(Stored),
    /// There is no such job.
    Missing(JobId),
}

/// The outcome of creating a job.
#[derive(Clone, Debug)]
pub enum CreateOutcome {
    /// The job was created.
    Created(Stored),
    /// The same request created the job before.
    Existing(Stored),
}

impl CreateOutcome {
    /// Returns the job, created now or before.
    pub fn into_stored(self) -> Stored {
        let (Self::Created(stored) | Self::Existing(stored)) = self;
        stored
    }
}

/// The tracker as one caller sees it: only jobs of the caller's owners exist.
#[derive(Clone, Copy)]
pub struct CallerSession<'a> {
    pub(super) tracker: &'a Tracker,
    pub(super) caller: &'a Identity,
}

impl<'a> CallerSession<'a> {
    /// Creates a job, or returns the job that the same request created before.
    pub async fn create(&self, new: NewJob) -> Result<CreateOutcome, JobError> {
        if !self.caller.owners.include(&new.owner) {
            return Err(JobError::PermissionDenied(Needed::Owner(new.owner)));
        }
        let derived = || new.request_id.as_ref().map(|request_id| JobId::derived(&new.owner, request_id));
        let id = new.id.clone().or_else(derived).unwrap_or_else(|| JobId::from(Uuid::now_v7()));
        let exceeded = self.exceeded_limit(&new.owner).await?;
        // Assumes that the id is free, which saves a read: if it is not, storing the job ends in a conflict. For an
        // owner at its limit the record is read first, because a repeated request is still answered with the job that
        // it created.
        let mut current = match exceeded {
            Some(_) => self.tracker.expire_if_due(self.tracker.store.get(&id).await?).await?,
            None => None,
        };
        loop {
            if let Some(existing) = current.as_ref().filter(|stored| stored.job.removal.is_none()) {
                let job = &existing.job;
                if !self.caller.owners.include(&job.owner) {
                    return Err(JobError::Taken(id));
                }
                if new.request_id.is_some() && new.request_id == job.request_id {
                    return Ok(CreateOutcome::Existing(existing.clone()));
                }
                return Err(JobError::Exists(Subject::from(&**job)));
            }
            if let Some(limit) = exceeded {
                return Err(JobError::Exhausted(self.tracker.quotas.refused(limit)));
            }
            let previous = current.as_ref().map(|stored| &*stored.job);
            let job = Job::create(id.clone(), new.clone(), previous, Uuid::new_v4(), &self.tracker.change_context());
            current = match self.tracker.replace(Arc::new(job), previous).await? {
                Replaced::Stored(stored) => return Ok(CreateOutcome::Created(stored)),
                Replaced::Conflict(current) => self.tracker.expire_if_due(current).await?,
            };
        }
    }

    /// Returns the current version of a job. With `min_revision`, waits until the job has that revision or a higher
    /// one, and fails if this takes too long.
    pub async fn get(&self, id: &JobId, min_revision: Option<i64>) -> Result<Stored, JobError> {
        self.caller.may_name(id)?;
        let stored = match self.get_fresh(id) {
            Some(fresh) => fresh,
            None => self.visible(id).await?,
        };
        let Some(wanted) = min_revision.filter(|wanted| *wanted > stored.job.version.revision) else {
            return Ok(stored);
        };
        let mut newest = stored;
        let subscription = self.tracker.hub.subscribe(vec![id.clone()], Filter::default());
        let reached = timeout(REVISION_TIMEOUT, async {
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

    /// Returns a stream of the jobs of `ids`, in their order, which reads only a few jobs ahead.
    pub fn batch_get(self, ids: Vec<JobId>) -> impl Stream<Item = Result<Lookup, JobError>> + use<'a> {
        let look_up = move |id: JobId| async move {
            match self.get(&id, None).await {
                Ok(stored) => Ok(Lookup::Found(stored)),
                Err(JobError::NotFound(id)) => Ok(Lookup::Missing(id)),
                Err(error) => Err(error),
            }
        };
        stream::iter(ids).map(look_up).buffered(READ_AHEAD)
    }

    /// Returns the jobs that a watch token for `ids` shares: the present incarnations of these ids.
    pub async fn share(self, ids: Vec<JobId>, view: View) -> Result<SharedJobs, JobError> {
        let incarnations = self.batch_get(ids).map(|looked_up| match looked_up? {
            Lookup::Found(stored) => Ok((stored.job.id.clone(), SharedJobs::incarnation(&stored.job))),
            Lookup::Missing(id) => Err(JobError::NotFound(id)),
        });
        Ok(SharedJobs { incarnations: incarnations.try_collect().await?, view })
    }

    /// Returns a page of the jobs that a query selects.
    pub async fn list(&self, query: &ListQuery) -> Result<Page, JobError> {
        let store = &self.tracker.store;
        let page = match &self.caller.owners {
            Owners::All => store.list(query).await,
            Owners::Only(_) => {
                let filter = self.restrict(query.filter.clone());
                store.list(&ListQuery { filter, confined: true, ..query.clone() }).await
            }
        };
        Ok(page?)
    }

    /// Applies a change to a job.
    pub async fn change(&self, id: &JobId, change: &Change) -> Result<Changed, JobError> {
        let changed = self.apply(id, change).await?;
        if let Change::Cancel { .. } = change { self.tracker.end_if_lost(changed).await } else { Ok(changed) }
    }

    async fn apply(&self, id: &JobId, change: &Change) -> Result<Changed, JobError> {
        if !matches!(change, Change::Report(_)) || !self.tracker.store.is_remote() {
            return self.apply_alone(id, change).await;
        }
        let may_change = |job: &Job| job.is_visible(self.tracker.now()) && self.caller.can_see(job);
        loop {
            match self.tracker.reports.join(id, change, self.get_fresh(id), may_change) {
                Some(Position::First(storing)) => {
                    let changed = self.apply_alone(id, change).await?;
                    storing.record(&changed.stored);
                    return Ok(changed);
                }
                Some(Position::Waiting(outcome)) => match outcome.await {
                    Ok(outcome) => return self.reported(outcome),
                    Err(_) => return self.apply_alone(id, change).await,
                },
                Some(Position::BeforeKnown(known)) => {
                    if known.await.is_err() {
                        return self.apply_alone(id, change).await;
                    }
                }
                None => return self.apply_alone(id, change).await,
            }
        }
    }

    /// Returns the outcome of a report that was stored with others. Plans the sweep of the job and counts a refusal, as
    /// [`Tracker::replace`] does for a change that is stored alone.
    fn reported(&self, outcome: ReportOutcome) -> ReportOutcome {
        match &outcome {
            Ok(changed) => self.tracker.plan_sweep(&changed.stored.job),
            Err(JobError::Exhausted(limit)) => _ = self.tracker.quotas.refused(*limit),
            Err(_) => {}
        }
        outcome
    }

    async fn apply_alone(&self, id: &JobId, change: &Change) -> Result<Changed, JobError> {
        let mut current = match self.get_fresh(id) {
            Some(fresh) => match self.tracker.try_change(fresh, change).await {
                Ok(TryChange::Changed(changed)) => return Ok(changed),
                Ok(TryChange::Conflict(current)) => self.of_caller(id, current).await?,
                // This outcome is not final, because a fresh version may be a moment behind the current one.
                Ok(TryChange::Unchanged(_)) | Err(JobError::Rejected(..)) => self.read(id).await?,
                Err(error) => return Err(error),
            },
            None => self.read(id).await?,
        };
        loop {
            let Some(stored) = current.filter(|stored| stored.job.is_visible(self.tracker.now())) else {
                return Err(JobError::NotFound(id.clone()));
            };
            match self.tracker.try_change(stored, change).await? {
                TryChange::Changed(done) | TryChange::Unchanged(done) => return Ok(done),
                TryChange::Conflict(conflict) => current = self.of_caller(id, conflict).await?,
            }
        }
    }

    /// Watches a job from `resume_token` on; without a token, from now.
    pub async fn watch_job(&self, id: &JobId, resume_token: &str, pace: Pace) -> Result<JobWatch, JobError> {
        self.caller.may_name(id)?;
        let subscription = self.tracker.hub.subscribe(vec![id.clone()], Filter::default()).as_watcher();
        // The subscription began before this read, so that no change is missed between the two.
        let current = match self.fresh_for(id, resume_token) {
            Some(fresh) => Some(fresh),
            None => self.tracker.expire_if_due(self.read(id).await?).await?,
        };
        let current = self.of_caller(id, current).await?;
        JobWatch::start(subscription, self.tracker.store.epoch(), self.caller, id, current, resume_token, pace)
    }

    /// Returns the scope that a caller asks for. For the holder of a watch token, an empty list of ids stands for all
    /// jobs of the token, and the id of another job is an error.
    pub fn confine(&self, mut scope: Scope) -> Result<Scope, JobError> {
        scope.ids.iter().try_for_each(|id| self.caller.may_name(id))?;
        if let Some(shared) = self.caller.shared.as_ref().filter(|_| scope.ids.is_empty()) {
            scope.ids = shared.incarnations.keys().cloned().collect();
        }
        Ok(scope)
    }

    /// Watches the jobs of a scope from `resume_token` on; without a token, from now.
    pub fn watch_jobs(&self, scope: Scope, resume_token: &str, pace: Pace) -> JobsWatch {
        let Tracker { store, hub, clock, .. } = self.tracker;
        let owners = self.caller.owners.clone();
        let shared = self.caller.shared.clone();
        debug_assert!(shared.is_none() || !scope.ids.is_empty(), "the scope is confined");
        let scope = Scope { filter: self.restrict(scope.filter), owners, shared, ..scope };
        let digest = scope.digest(self.caller);
        let subscription = hub.subscribe(scope.ids.iter().cloned().collect(), scope.filter.clone()).as_watcher();
        JobsWatch::start(store.clone(), clock.clone(), subscription, scope, digest, resume_token, pace)
    }

    /// Returns the statistics of the tracker. Only callers that may see all owners may read them, because they count
    /// the jobs of all owners.
    pub async fn stats(&self) -> Result<TrackerStats, JobError> {
        if self.caller.owners != Owners::All {
            return Err(JobError::PermissionDenied(Needed::AllOwners));
        }
        let (stats, registration) = tokio::join!(self.tracker.stats(), self.tracker.store.registration());
        let mut stats = stats?;
        (stats.store.replicas, stats.store.held_back) = registration;
        Ok(stats)
    }

    /// Restricts a filter to jobs that the caller may see.
    fn restrict(&self, filter: Filter) -> Filter {
        Filter { owners: filter.owners.and(&self.caller.owners), ..filter }
    }

    /// Returns the limit of jobs per owner, if `owner` has reached it.
    ///
    /// The count may include records that have vanished from the store, because their index entries remain until a list
    /// reads them. Therefore a part of the list of an owner at its limit is read, at a limited rate.
    async fn exceeded_limit(&self, owner: &str) -> Result<Option<Limit>, JobError> {
        let max = self.tracker.quotas.jobs_per_owner().filter(|_| !owner.is_empty());
        let Some(max) = max else { return Ok(None) };
        let store = &self.tracker.store;
        if store.count_of_owner(owner).await? < max as u64 {
            return Ok(None);
        }
        let exceeded = Some(Limit::JobsPerOwner(max));
        let scans = &self.tracker.quota_scans;
        let Some(ScanStart(after)) = scans.begin(owner) else { return Ok(exceeded) };
        let owners = Owners::Only([owner.to_owned()].into());
        let filter = Filter { owners, ..Filter::default() };
        let (now, view) = (self.tracker.now(), View::Basic);
        let order = Order::Newest;
        let (limit, max_bytes) = (MAX_PAGE, MAX_PAGE_BYTES);
        let page = store.list(&ListQuery { filter, order, limit, max_bytes, after, now, confined: true, view }).await?;
        scans.end(owner, page.next);
        let jobs = store.count_of_owner(owner).await?;
        Ok(exceeded.filter(|_| jobs >= max as u64))
    }

    /// Returns the version in the memory of this process, if it is at most a second behind the current one and the
    /// caller can see it.
    fn get_fresh(&self, id: &JobId) -> Option<Stored> {
        let fresh = self.tracker.store.get_fresh(id)?;
        let is_visible = fresh.job.is_visible(self.tracker.now()) && self.caller.can_see(&fresh.job);
        is_visible.then_some(fresh)
    }

    /// Returns a fresh version for the start of a stream, unless it is older than the token: a resumed stream must not
    /// return to an earlier revision. The subscription delivers later versions.
    fn fresh_for(&self, id: &JobId, resume_token: &str) -> Option<Stored> {
        let sent = JobToken::decode(resume_token).map_or(0, |token| token.revision);
        self.get_fresh(id).filter(|fresh| sent <= fresh.job.version.revision)
    }

    /// Returns the current version of a job.
    async fn visible(&self, id: &JobId) -> Result<Stored, JobError> {
        let stored = self.read(id).await?.filter(|stored| stored.job.is_visible(self.tracker.now()));
        stored.ok_or_else(|| JobError::NotFound(id.clone()))
    }

    /// Reads the record of `id`, which may be a tombstone.
    async fn read(&self, id: &JobId) -> Result<Option<Stored>, JobError> {
        self.of_caller(id, self.tracker.store.get(id).await?).await
    }

    /// Returns a record of `id` unchanged, or an error if the caller may not see it: the same error as for a missing
    /// job.
    async fn of_caller(&self, id: &JobId, found: Option<Stored>) -> Result<Option<Stored>, JobError> {
        match found {
            Some(stored) if !self.caller.can_see(&stored.job) => {
                // While the store can't confirm that a job is missing, a hidden job must not be reported as missing
                // either: otherwise the caller could distinguish the two.
                self.tracker.store.confirm_absence(&stored).await?;
                Err(JobError::NotFound(id.clone()))
            }
            found => Ok(found),
        }
    }
}
