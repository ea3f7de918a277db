//! The use cases: what callers can do, put together from the state machine, a store and the watch hub.
//!
//! Whoever calls does so through [`Tracker::on_behalf_of`], and so meets the jobs of its owners and no others.
//!
//! A change is read, applied, and stored by compare and set; where another came first, it is applied again to what is
//! there now. So racing callers each see the rules hold, and none is lost.

mod calls;
mod metrics;
mod purge;
mod quota;
mod sweep;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

pub use calls::{Calls, Lookup};
pub use purge::{Purge, Purged};

use self::{metrics::JobMetrics, quota::QuotaLooks, sweep::Sweeper};
use crate::{
    clock::Clock,
    domain::{
        Applied, Change, ChangeContext, ChangeId, Due, Identity, Ignored, Job, JobError, Liveness, Rejected, Retention,
        Subject, Timeouts, Timestamp,
    },
    limits::Limits,
    store::{Decided, JobStore, Replaced, StorageMode, StoreError, StoreStats, Stored},
    telemetry::metrics::{Measured, Metrics},
    watch::Hub,
};

/// Tracks jobs.
pub struct Tracker {
    store: Arc<dyn JobStore>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    retention: Retention,
    process: u64,
    changes: AtomicU64,
    sweeper: Sweeper,
    metrics: JobMetrics,
    started: Instant,
    limits: Arc<Limits>,
    quota_looks: QuotaLooks,
    timeouts: Timeouts,
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
    /// Bytes of requests and answers in memory.
    pub call_bytes: usize,
    /// How long it has been there.
    pub uptime: Duration,
}

/// A job after a change.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The job as stored.
    pub stored: Stored,
    /// The effect of the change.
    pub effect: Effect,
    /// Whether the change stored a version.
    pub(crate) is_stored: bool,
}

/// The effect of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The change was applied.
    Applied,
    /// The job was already as the change would make it.
    None,
    /// The report was ignored; it may have renewed the lease.
    Ignored(Ignored),
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
            sweeper: Sweeper::default(),
            metrics: JobMetrics::default(),
            started: Instant::now(),
            limits: Arc::default(),
            quota_looks: QuotaLooks::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// The same, with `timeouts` for jobs that name none.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Returns the limits for jobs that name none.
    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// The same, within `limits`.
    pub fn within(self, limits: Arc<Limits>) -> Self {
        Self { limits, ..self }
    }

    /// How much callers may use.
    pub const fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Now, on the clock that changes are dated by.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// What `caller` can do.
    pub const fn on_behalf_of<'a>(&'a self, caller: &'a Identity) -> Calls<'a> {
        Calls { tracker: self, caller }
    }

    /// Where jobs are kept at the moment, and each change of that.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.store.mode()
    }

    /// How this tracker is.
    pub async fn stats(&self) -> Result<TrackerStats, JobError> {
        let store = self.store.stats().await?;
        let mode = *self.store.mode().borrow();
        let (watchers, call_bytes) = (self.hub.watchers(), self.limits.call_bytes());
        Ok(TrackerStats { mode, store, watchers, call_bytes, uptime: self.started.elapsed() })
    }

    /// Applies `change` to `stored` and stores what comes of it. The inner error is what another caller stored instead.
    async fn try_change(&self, stored: Stored, change: &Change) -> Result<Result<Changed, Option<Stored>>, JobError> {
        let job = &stored.job;
        let (next, effect) = match job.apply(change, &self.moment()) {
            Ok(Applied::Changed(next)) => (Some(next), Effect::Applied),
            Ok(Applied::ChangedIfLost(next)) => return self.replace_lost(stored, next).await,
            Ok(Applied::Unchanged) => (None, Effect::None),
            Ok(Applied::Ignored { why, renewed }) => (renewed, Effect::Ignored(why)),
            Err(reason) => return Err(JobError::Rejected(Subject::from(&**job), reason)),
        };
        let Some(next) = next else { return Ok(Ok(Changed { stored, effect, is_stored: false })) };
        Ok(match self.replace(Arc::from(next), Some(job)).await? {
            Replaced::Stored(stored) => Ok(Changed { stored, effect, is_stored: true }),
            Replaced::Conflict(current) => Err(current),
        })
    }

    /// Stores the next attempt in the place of a job whose worker seems lost, if no replica can have heard that worker.
    async fn replace_lost(&self, lost: Stored, next: Box<Job>) -> Result<Result<Changed, Option<Stored>>, JobError> {
        let running = || JobError::Rejected(Subject::from(&*lost.job), Rejected::AttemptRunning);
        let deadline = lost.job.silence_deadline().ok_or_else(running)?;
        match self.decide(next, &lost.job, deadline, false).await? {
            Decided::Stored(stored) => Ok(Ok(Changed { stored, effect: Effect::Applied, is_stored: true })),
            Decided::Conflict => Ok(Err(self.store.get(&lost.job.id).await?)),
            Decided::Deferred => Err(running()),
        }
    }

    /// Ends a job whose cancellation is requested, if its worker is lost: nobody else will.
    async fn end_if_lost(&self, changed: Changed) -> Result<Changed, JobError> {
        let job = &changed.stored.job;
        if job.state.is_terminal() || job.cancel.is_none() || job.liveness(self.now()) != Liveness::Lost {
            return Ok(changed);
        }
        // Otherwise the sweeper does it.
        Ok(match self.decide_due(&changed.stored, Due::LoseWorker).await? {
            Decided::Stored(stored) => Changed { stored, ..changed },
            Decided::Conflict | Decided::Deferred => changed,
        })
    }

    /// Stores `job` in the place of `previous`, counts that, and sees to what time will bring about.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let replaced = self.store.replace(job, previous).await.inspect_err(|error| {
            if let StoreError::Full(limit) = error {
                self.limits.refused(*limit);
            }
        })?;
        if let Replaced::Stored(stored) = &replaced {
            self.metrics.stored(previous, &stored.job);
            self.plan_sweep(&stored.job);
        }
        Ok(replaced)
    }

    /// What was just read, where a job whose time is over has become a tombstone.
    async fn settle(&self, mut current: Option<Stored>) -> Result<Option<Stored>, JobError> {
        loop {
            match current {
                Some(stored) if stored.job.removal.is_none() && !stored.job.is_visible(self.now()) => {
                    match self.try_change(stored, &Change::Expire).await? {
                        Ok(changed) => return Ok(Some(changed.stored)),
                        Err(conflict) => current = conflict,
                    }
                }
                settled => return Ok(settled),
            }
        }
    }

    fn moment(&self) -> ChangeContext {
        let change_id = ChangeId { process: self.process, counter: self.changes.fetch_add(1, Relaxed) };
        ChangeContext { now: self.now(), change_id, retention: self.retention }
    }
}

impl Measured for Tracker {
    fn metrics(&self) -> Metrics {
        self.metrics.metrics()
    }
}

impl From<StoreError> for JobError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Full(limit) => Self::Exhausted(limit),
            StoreError::Unavailable | StoreError::ReadOnly => Self::StoreUnavailable,
            StoreError::Corrupt(id) => Self::Corrupt(id),
        }
    }
}
