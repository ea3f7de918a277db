//! The sweeper, which carries out the actions that become due by time alone: it handles expired leases, ended grace
//! periods, expired jobs and old tombstones.

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

/// Number of due records that are read at a time.
const SWEEP_BATCH: usize = 100;

/// Number of records that are handled concurrently; each may be large.
const SWEEP_CONCURRENCY: usize = 4;

/// Maximum interval between sweeps. Bounds the delay with which this replica handles records that other replicas wrote.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);

/// Maximum interval between sweeps in memory mode: after some seconds without a sweep, the memory store assumes that
/// the process was suspended.
const MEMORY_SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(1);

/// Time until a decision that was too early is tried again.
const RETRY_PAUSE: Duration = Duration::from_millis(500);

/// Minimum pause between two sweeps: records that become due meanwhile are handled together.
const SWEEP_PAUSE: Duration = Duration::from_millis(100);

/// The time of the next sweep, so that a job that becomes due sooner can wake the sweeper.
pub struct SweepSchedule {
    /// Time of the next sweep in microseconds; `i64::MAX` during a sweep.
    planned: AtomicI64,
    sooner: Notify,
}

impl Default for SweepSchedule {
    fn default() -> Self {
        Self { planned: AtomicI64::new(i64::MAX), sooner: Notify::new() }
    }
}

/// The outcome of carrying out the action that is due for a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SweepOutcome {
    /// Done, or no longer due.
    Done,
    /// Too early: a worker may have reported. The record becomes due again.
    TooEarly,
}

impl Tracker {
    /// Carries out actions as they become due. Never returns.
    pub async fn sweep(&self) {
        let mut mode = self.store.mode();
        // Time of the next due record, as of the last successful sweep.
        let mut next_due = None;
        loop {
            self.sweep_schedule.planned.store(i64::MAX, Relaxed);
            let next = self.sweep_due().await.unwrap_or_else(|error| {
                // The store itself logs that it is unavailable.
                debug!(%error, "the sweep failed and will be tried again");
                self.metrics.swept(next_due, self.now());
                None
            });
            next_due = next.or(next_due);
            let next = next.unwrap_or(Timestamp::MAX);
            let planned = self.sweep_schedule.planned.fetch_min(next.as_micros(), Relaxed).min(next.as_micros());
            sleep(SWEEP_PAUSE).await;
            let longest = match *mode.borrow_and_update() {
                StorageMode::Memory => MEMORY_SWEEP_INTERVAL_MAX,
                StorageMode::Redis | StorageMode::Degraded => SWEEP_INTERVAL_MAX,
            };
            let wait = Timestamp::from_micros(planned).since(self.now()).min(longest);
            tokio::select! {
                () = sleep(wait) => {}
                () = self.sweep_schedule.sooner.notified() => {}
                // Records that could not be handled in the previous mode may be due.
                Ok(()) = mode.changed() => {}
            }
        }
    }

    /// Carries out all actions that are due now. Returns the time at which the next record will be due.
    pub async fn sweep_due(&self) -> Result<Option<Timestamp>, JobError> {
        let mut first_due = None;
        loop {
            let batch = self.store.due(self.now(), SWEEP_BATCH).await?;
            let due = batch.records.iter().filter_map(|record| record.stored.job.next_due());
            first_due = first_due.or_else(|| due.map(|(time, _)| time).min());
            self.metrics.swept(first_due, self.now());
            let (mut handled, mut deferred, mut failure) = (0, false, None);
            let mut outcomes =
                stream::iter(batch.records).map(|record| self.carry_out(record)).buffer_unordered(SWEEP_CONCURRENCY);
            while let Some(outcome) = outcomes.next().await {
                match outcome {
                    Ok(SweepOutcome::Done) => handled += 1,
                    Ok(SweepOutcome::TooEarly) => deferred = true,
                    // A failure does not keep the other records from being handled.
                    Err(error) => failure = Some(error),
                }
            }
            if let Some(error) = failure.filter(|error| !matches!(error, JobError::Corrupt(_))) {
                return Err(error);
            }
            if handled == 0 {
                let again = deferred.then(|| self.now() + RETRY_PAUSE);
                return Ok(batch.next.into_iter().chain(again).min());
            }
            yield_now().await;
        }
    }

    /// Carries out the action that is due for a record.
    async fn carry_out(&self, record: DueRecord) -> Result<SweepOutcome, JobError> {
        let DueRecord { stored, due } = record;
        debug!(job_id = %stored.job.id, ?due, "carrying out a due action");
        match due {
            Due::Forget => self.store.delete(&stored.job).await?,
            Due::Expire if stored.job.state.is_terminal() => drop(self.try_change(stored, &Change::Expire).await?),
            Due::Expire | Due::LoseWorker | Due::ForceCancel => {
                // After a conflict the record is either no longer due, or part of a later sweep.
                if let Decided::Deferred = self.decide_due(&stored, due).await? {
                    return Ok(SweepOutcome::TooEarly);
                }
            }
        }
        Ok(SweepOutcome::Done)
    }

    /// Carries out the action `due` for an active job, if the store agrees that its time has come.
    pub(super) async fn decide_due(&self, stored: &Stored, due: Due) -> Result<Decided, JobError> {
        let job = &stored.job;
        let change = match due {
            Due::LoseWorker => Change::LoseWorker,
            Due::ForceCancel => Change::ForceCancel,
            Due::Expire | Due::Forget => Change::Expire,
        };
        let (deadline, applied) = (job.deadline_of(due), job.apply(&change, &self.change_context()));
        let (Some(deadline), Ok(Applied::Changed(next))) = (deadline, applied) else { return Ok(Decided::Deferred) };
        self.decide(next, job, deadline, true).await
    }

    /// Replaces the active job `previous` by `next`, if `deadline` has passed. `is_due`: the deadline is the next one
    /// of the job, rather than one that a caller asks for.
    pub(super) async fn decide(
        &self,
        next: Box<Job>,
        previous: &Job,
        deadline: Deadline,
        is_due: bool,
    ) -> Result<Decided, JobError> {
        let is_revertible = next.lease.lost && !next.state.is_terminal() && next.removal.is_none();
        let decision = Decision { deadline, is_revertible, is_due, now: self.now() };
        let decided = self.store.decide(Arc::from(next), previous, decision).await?;
        if let Decided::Stored(stored) = &decided {
            self.metrics.stored(Some(previous), &stored.job);
            // One expiry may be stored twice, as a lost lease and then as the end of a cancelled job. It is counted
            // once.
            let lapsed = previous.lease.expire_time.is_some() && !previous.lease.lost;
            if deadline.due == Due::LoseWorker && lapsed {
                self.metrics.lost();
            }
            self.plan_sweep(&stored.job);
        }
        Ok(decided)
    }

    /// Schedules a sweep for the time when `job` will be due.
    pub(super) fn plan_sweep(&self, job: &Job) {
        if let Some((time, _)) = job.next_due() {
            let due = time.as_micros();
            if self.sweep_schedule.planned.fetch_min(due, Relaxed) > due {
                self.sweep_schedule.sooner.notify_one();
            }
        }
    }
}
