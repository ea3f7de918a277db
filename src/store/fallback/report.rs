//! The report of reconciliations: the outcome for each job.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tracing::info;

use crate::{
    clock::Clock,
    domain::{JobId, Timestamp},
    store::{ReconcileOutcome, ReconcileReport, StoreError},
    telemetry::metrics::{Counters, Measured, Metrics},
};

/// Maximum pause between reconciliations that share a report: the outcomes of the first one must not vanish before
/// anybody has read them.
const SHARED_REPORT_PAUSE_MAX: Duration = Duration::from_secs(60);

/// Number of jobs with which a report is full, so that the next reconciliation begins a new one.
const REPORT_JOBS_MAX: usize = 100_000;

/// Maximum number of jobs named in a summary.
const NAMED_JOBS_MAX: usize = 1000;

/// The report, and the count of all outcomes.
pub struct Reports {
    clock: Arc<dyn Clock>,
    log: Mutex<ReconcileLog>,
    /// Number of jobs by outcome, in the order of [`ReconcileOutcome::ALL`].
    jobs: Counters<{ ReconcileOutcome::ALL.len() }>,
}

/// A guard that ends a part of a reconciliation in the report when it is dropped, even if the caller was cancelled.
struct Ending<'a> {
    reports: &'a Reports,
    is_complete: bool,
}

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.reports.log().end(self.reports.clock.now(), self.is_complete);
    }
}

impl Reports {
    /// Creates a report without outcomes.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let jobs = Counters::new(
            "jobtrack_reconciled_jobs_total",
            "Jobs that were pushed to Redis after an outage, by outcome; each push counts.",
            "outcome",
            ["merged", "conflicted", "dropped"],
        );
        Self { clock, log: Mutex::default(), jobs }
    }

    fn log(&self) -> MutexGuard<'_, ReconcileLog> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a part of a reconciliation. In the report the reconciliation lasts until none of its parts is under way.
    pub async fn reported<T>(&self, part: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
        self.log().begin(self.clock.now());
        let mut ending = Ending { reports: self, is_complete: false };
        let outcome = part.await;
        ending.is_complete = outcome.is_ok();
        outcome
    }

    /// Ends a reconciliation that has nothing left to do, though its last part was interrupted.
    pub fn end_interrupted(&self) {
        self.log().end_interrupted(self.clock.now());
    }

    /// Records and counts the outcome of a job, with its reason in plain text.
    pub fn record_outcome(&self, id: &JobId, outcome: ReconcileOutcome, reason: &'static str) {
        self.jobs.of(outcome as usize).inc();
        self.log().record_outcome(id, outcome, reason);
    }

    /// Returns the report; `None` before the first reconciliation.
    pub fn summary(&self) -> Option<ReconcileReport> {
        self.log().summary()
    }

    /// Writes the numbers of the report to the log.
    pub fn write_log(&self) {
        if let Some(report) = self.summary() {
            let [merged, conflicted, dropped] = report.counts;
            info!(merged, conflicted, dropped, "reconciled");
        }
    }
}

impl Measured for Reports {
    fn metrics(&self) -> Metrics {
        vec![self.jobs.collector()]
    }
}

/// The outcomes of jobs, recorded before the writes are sent, because a write may be executed even though no answer
/// comes.
#[derive(Debug, Default)]
struct ReconcileLog {
    began: bool,
    /// Number of parts of the reconciliation that are under way.
    under_way: usize,
    end_time: Option<Timestamp>,
    counts: [u64; ReconcileOutcome::ALL.len()],
    by_id: HashMap<JobId, Entry>,
    /// Ids in the order in which their outcomes were recorded.
    in_order: BTreeMap<u64, JobId>,
    last_order: u64,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    outcome: ReconcileOutcome,
    reason: &'static str,
    order: u64,
}

impl ReconcileLog {
    /// Begins a reconciliation, or a part of one. Recent outcomes stay in the report.
    fn begin(&mut self, now: Timestamp) {
        let is_over = self.end_time.is_some_and(|end| now.since(end) > SHARED_REPORT_PAUSE_MAX);
        if is_over || self.by_id.len() >= REPORT_JOBS_MAX {
            *self = Self { under_way: self.under_way, ..Self::default() };
        }
        self.began = true;
        self.under_way += 1;
        self.end_time = None;
    }

    /// Ends a part of a reconciliation; the reconciliation too, if the part `is_complete` and no other is under way.
    fn end(&mut self, now: Timestamp, is_complete: bool) {
        debug_assert!(self.under_way > 0, "only a part that has begun can end");
        self.under_way -= 1;
        if is_complete && self.under_way == 0 {
            self.end_time = Some(now);
        }
    }

    /// Ends a reconciliation that has nothing left to do, though its last part was interrupted.
    fn end_interrupted(&mut self, now: Timestamp) {
        if self.began && self.under_way == 0 {
            self.end_time.get_or_insert(now);
        }
    }

    /// Records the outcome of a job, and its reason in plain text. A worse earlier outcome is kept.
    fn record_outcome(&mut self, id: &JobId, outcome: ReconcileOutcome, reason: &'static str) {
        if let Some(before) = self.by_id.get(id).copied() {
            if before.outcome > outcome {
                return;
            }
            self.in_order.remove(&before.order);
            self.counts[before.outcome as usize] -= 1;
        }
        self.last_order += 1;
        let entry = Entry { outcome, reason, order: self.last_order };
        self.by_id.insert(id.clone(), entry);
        self.in_order.insert(entry.order, id.clone());
        self.counts[outcome as usize] += 1;
    }

    /// Returns the report; `None` before the first reconciliation.
    fn summary(&self) -> Option<ReconcileReport> {
        let named = self.in_order.values().rev().take(NAMED_JOBS_MAX);
        let jobs = named.filter_map(|id| self.by_id.get(id).map(|entry| (id.clone(), entry.outcome, entry.reason)));
        self.began.then(|| ReconcileReport { end_time: self.end_time, counts: self.counts, jobs: jobs.collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BEGIN: Timestamp = Timestamp::from_micros(1_000_000);

    fn told(log: &ReconcileLog) -> (Vec<(String, ReconcileOutcome)>, [u64; 3]) {
        let summary = log.summary().expect("it has begun");
        (summary.jobs.iter().map(|(id, outcome, _)| (id.to_string(), *outcome)).collect(), summary.counts)
    }

    fn record(log: &mut ReconcileLog, id: &str, outcome: ReconcileOutcome) {
        log.record_outcome(&JobId::parse(id).expect("a valid id"), outcome, "");
    }

    #[test]
    fn each_job_is_reported_once_with_its_worst_outcome_newest_first() {
        let mut log = ReconcileLog::default();
        assert!(log.summary().is_none());
        log.begin(BEGIN);
        for (id, outcome) in
            [("a", ReconcileOutcome::Merged), ("b", ReconcileOutcome::Conflicted), ("a", ReconcileOutcome::Dropped)]
        {
            record(&mut log, id, outcome);
        }
        record(&mut log, "b", ReconcileOutcome::Merged);
        let (a, b) = (("a".to_owned(), ReconcileOutcome::Dropped), ("b".to_owned(), ReconcileOutcome::Conflicted));
        assert_eq!(told(&log), (vec![a.clone(), b.clone()], [0, 1, 1]));
        record(&mut log, "b", ReconcileOutcome::Conflicted);
        assert_eq!(told(&log), (vec![b, a], [0, 1, 1]));
    }

    #[test]
    fn a_reconciliation_soon_after_the_last_one_shares_its_report() {
        let mut log = ReconcileLog::default();
        log.begin(BEGIN);
        record(&mut log, "a", ReconcileOutcome::Conflicted);
        log.end(BEGIN, true);
        log.begin(BEGIN + SHARED_REPORT_PAUSE_MAX);
        assert_eq!(told(&log).1, [0, 1, 0]);
        // An interrupted reconciliation has not ended.
        log.end(BEGIN + SHARED_REPORT_PAUSE_MAX, false);
        log.begin(BEGIN + SHARED_REPORT_PAUSE_MAX * 3);
        log.begin(BEGIN + SHARED_REPORT_PAUSE_MAX * 3);
        assert_eq!(told(&log).1, [0, 1, 0]);
        // A reconciliation with a part under way has not ended either.
        log.end_interrupted(BEGIN + SHARED_REPORT_PAUSE_MAX * 3);
        log.end(BEGIN + SHARED_REPORT_PAUSE_MAX * 3, true);
        assert!(log.summary().is_some_and(|summary| summary.end_time.is_none()));
        log.end(BEGIN + SHARED_REPORT_PAUSE_MAX * 3, true);
        log.begin(BEGIN + SHARED_REPORT_PAUSE_MAX * 5);
        assert_eq!(told(&log).1, [0, 0, 0]);
    }
}
