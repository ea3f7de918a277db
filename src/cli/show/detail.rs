//! A job with all of its fields.

use std::{
    fmt::Write,
    time::{Duration, SystemTime},
};

use jobtrack_client::{Job, proto::v1};
use prost_types::Timestamp;

use super::{age, line::reason, notes, percent, stage, style, styled, time::between, units};
use crate::cli::text::escape;

/// Width of the column of field names.
const NAME: usize = 11;

/// The fields of a job, one per line.
struct Fields {
    text: String,
    now: SystemTime,
}

/// Returns all fields of a job, one per line.
pub fn detail(job: &Job, now: SystemTime) -> String {
    let mut fields = Fields { text: String::new(), now };
    fields.identity(job);
    fields.progress(job);
    fields.outcome(job);
    fields.times(job);
    fields.attempts(&job.attempts);
    fields.text
}

impl Fields {
    /// Adds a field, unless its value is empty. Further lines of the value are indented.
    fn add(&mut self, name: &str, value: &str) {
        let mut name = name;
        for line in value.trim_end().lines() {
            _ = writeln!(self.text, "{name:NAME$} {}", escape(line).trim_end());
            name = "";
        }
    }

    /// Adds a field without escaping its value, which may be styled.
    fn add_styled(&mut self, name: &str, value: &str) {
        _ = writeln!(self.text, "{name:NAME$} {value}");
    }

    fn identity(&mut self, job: &Job) {
        let mut labels: Vec<_> = job.labels.iter().map(|(key, value)| format!("{key}={value}")).collect();
        labels.sort_unstable();
        self.add("Id", &job.id);
        self.add("Title", &job.title);
        self.add("Kind", &job.kind);
        self.add("Owner", &job.owner);
        self.add("Labels", &labels.join(", "));
    }

    fn progress(&mut self, job: &Job) {
        let state = [vec![styled(style(job), job.state_name())], notes(job).into_iter().map(str::to_owned).collect()];
        self.add_styled("State", &state.concat().join("  "));
        self.add("Progress", &[percent(job), units(job)].join("  "));
        self.add("Stage", &stage(job));
        let progress = job.progress.clone().unwrap_or_default();
        self.add("Message", progress.message());
        if let Some(details) = &progress.details {
            self.add("Details", &details.to_json().to_string());
        }
        if job.attempt > 0 {
            self.add("Attempt", &job.attempt.to_string());
        }
        self.add("Worker", &job.worker);
        if let Some(lease) = job.lease() {
            let liveness = job.liveness().as_str_name().trim_start_matches("LIVENESS_");
            let liveness = if liveness == "UNSPECIFIED" { "" } else { liveness };
            self.add("Lease", &format!("{}  {liveness}", age(lease)));
        }
    }

    fn outcome(&mut self, job: &Job) {
        if let Some(cancel) = &job.cancel {
            let by = if cancel.requester.is_empty() { String::new() } else { format!(" by {}", cancel.requester) };
            let ago = self.ago(cancel.request_time.as_ref());
            self.add("Cancel", &format!("requested{by} {ago}: {}", cancel.reason));
        }
        if job.failure().is_some() {
            self.add("Failure", &reason_lines(job));
        }
        if let Some(v1::job::Outcome::Result(result)) = &job.outcome {
            self.add("Result", &result.to_json().to_string());
        }
        if let Some(metadata) = &job.metadata {
            self.add("Metadata", &metadata.to_json().to_string());
        }
    }

    fn times(&mut self, job: &Job) {
        for (name, time) in [
            ("Created", &job.create_time),
            ("Started", &job.start_time),
            ("Updated", &job.update_time),
            ("Ended", &job.end_time),
        ] {
            if let Some(time) = time {
                let ago = self.ago(Some(time));
                self.add(name, &format!("{time}  {ago}"));
            }
        }
        if let Some(time) = &job.expire_time {
            self.add("Expires", &time.to_string());
        }
        self.add("Revision", &job.revision.to_string());
    }

    fn attempts(&mut self, attempts: &[v1::Attempt]) {
        // The fields of the job describe its only attempt.
        let mut name = "Attempts";
        for attempt in attempts.iter().filter(|_| attempts.len() > 1) {
            let failure = attempt.failure.as_ref().map(|failure| format!("{} {}", failure.reason, failure.message));
            let ago = self.ago(attempt.start_time.as_ref());
            let parts = [attempt.number.to_string(), attempt.worker.clone(), ago, failure.unwrap_or_default()];
            let parts: Vec<_> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            self.add(name, &escape(&parts.join("  ")));
            name = "";
        }
    }

    fn ago(&self, time: Option<&Timestamp>) -> String {
        between(time, self.now).map(|passed: Duration| format!("{} ago", age(passed))).unwrap_or_default()
    }
}

/// Returns the reason and the message of the failure. A message of several lines begins on a line of its own.
fn reason_lines(job: &Job) -> String {
    let Some(failure) = job.failure() else { return reason(job) };
    let separator = if failure.message.lines().nth(1).is_some() { "\n" } else { ": " };
    [failure.reason.as_str(), failure.message.trim()]
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect::<Vec<_>>()
        .join(separator)
}
