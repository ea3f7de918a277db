//! The use cases: what callers can do, put together from the state machine, a store and the watch hub.
//!
//! A change is read, applied, and stored by compare and set; where another came first, it is applied again to what is
//! there now. So racing callers each see the rules hold, and none is lost.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::join_all, stream};
use tokio::{
    sync::{Notify, watch},
    task::yield_now,
    time::{Instant, sleep, timeout},
};
use tracing::debug;
use uuid::Uuid;

use crate::{
    clock::Clock,
    domain::{
        Applied, Change, Due, Filter, Job, JobError, JobId, Limit, ListQuery, MAX_PAGE, Moment, NewJob, Retention,
        Stamp, Subject, Timestamp,
    },
    store::{DueRecord, JobStore, Page, Replaced, StorageMode, StoreError, StoreStats, Stored},
    watch::{Hub, JobWatch, JobsWatch, Pace, Scope},
};

/// How long a read waits for the revision it was asked for.
const REVISION_WAIT: Duration = Duration::from_secs(1);

/// How many due records are handled at a time.
const SWEEP_BATCH: usize = 100;

/// How many of them are handled side by side; each may be large.
const AT_ONCE: usize = 4;

/// The longest that the sweeper sleeps: bounds what a stepped clock or another replica's change can delay.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The least time between two sweeps: what comes due meanwhile is handled together.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// Tracks jobs.
pub struct Tracker {
    store: Arc<dyn JobStore>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    process: u64,
    changes: AtomicU64,
    sweeper: Sweeper,
    started: Instant,
}

/// How a tracker is.
#[derive(Clone, Debug)]
pub struct TrackerStats {
    /// Where jobs are kept at the moment.
    pub mode: StorageMode,
    /// Its store.
    pub store: StoreStats,
    /// Open watches.
    pub watchers: usize,
    /// How long it has been there.
    pub uptime: Duration,
}

/// When the sweeper means to wake, so that a change that is due sooner can wake it.
struct Sweeper {
    /// Microseconds; the latest time while it is at work.
    planned: AtomicI64,
    sooner: Notify,
}

impl Tracker {
    /// A tracker of what `store` keeps. `hub` must be what the store announces to.
    pub fn new(store: Arc<dyn JobStore>, hub: Arc<Hub>, clock: Arc<dyn Clock>, retention: Retention) -> Self {
        Self {
            store,
            hub,
            clock,
            retention,
            process: Uuid::new_v4().as_u64_pair().0,
            changes: AtomicU64::new(0),
            sweeper: Sweeper { planned: AtomicI64::new(i64::MAX), sooner: Notify::new() },
            started: Instant::now(),
        }
    }

    /// Now, on the clock that changes are dated by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Creates a job, or returns the one that the same request made. Says whether it was created.
    pub async fn create(&self, new: NewJob) -> Result<(Stored, bool), JobError> {
        let derived = || new.request_id.as_ref().map(|request_id| JobId::derived(&new.owner, request_id));
        let id = new.id.clone().or_else(derived).unwrap_or_else(|| JobId::from(Uuid::now_v7()));
        // Mostly there is none; if there is, the store says so.
        let mut current: Option<Stored> = None;
        loop {
            let previous = current.as_ref().map(|stored| &*stored.job);
            let job = Job::create(id.clone(), new.clone(), previous, Uuid::new_v4(), &self.moment());
            let there = match self.store.replace(Arc::new(job), previous).await? {
                Replaced::Stored(stored) => {
                    self.plan_sweep(&stored.job);
                    return Ok((stored, true));
                }
                Replaced::Conflict(there) => there,
            };
            current = self.settle(there).await?;
            if let Some(existing) = current.as_ref().filter(|stored| stored.job.removal.is_none()) {
                let job = &existing.job;
                if new.request_id.is_some() && new.request_id == job.request_id {
                    return Ok((existing.clone(), false));
                }
                return Err(JobError::Exists(Subject::from(&**job)));
            }
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
        let subscription = self.hub.subscribe(vec![id.clone()], Filter::default());
        let reached = timeout(REVISION_WAIT, async {
            loop {
                newest = self.visible(id).await?;
                if newest.job.version.revision >= wanted {
                    return Ok(());
                }
                subscription.arrived().await;
            }
        });
        if let Ok(result) = reached.await {
            return result.map(|()| newest);
        }
        Err(JobError::RevisionNotReached(Subject::from(&*newest.job), wanted))
    }

    /// The jobs among `ids` that exist, and the ids of the others, both in the order given.
    pub async fn batch_get(&self, ids: Vec<JobId>) -> Result<(Vec<Stored>, Vec<JobId>), JobError> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for outcome in join_all(ids.iter().map(|id| self.get(id, None))).await {
            match outcome {
                Ok(stored) => found.push(stored),
                Err(JobError::NotFound(id)) => missing.push(id),
                Err(error) => return Err(error),
            }
        }
        Ok((found, missing))
    }

    /// A page of the jobs that a query selects.
    pub async fn list(&self, query: &ListQuery) -> Result<Page, JobError> {
        Ok(self.store.list(query).await?)
    }

    /// Makes a change. Returns the job as stored, and whether the change had anything to do.
    pub async fn change(&self, id: &JobId, change: &Change) -> Result<(Stored, bool), JobError> {
        let mut current = match self.recent(id) {
            Some(recent) => match self.try_change(recent, change).await {
                Ok(Ok((stored, true))) => return Ok((stored, true)),
                Ok(Err(conflict)) => conflict,
                // It may be a moment behind: what does not fit it may fit what is there.
                Ok(Ok((_, false))) | Err(JobError::Rejected(..)) => self.store.get(id).await?,
                Err(error) => return Err(error),
            },
            None => self.store.get(id).await?,
        };
        loop {
            let Some(stored) = current.filter(|stored| stored.job.is_visible(self.now())) else {
                return Err(JobError::NotFound(id.clone()));
            };
            match self.try_change(stored, change).await? {
                Ok(done) => return Ok(done),
                Err(conflict) => current = conflict,
            }
        }
    }

    /// Deletes ended jobs that `filter` selects and that ended by `ended_by`. Returns how many.
    pub async fn purge(&self, filter: Filter, ended_by: Option<Timestamp>, dry_run: bool) -> Result<u64, JobError> {
        let mut query = ListQuery { filter, limit: MAX_PAGE, after: None, now: self.now() };
        let mut purged = 0;
        loop {
            let page = self.store.list(&query).await?;
            for stored in page.jobs {
                if !matches!(stored.job.end_time, Some(end) if ended_by.is_none_or(|time| end <= time)) {
                    continue;
                }
                // What was changed since it was listed is no longer what was asked for.
                let gone = dry_run
                    || match self.try_change(stored, &Change::Delete { force: false }).await {
                        Err(JobError::Corrupt(_)) => false,
                        outcome => outcome?.is_ok(),
                    };
                purged += u64::from(gone);
            }
            // A store that answers at once would never let a deadline end this, nor others have their turn.
            yield_now().await;
            query.after = page.next;
            if query.after.is_none() {
                return Ok(purged);
            }
        }
    }

    /// Watches a job, from `resume_token` on or from now.
    pub async fn watch_job(&self, id: &JobId, resume_token: &str, pace: Pace) -> Result<JobWatch, JobError> {
        let subscription = self.hub.subscribe(vec![id.clone()], Filter::default()).as_watcher();
        let current = self.settled(id).await?;
        JobWatch::start(subscription, self.store.epoch(), id, current, resume_token, pace)
    }

    /// Watches the jobs of a scope, from `resume_token` on or from now.
    pub fn watch_jobs(&self, scope: Scope, resume_token: &str, pace: Pace) -> JobsWatch {
        let subscription = self.hub.subscribe(scope.ids.iter().cloned().collect(), scope.filter.clone()).as_watcher();
        JobsWatch::start(self.store.clone(), self.clock.clone(), subscription, scope, resume_token, pace)
    }

    /// Where jobs are kept at the moment, and each change of that.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.store.mode()
    }

    /// How this tracker is.
    pub async fn stats(&self) -> Result<TrackerStats, JobError> {
        let store = self.store.stats().await?;
        let mode = *self.store.mode().borrow();
        Ok(TrackerStats { mode, store, watchers: self.hub.watchers(), uptime: self.started.elapsed() })
    }

    /// Carries out what time brings about, for ever: lost leases, expiries, forgotten tombstones.
    pub async fn sweep(&self) {
        let mut mode = self.store.mode();
        loop {
            self.sweeper.planned.store(i64::MAX, Relaxed);
            let next = self.sweep_due().await.unwrap_or_else(|error| {
                // That the store is away, it says itself.
                debug!(%error, "the sweep failed and will be tried again");
                None
            });
            let next = next.unwrap_or(Timestamp::MAX);
            let planned = self.sweeper.planned.fetch_min(next.as_micros(), Relaxed).min(next.as_micros());
            sleep(SWEEP_PAUSE).await;
            let wait = Timestamp::from_micros(planned).since(self.now()).min(SWEEP_INTERVAL);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.sweeper.sooner.notified() => {}
                // What could not be carried out meanwhile is due.
                Ok(()) = mode.changed() => {}
            }
        }
    }

    /// Carries out what is due now. Returns when something will be due next.
    pub async fn sweep_due(&self) -> Result<Option<Timestamp>, JobError> {
        loop {
            let batch = self.store.due(self.now(), SWEEP_BATCH).await?;
            let (mut handled, mut failure) = (0, None);
            let mut outcomes =
                stream::iter(batch.records).map(|record| self.carry_out(record)).buffer_unordered(AT_ONCE);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Ok(()) => handled += 1,
                    // It must not keep the others from their turn.
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure.filter(|error| !matches!(error, JobError::Corrupt(_))) {
                return Err(error);
            }
            if handled == 0 {
                return Ok(batch.next);
            }
            yield_now().await;
        }
    }

    /// Carries out what is due for a record.
    async fn carry_out(&self, record: DueRecord) -> Result<(), JobError> {
        let DueRecord { stored, due } = record;
        debug!(job_id = %stored.job.id, ?due, "due");
        match due {
            Due::Forget => self.store.delete(&stored.job).await.map_err(JobError::from),
            // On a conflict it is no longer due, or comes again.
            Due::LoseWorker => self.try_change(stored, &Change::LoseWorker).await.map(drop),
            Due::Expire => self.try_change(stored, &Change::Expire).await.map(drop),
        }
    }

    /// Applies `change` to `stored` and stores what comes of it. The inner error is what another caller stored instead.
    async fn try_change(
        &self,
        stored: Stored,
        change: &Change,
    ) -> Result<Result<(Stored, bool), Option<Stored>>, JobError> {
        let job = &stored.job;
        let next = match job.apply(change, &self.moment()) {
            Ok(Applied::Changed(next)) => next,
            Ok(Applied::Unchanged) => return Ok(Ok((stored, false))),
            Err(reason) => return Err(JobError::Rejected(Subject::from(&**job), reason)),
        };
        Ok(match self.store.replace(Arc::from(next), Some(job)).await? {
            Replaced::Stored(stored) => {
                self.plan_sweep(&stored.job);
                Ok((stored, true))
            }
            Replaced::Conflict(current) => Err(current),
        })
    }

    /// What is there for `id`, where a job whose time is over has become a tombstone.
    async fn settled(&self, id: &JobId) -> Result<Option<Stored>, JobError> {
        self.settle(self.store.get(id).await?).await
    }

    /// The same of what was just read.
    async fn settle(&self, mut current: Option<Stored>) -> Result<Option<Stored>, JobError> {
        loop {
            match current {
                Some(stored) if stored.job.removal.is_none() && !stored.job.is_visible(self.now()) => {
                    match self.try_change(stored, &Change::Expire).await? {
                        Ok((stored, _)) => return Ok(Some(stored)),
                        Err(conflict) => current = conflict,
                    }
                }
                settled => return Ok(settled),
            }
        }
    }

    /// A version that is at most a moment behind, if one is at hand.
    fn recent(&self, id: &JobId) -> Option<Stored> {
        self.store.recent(id).filter(|stored| stored.job.is_visible(self.now()))
    }

    /// A job as it is now.
    async fn visible(&self, id: &JobId) -> Result<Stored, JobError> {
        let stored = self.store.get(id).await?.filter(|stored| stored.job.is_visible(self.now()));
        stored.ok_or_else(|| JobError::NotFound(id.clone()))
    }

    fn moment(&self) -> Moment {
        let stamp = Stamp { process: self.process, counter: self.changes.fetch_add(1, Relaxed) };
        Moment { now: self.now(), stamp, retention: self.retention }
    }

    fn plan_sweep(&self, job: &Job) {
        if let Some((time, _)) = job.next_due() {
            let due = time.as_micros();
            if self.sweeper.planned.fetch_min(due, Relaxed) > due {
                self.sweeper.sooner.notify_one();
            }
        }
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(limit) => Self::Exhausted(Limit::Memory(limit)),
            StoreError::Unavailable | StoreError::ReadOnly => Self::StoreUnavailable,
            StoreError::Corrupt(id) => Self::Corrupt(id),
        }
    }
}
