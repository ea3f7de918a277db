//! Rates of jobs, in units per second.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use jobtrack_client::Job;

use crate::cli::show::elapsed;

/// Minimum time over which a rate is measured.
const SPAN_MIN: Duration = Duration::from_secs(1);

/// Weight of the newest measurement in the moving average.
const WEIGHT: f64 = 0.3;

/// The rates of all jobs.
#[derive(Default)]
pub struct Rates(HashMap<String, Rate>);

struct Rate {
    attempt: i32,
    stage: Option<String>,
    /// The count of the last measurement, and its time.
    last: (i64, SystemTime),
    per_second: Option<f64>,
}

impl Rates {
    /// Updates the rate of a job with a version that arrived at `now`.
    pub fn update(&mut self, job: &Job, now: SystemTime) {
        let progress = job.progress.as_ref();
        let Some(count) = progress.and_then(|progress| progress.completed) else { return };
        let stage = progress.and_then(|progress| progress.stage.clone());
        let Some(rate) = self.0.get_mut(&job.id).filter(|rate| rate.attempt == job.attempt && rate.stage == stage)
        else {
            // Until there are two measurements, the rate is the average since the start of the work. With a
            // stage it is unknown, because the start of the stage is unknown.
            let so_far = elapsed(job, now).filter(|span| stage.is_none() && *span >= SPAN_MIN);
            let per_second = so_far.map(|span| per_second(count, span));
            let rate = Rate { attempt: job.attempt, stage, last: (count, now), per_second };
            self.0.insert(job.id.clone(), rate);
            return;
        };
        let span = now.duration_since(rate.last.1).unwrap_or_default();
        if span >= SPAN_MIN {
            let newest = per_second(count - rate.last.0, span).max(0.0);
            rate.per_second = Some(rate.per_second.map_or(newest, |rate| rate + WEIGHT * (newest - rate)));
            rate.last = (count, now);
        }
    }

    /// Forgets a job.
    pub fn forget(&mut self, id: &str) {
        self.0.remove(id);
    }

    /// Returns the rate of a job as text. Empty if it is unknown.
    pub fn text(&self, job: &Job) -> String {
        match self.0.get(&job.id).and_then(|rate| rate.per_second) {
            Some(rate) if rate >= 10.0 => format!("{rate:.0}/s"),
            Some(rate) if rate >= 1.0 => format!("{rate:.1}/s"),
            Some(rate) if rate > 0.0 => format!("{:.1}/min", rate * 60.0),
            _ => String::new(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate is shown with two digits")]
fn per_second(count: i64, span: Duration) -> f64 {
    count as f64 / span.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use jobtrack_client::proto::v1::Progress;

    use super::*;

    fn job(completed: i64, stage: Option<&str>) -> Job {
        let progress = Progress { completed: Some(completed), stage: stage.map(str::to_owned), ..Progress::default() };
        Job {
            id: "a".to_owned(),
            attempt: 1,
            start_time: Some(SystemTime::UNIX_EPOCH.into()),
            progress: Some(progress),
            ..Job::default()
        }
    }

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn rate_follows_the_count() {
        let mut rates = Rates::default();
        let mut after = |completed, stage, seconds| {
            let job = job(completed, stage);
            rates.update(&job, at(seconds));
            rates.text(&job)
        };
        assert_eq!(after(40, None, 10), "4.0/s");
        assert_eq!(after(80, None, 11), "15/s");
        assert_eq!(after(999, None, 11), "15/s", "the span is too short");
        assert_eq!(after(5, Some("second"), 12), "");
        assert_eq!(after(6, Some("second"), 14), "30.0/min");
    }
}
