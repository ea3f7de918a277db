//! The use cases: what callers can do, put together from the state machine, a store and the watch hub.
//!
//! Whoever calls does so through [`Tracker::on_behalf_of`], and so meets the jobs of its owners and no others.
//!
//! A change is read, applied, and stored by compare and set; where another came first, it is applied again to what is
//! there now. So racing callers each see the rules hold, and none is lost.

mod calls;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{
    sync::{Notify, watch},
    task::yield_now,
    time::{Instant, sleep},
};
use tracing::debug;
use uuid::Uuid;

pub use calls::Calls;

use crate::{
    clock::Clock,
    domain::{Applied, Change, Due, Identity, Job, JobError, Limit, Moment, Retention, Stamp, Subject, Timestamp},
    store::{DueRecord, JobStore, Replaced, StorageMode, StoreError, StoreStats, Stored},
    watch::Hub,
};

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
        Ok(match self.replace(Arc::from(next), Some(job)).await? {
            Replaced::Stored(stored) => Ok((stored, true)),
            Replaced::Conflict(current) => Err(current),
        })
    }

    /// Stores `job` in the place of `previous`, and sees to what time will bring about.
    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        let replaced = self.store.replace(job, previous).await?;
        if let Replaced::Stored(stored) = &replaced {
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
                        Ok((stored, _)) => return Ok(Some(stored)),
                        Err(conflict) => current = conflict,
                    }
                }
                settled => return Ok(settled),
            }
        }
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
