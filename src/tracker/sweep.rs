//! What time brings about: lost leases, expiries, forgotten tombstones.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, stream};
use tokio::{sync::Notify, task::yield_now, time::sleep};
use tracing::debug;

use super::Tracker;
use crate::{
    domain::{Applied, Change, Deadline, Due, Job, JobError, Timestamp},
    store::{Decided, Decision, DueRecord, StorageMode, Stored},
};

/// How many due records are handled at a time.
const SWEEP_BATCH: usize = 100;

/// How many of them are handled side by side; each may be large.
const AT_ONCE: usize = 4;

/// The longest that the sweeper sleeps: bounds what another replica's change can delay.
const SWEEP_INTERVAL: Duration = Duration::from_secs(5);

/// The same where jobs are in memory: the store takes a longer silence for time in which the process did not run.
const MEMORY_SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// How soon a decision is tried again that was too early.
const DEFERRED: Duration = Duration::from_millis(500);

/// The least time between two sweeps: what comes due meanwhile is handled together.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// When the sweeper means to wake, so that a change that is due sooner can wake it.
pub struct Sweeper {
    /// Microseconds; the latest time while it is at work.
    planned: AtomicI64,
    sooner: Notify,
}

impl Default for Sweeper {
    fn default() -> Self {
        Self { planned: AtomicI64::new(i64::MAX), sooner: Notify::new() }
    }
}

impl Tracker {
    /// Carries out what time brings about, for ever: lost leases, expiries, forgotten tombstones.
    pub async fn sweep(&self) {
        let mut mode = self.store.mode();
        // What was to be due next when the store was last asked.
        let mut awaited = None;
        loop {
            self.sweeper.planned.store(i64::MAX, Relaxed);
            let next = self.sweep_due().await.unwrap_or_else(|error| {
                // That the store is away, it says itself.
                debug!(%error, "the sweep failed and will be tried again");
                self.metrics.swept(awaited, self.now());
                None
            });
            awaited = next.or(awaited);
            let next = next.unwrap_or(Timestamp::MAX);
            let planned = self.sweeper.planned.fetch_min(next.as_micros(), Relaxed).min(next.as_micros());
            sleep(SWEEP_PAUSE).await;
            let longest = match *mode.borrow_and_update() {
                StorageMode::Memory => MEMORY_SWEEP_INTERVAL,
                StorageMode::Redis | StorageMode::Degraded => SWEEP_INTERVAL,
            };
            let wait = Timestamp::from_micros(planned).since(self.now()).min(longest);
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
        let mut first_due = None;
        loop {
            let batch = self.store.due(self.now(), SWEEP_BATCH).await?;
            let due = batch.records.iter().filter_map(|record| record.stored.job.next_due());
            first_due = first_due.or_else(|| due.map(|(time, _)| time).min());
            self.metrics.swept(first_due, self.now());
            let (mut handled, mut deferred, mut failure) = (0, false, None);
            let mut outcomes =
                stream::iter(batch.records).map(|record| self.carry_out(record)).buffer_unordered(AT_ONCE);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Ok(true) => handled += 1,
                    Ok(false) => deferred = true,
                    // It must not keep the others from their turn.
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure.filter(|error| !matches!(error, JobError::Corrupt(_))) {
                return Err(error);
            }
            if handled == 0 {
                let again = deferred.then(|| self.now() + DEFERRED);
                return Ok(batch.next.into_iter().chain(again).min());
            }
            yield_now().await;
        }
    }

    /// Carries out what is due for a record. Says whether it was; `false`: it was too early.
    async fn carry_out(&self, record: DueRecord) -> Result<bool, JobError> {
        let DueRecord { stored, due } = record;
        debug!(job_id = %stored.job.id, ?due, "due");
        match due {
            Due::Forget => self.store.delete(&stored.job).await?,
            Due::Expire if stored.job.state.is_terminal() => drop(self.try_change(stored, &Change::Expire).await?),
            Due::Expire | Due::LoseWorker | Due::ForceCancel => {
                // A conflict: it is no longer due, or comes again.
                return Ok(!matches!(self.decide_due(&stored, due).await?, Decided::Deferred));
            }
        }
        Ok(true)
    }

    /// Has the store decide whether it is time for what is due for an active job.
    pub(super) async fn decide_due(&self, stored: &Stored, due: Due) -> Result<Decided, JobError> {
        let job = &stored.job;
        let change = match due {
            Due::LoseWorker => Change::LoseWorker,
            Due::ForceCancel => Change::ForceCancel,
            Due::Expire | Due::Forget => Change::Expire,
        };
        let (deadline, applied) = (job.deadline_of(due), job.apply(&change, &self.moment()));
        let (Some(deadline), Ok(Applied::Changed(next))) = (deadline, applied) else { return Ok(Decided::Deferred) };
        self.decide(next, job, deadline, true).await
    }

    /// Stores `next` in the place of the active job `previous`, if `deadline` has passed; `is_due`: that is what is due
    /// for the job.
    pub(super) async fn decide(
        &self,
        next: Box<Job>,
        previous: &Job,
        deadline: Deadline,
        is_due: bool,
    ) -> Result<Decided, JobError> {
        let is_reverted = next.lease.lost && !next.state.is_terminal() && next.removal.is_none();
        let decision = Decision { deadline, is_reverted, is_due, now: self.now() };
        let decided = self.store.decide(Arc::from(next), previous, decision).await?;
        if let Decided::Stored(stored) = &decided {
            self.metrics.stored(Some(previous), &stored.job);
            // A loss that was stored before is no second one.
            let lapsed = previous.lease.expire_time.is_some() && !previous.lease.lost;
            if deadline.due == Due::LoseWorker && lapsed {
                self.metrics.lost();
            }
            self.plan_sweep(&stored.job);
        }
        Ok(decided)
    }

    /// Sees to it that a sweep comes when something is due for `job`.
    pub(super) fn plan_sweep(&self, job: &Job) {
        if let Some((time, _)) = job.next_due() {
            let due = time.as_micros();
            if self.sweeper.planned.fetch_min(due, Relaxed) > due {
                self.sweeper.sooner.notify_one();
            }
        }
    }
}
