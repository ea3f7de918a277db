//! The use cases, composed of the state machine, a store and the watch hub.
//!
//! Callers act through [`Tracker::on_behalf_of`], which shows them the jobs of their owners only.
//!
//! For each change, the tracker reads the current version, applies the change to it, and stores the result with compare
//! and set. If another change was stored in between, the tracker applies the change again, to the version that is
//! current then. Therefore each stored change was checked against the version that it replaces, and no change
//! overwrites another.

mod metrics;
mod purge;
mod quota;
mod reports;
mod session;
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

pub use purge::{Purge, Purged};
pub use session::{CallerSession, CreateOutcome, Lookup};

use self::{metrics::JobMetrics, quota::QuotaScans, reports::ReportQueues, sweep::SweepSchedule};
use crate::{
    clock::Clock,
    domain::{
        Applied, Change, ChangeContext, ChangeId, Due, Identity, Ignored, Job, JobError, Liveness, Rejected, Retention,
        Subject, Timeouts, Timestamp,
    },
    quota::Quotas,
    store::{Decided, JobStore, Replaced, StorageMode, StoreError, StoreStats, Stored},
    telemetry::metrics::{Measured, Metrics},
    watch::Hub,
};

/// Tracks the jobs of a store.
pub struct Tracker {
    store: Arc<dyn JobStore>,
    hub: Arc<Hub>,
    clock: Arc<dyn Clock>,
    contexts: Arc<ChangeContexts>,
    sweep_schedule: SweepSchedule,
    metrics: JobMetrics,
    started: Instant,
    quotas: Arc<Quotas>,
    quota_scans: QuotaScans,
    timeouts: Timeouts,
    reports: Arc<ReportQueues>,
}

/// Statistics of a tracker.
#[derive(Clone, Debug)]
pub struct TrackerStats {
    /// Current storage mode.
    pub mode: StorageMode,
    /// Statistics of the store.
    pub store: StoreStats,
    /// Number of open watches.
    pub watchers: usize,
    /// Size of the requests and answers in memory, in bytes.
    pub call_bytes: usize,
    /// Time since the start.
    pub uptime: Duration,
}

/// A job after a change.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The job as stored.
    pub stored: Stored,
    /// The effect of the change.
    pub effect: Effect,
}

/// The outcome of an attempt to change a job.
#[derive(Clone, Debug)]
enum TryChange {
    /// A version was stored.
    Changed(Changed),
    /// The change needed no new version.
    Unchanged(Changed),
    /// Another change was stored first. Contains the current version, if there is one.
    Conflict(Option<Stored>),
}

/// The effect of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The change was applied.
    Applied,
    /// The job was already in the requested condition.
    None,
    /// The report was ignored; it may have renewed the lease.
    Ignored(Ignored),
}

impl Tracker {
    /// Creates a tracker of the jobs in `store`. `hub` must be the listener of the store.
    pub fn new(store: Arc<dyn JobStore>, hub: Arc<Hub>, clock: Arc<dyn Clock>, retention: Retention) -> Self {
        let process = Uuid::new_v4().as_u64_pair().0;
        let contexts = ChangeContexts { clock: clock.clone(), retention, process, changes: AtomicU64::new(0) };
        let contexts = Arc::new(contexts);
        Self {
            reports: Arc::new(ReportQueues::new(store.clone(), contexts.clone())),
            store,
            hub,
            clock,
            contexts,
            sweep_schedule: SweepSchedule::default(),
            metrics: JobMetrics::default(),
            started: Instant::now(),
            quotas: Arc::default(),
            quota_scans: QuotaScans::default(),
            timeouts: Timeouts::default(),
        }
    }

    /// Sets the timeouts of jobs that name none.
    pub fn with_timeouts(self, timeouts: Timeouts) -> Self {
        Self { timeouts, ..self }
    }

    /// Returns the timeouts of jobs that name none.
    pub const fn timeouts(&self) -> Timeouts {
        self.timeouts
    }

    /// Sets the quotas of callers.
    pub fn within(self, quotas: Arc<Quotas>) -> Self {
        Self { quotas, ..self }
    }

    /// Returns the quotas of callers.
    pub const fn quotas(&self) -> &Arc<Quotas> {
        &self.quotas
    }

    /// Returns the current time on the clock that dates changes.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Returns the tracker as `caller` sees it.
    pub const fn on_behalf_of<'a>(&'a self, caller: &'a Identity) -> CallerSession<'a> {
        CallerSession { tracker: self, caller }
    }

    /// Returns a receiver of the storage mode and of its changes.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.store.mode()
    }

    /// Returns the statistics of the tracker.
    pub async fn stats(&self) -> Result<TrackerStats, JobError> {
        let store = self.store.stats().await?;
        let mode = *self.store.mode().borrow();
        let (watchers, call_bytes) = (self.hub.watchers(), self.quotas.call_bytes());
        Ok(TrackerStats { mode, store, watchers, call_bytes, uptime: self.started.elapsed() })
    }

    /// Applies `change` to `stored`, and stores the result if `stored` is still the current version.
    async fn try_change(&self, stored: Stored, change: &Change) -> Result<TryChange, JobError> {
        let job = &stored.job;
        let (next, effect) = match job.apply(change, &self.change_context()) {
            Ok(Applied::Changed(next)) => (Some(next), Effect::Applied),
            Ok(Applied::ChangedIfLost(next)) => return self.replace_lost(stored, next).await,
            Ok(Applied::Unchanged) => (None, Effect::None),
            Ok(Applied::Ignored { why, renewed }) => (renewed, Effect::Ignored(why)),
            Err(reason) => return Err(JobError::Rejected(Subject::from(&**job), reason)),
        };
        let Some(next) = next else { return Ok(TryChange::Unchanged(Changed { stored, effect })) };
        Ok(match self.replace(Arc::from(next), Some(job)).await? {
            Replaced::Stored(stored) => TryChange::Changed(Changed { stored, effect }),
            Replaced::Conflict(current) => TryChange::Conflict(current),
        })
    }

    /// Stores `next`, which begins another attempt because the lease of the worker of `lost` seems to have expired.
    /// Fails if a replica may have received a report of that worker.
    async fn replace_lost(&self, lost: Stored, next: Box<Job>) -> Result<TryChange, JobError> {
        let running = || JobError::Rejected(Subject::from(&*lost.job), Rejected::AttemptRunning);
        let deadline = lost.job.silence_deadline().ok_or_else(running)?;
        match self.decide(next, &lost.job, deadline, false).await? {
            Decided::Stored(stored) => Ok(TryChange::Changed(Changed { stored, effect: Effect::Applied })),
            Decided::Conflict => Ok(TryChange::Conflict(self.store.get(&lost.job.id).await?)),
            Decided::Deferred => Err(running()),
        }
    }

    /// Ends a job whose cancellation was requested, if the lease of its worker has expired: no worker will confirm the
    /// cancellation.
    async fn end_if_lost(&self, changed: Changed) -> Result<Changed, JobError> {
        let job = &changed.stored.job;
        if job.state.is_terminal() || job.cancel.is_none() || job.liveness(self.now()) != Liveness::Lost {
            return Ok(changed);
        }
        // If it is too early or the job changed, the sweeper ends the job later.
        Ok(match self.decide_due(&changed.stored, Due::LoseWorker).await? {
            Decided::Stored(stored) => Changed { stored, ..changed },
            Decided::Conflict | Decided::Deferred => changed,
        })
    }

    /// Replaces `previous` by `job`. Then counts the change in the metrics, and schedules a sweep for the time when the
    /// job will be due.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let replaced = self.store.replace(job, previous).await.inspect_err(|error| {
            if let StoreError::Full(limit) = error {
                self.quotas.refused(*limit);
            }
        })?;
        if let Replaced::Stored(stored) = &replaced {
            self.metrics.stored(previous, &stored.job);
            self.plan_sweep(&stored.job);
        }
        Ok(replaced)
    }

    /// Returns `current`; if the job has expired, stores its tombstone and returns that.
    async fn expire_if_due(&self, mut current: Option<Stored>) -> Result<Option<Stored>, JobError> {
        loop {
            match current {
                Some(stored) if stored.job.removal.is_none() && !stored.job.is_visible(self.now()) => {
                    match self.try_change(stored, &Change::Expire).await? {
                        TryChange::Changed(changed) | TryChange::Unchanged(changed) => return Ok(Some(changed.stored)),
                        TryChange::Conflict(conflict) => current = conflict,
                    }
                }
                current => return Ok(current),
            }
        }
    }

    fn change_context(&self) -> ChangeContext {
        self.contexts.next()
    }
}

/// The contexts of the changes of a tracker, each with an id of its own.
struct ChangeContexts {
    clock: Arc<dyn Clock>,
    retention: Retention,
    /// Random id of this process, which makes change ids unique.
    process: u64,
    /// Number of changes so far.
    changes: AtomicU64,
}

impl ChangeContexts {
    /// Returns the context of a change that is made now.
    fn next(&self) -> ChangeContext {
        let change_id = ChangeId { process: self.process, counter: self.changes.fetch_add(1, Relaxed) };
        ChangeContext { now: self.clock.now(), change_id, retention: self.retention }
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
