//! Metrics of the changes that a tracker stored.

use crate::{
    domain::{Job, State, Timestamp},
    telemetry::metrics::{Counter, Counters, Gauge, Histograms, Measured, Metrics, counter, gauge},
};

/// The outcomes of a job, as values of a label.
const OUTCOMES: [&str; 3] = ["succeeded", "failed", "cancelled"];

/// Upper bounds of the processing time of jobs, in seconds: up to a week.
const PROCESSING_SECONDS: [f64; 14] =
    [0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0, 43_200.0, 86_400.0, 604_800.0];

/// Metrics of created, finished and lost jobs.
pub struct JobMetrics {
    created: Counter,
    finished: Counters<3>,
    processing: Histograms<3>,
    lost: Counter,
    lag: Gauge,
}

impl Default for JobMetrics {
    fn default() -> Self {
        Self {
            created: counter("jobtrack_jobs_created_total", "Jobs that were created through this replica."),
            finished: Counters::new(
                "jobtrack_jobs_finished_total",
                "Jobs whose end was stored through this replica.",
                "outcome",
                OUTCOMES,
            ),
            processing: Histograms::new(
                "jobtrack_job_processing_seconds",
                "Time from the start to the end of the jobs whose end was stored through this replica.",
                &PROCESSING_SECONDS,
                "outcome",
                OUTCOMES,
            ),
            lost: counter(
                "jobtrack_workers_lost_total",
                "Leases and start timeouts that expired, counted by the replica that detected the expiry first.",
            ),
            lag: gauge(
                "jobtrack_sweeper_lag_seconds",
                "Delay of the most overdue record of the last sweep; 0 if none was due.",
            ),
        }
    }
}

impl JobMetrics {
    /// Records that `job` replaced `before` in the store.
    pub fn stored(&self, before: Option<&Job>, job: &Job) {
        if job.removal.is_some() {
            return;
        }
        // A job that replaces no version, or a tombstone, is a new one.
        let Some(before) = before.filter(|before| before.removal.is_none()) else { return self.created.inc() };
        let outcome = match job.state {
            _ if before.state.is_terminal() => return,
            State::Pending | State::Running => return,
            State::Succeeded => 0,
            State::Failed => 1,
            State::Cancelled => 2,
        };
        self.finished.of(outcome).inc();
        if let Some((start, end)) = job.start_time.zip(job.end_time) {
            self.processing.of(outcome).observe(end.since(start).as_secs_f64());
        }
    }

    /// Counts an expired lease or start timeout.
    pub fn lost(&self) {
        self.lost.inc();
    }

    /// Records a sweep at `now` whose most overdue record was due at `due`; `None` if none was due.
    pub fn swept(&self, due: Option<Timestamp>, now: Timestamp) {
        self.lag.set(due.map_or(0.0, |due| now.since(due).as_secs_f64()));
    }
}

impl Measured for JobMetrics {
    fn metrics(&self) -> Metrics {
        vec![
            Box::new(self.created.clone()),
            self.finished.collector(),
            self.processing.collector(),
            Box::new(self.lost.clone()),
            Box::new(self.lag.clone()),
        ]
    }
}
