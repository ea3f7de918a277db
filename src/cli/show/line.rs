//! A job in one line.

use std::time::SystemTime;

use jobtrack_client::Job;

use super::{DIM, WARNING, clock, elapsed, notes, percent, stage, style, styled, units};
use crate::cli::text::escape;

/// Returns a job as one line: id, state, progress, notes, elapsed time, and the failure or message.
pub fn line(job: &Job, now: SystemTime) -> String {
    let mut parts = vec![escape(&job.id).into_owned(), styled(style(job), job.state_name())];
    parts.extend([percent(job), units(job), stage(job)]);
    parts.extend(notes(job).into_iter().map(|note| styled(WARNING, note)));
    parts.extend(elapsed(job, now).map(|elapsed| styled(DIM, &clock(elapsed))));
    parts.push(reason(job));
    parts.retain(|part| !part.is_empty());
    parts.join("  ") + "\n"
}

/// Returns the failure, or else the reason of the cancellation, or else the message of the worker.
pub fn reason(job: &Job) -> String {
    if let Some(failure) = job.failure() {
        let parts = [&failure.reason, &failure.message].map(|part| escape(part.trim()));
        return parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(": ");
    }
    let message = job.progress.as_ref().and_then(|progress| progress.message.as_deref()).unwrap_or_default();
    let cancelled = job.cancel.as_ref().map(|cancel| cancel.reason.as_str()).filter(|reason| !reason.is_empty());
    escape(cancelled.unwrap_or(message).trim()).into_owned()
}

#[cfg(test)]
mod tests {
    use jobtrack_client::{
        Failure, State,
        proto::v1::{Liveness, Progress, job::Outcome},
    };

    use super::*;

    fn plain(job: &Job) -> String {
        anstream::adapter::strip_str(&line(job, SystemTime::UNIX_EPOCH)).to_string()
    }

    #[test]
    fn line_has_what_is_known() {
        let mut job = Job { id: "a".to_owned(), ..Job::default() };
        job.set_state(State::Pending);
        assert_eq!(plain(&job), "a  PENDING\n");
        job.set_state(State::Running);
        job.set_liveness(Liveness::Lost);
        job.progress = Some(Progress {
            percent: Some(99.96),
            completed: Some(3),
            total: Some(4),
            unit: Some("rows".to_owned()),
            stage: Some("load".to_owned()),
            stage_index: Some(2),
            stage_count: Some(3),
            message: Some("a\u{1b}[2J\n".to_owned()),
            ..Progress::default()
        });
        assert_eq!(plain(&job), "a  RUNNING  99.9%  3/4 rows  load 2/3  LOST  a\\u{1b}[2J\n");
        job.set_state(State::Failed);
        job.outcome = Some(Outcome::Failure(Failure::of("EXIT_3", "no\nspace")));
        assert!(plain(&job).ends_with("EXIT_3: no\\nspace\n"), "{}", plain(&job));
    }
}
