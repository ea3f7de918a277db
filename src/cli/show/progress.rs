//! Parts of the line of a job.

use jobtrack_client::{
    Job,
    proto::v1::{Durability, Liveness},
};

use crate::cli::text::escape;

/// Returns the percentage with one decimal, rounded down, so that only a complete job shows 100 %. Empty if unknown.
pub fn percent(job: &Job) -> String {
    let Some(percent) = job.percent() else { return String::new() };
    if percent >= 100.0 { "100%".to_owned() } else { format!("{:.1}%", (percent * 10.0).floor() / 10.0) }
}

/// Returns the units done: `42/100 frames`. Empty if none were reported.
pub fn units(job: &Job) -> String {
    let Some(progress) = &job.progress else { return String::new() };
    let mut units = match (progress.completed, progress.total) {
        (Some(completed), Some(total)) => format!("{completed}/{total}"),
        (Some(completed), None) => completed.to_string(),
        (None, Some(total)) => format!("0/{total}"),
        (None, None) => return String::new(),
    };
    if let Some(unit) = progress.unit.as_ref().filter(|unit| !unit.is_empty()) {
        units.push(' ');
        units.push_str(&escape(unit));
    }
    units
}

/// Returns the stage with its number: `encode 2/3`. Empty if no stage was reported.
pub fn stage(job: &Job) -> String {
    let Some(progress) = &job.progress else { return String::new() };
    let name = progress.stage.as_deref().map(escape).unwrap_or_default();
    let number = match (progress.stage_index, progress.stage_count) {
        (Some(index), Some(count)) => format!("{index}/{count}"),
        (Some(index), None) => index.to_string(),
        (None, _) => String::new(),
    };
    [&*name, &number].into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Returns notes on conditions that need attention: a lost worker, a requested cancellation, a version only in memory.
pub fn notes(job: &Job) -> Vec<&'static str> {
    let mut notes = Vec::new();
    if job.liveness() == Liveness::Lost {
        notes.push("LOST");
    }
    if job.cancel.is_some() && !job.has_ended() {
        notes.push("CANCELLING");
    }
    if job.durability() == Durability::Volatile {
        notes.push("VOLATILE");
    }
    notes
}
