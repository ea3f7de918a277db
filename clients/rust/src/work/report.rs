//! Reports of a worker.

use serde::Serialize;

use crate::{Error, job::document, proto::v1::Progress};

/// Progress of the work. Fields that are not set keep their values, but a new stage resets the percentage and the
/// counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report(pub(crate) Progress);

impl Report {
    /// Returns a report without any field: a heartbeat.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a report of the number of units done and of all units.
    pub fn units(completed: u64, total: u64) -> Self {
        Self::new().completed(completed).total(total)
    }

    /// Sets the percentage, 0 to 100. The server derives the percentage from [`units`](Self::units) if it is not set.
    pub fn percent(mut self, percent: f64) -> Self {
        self.0.percent = Some(percent);
        self
    }

    /// Sets the number of units done.
    pub fn completed(mut self, completed: u64) -> Self {
        self.0.completed = Some(completed.try_into().unwrap_or(i64::MAX));
        self
    }

    /// Sets the total number of units.
    pub fn total(mut self, total: u64) -> Self {
        self.0.total = Some(total.try_into().unwrap_or(i64::MAX));
        self
    }

    /// Sets the name of the units, such as `frames` or `rows`.
    pub fn unit(mut self, unit: impl Into<String>) -> Self {
        self.0.unit = Some(unit.into());
        self
    }

    /// Sets the current stage.
    pub fn stage(mut self, stage: impl Into<String>) -> Self {
        self.0.stage = Some(stage.into());
        self
    }

    /// Sets the number of the current stage, and of all stages.
    pub fn stage_number(mut self, index: u32, count: u32) -> Self {
        self.0.stage_index = Some(index.try_into().unwrap_or(i32::MAX));
        self.0.stage_count = Some(count.try_into().unwrap_or(i32::MAX));
        self
    }

    /// Sets the message for people.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Sets the worker's own data, a value that serializes to a JSON object.
    pub fn details(mut self, details: impl Serialize) -> Result<Self, Error> {
        self.0.details = document(details)?;
        Ok(self)
    }

    /// Adds a later report, with the same effect as if both reports had been sent: the later value of each field
    /// counts. `starts_stage`: the later report begins a new stage.
    pub(crate) fn merge(&mut self, later: Self, starts_stage: bool) {
        let (now, later) = (&mut self.0, later.0);
        if starts_stage {
            (now.percent, now.completed, now.total) = (None, None, None);
        }
        // The server derives the percentage from newer numbers.
        if later.completed.is_some() || later.total.is_some() {
            now.percent = None;
        }
        *now = Progress {
            percent: later.percent.or(now.percent),
            completed: later.completed.or(now.completed),
            total: later.total.or(now.total),
            unit: later.unit.or_else(|| now.unit.take()),
            stage: later.stage.or_else(|| now.stage.take()),
            stage_index: later.stage_index.or(now.stage_index),
            stage_count: later.stage_count.or(now.stage_count),
            message: later.message.or_else(|| now.message.take()),
            details: later.details.or_else(|| now.details.take()),
        };
    }
}

/// The stage that a worker reported last.
#[derive(Debug, Default)]
pub(crate) struct Stage {
    name: Option<String>,
    index: Option<i32>,
}

impl Stage {
    /// Updates the stage with a report. Returns whether the report begins a new stage.
    pub fn follow(&mut self, Report(report): &Report) -> bool {
        let is_other = report.stage.is_some() && report.stage != self.name
            || report.stage_index.is_some() && report.stage_index != self.index;
        self.name = report.stage.clone().or_else(|| self.name.take());
        self.index = report.stage_index.or(self.index);
        is_other
    }
}

/// Reports that wait to be sent, merged into one.
#[derive(Debug, Default)]
pub(crate) struct Waiting {
    pub report: Report,
    /// One of the merged reports begins a new stage.
    starts_stage: bool,
}

impl Waiting {
    /// Adds a later report.
    pub fn add(&mut self, later: Report, starts_stage: bool) {
        self.report.merge(later, starts_stage);
        self.starts_stage |= starts_stage;
    }

    /// Adds later reports.
    pub fn add_all(&mut self, later: Self) {
        self.add(later.report, later.starts_stage);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Merges reports of a worker whose stage is "download", the first of two.
    fn merged(reports: impl IntoIterator<Item = Report>) -> Report {
        let (mut stage, mut sum) = (Stage::default(), Waiting::default());
        stage.follow(&Report::new().stage("download").stage_number(1, 2));
        for report in reports {
            let starts_stage = stage.follow(&report);
            sum.add(report, starts_stage);
        }
        sum.report
    }

    #[test]
    fn later_values_count() {
        let reports = [Report::units(1, 10).unit("rows"), Report::new().message("a"), Report::new().completed(2)];
        assert_eq!(merged(reports), Report::units(2, 10).unit("rows").message("a"));
    }

    #[test]
    fn another_stage_starts_the_numbers_again() {
        let first = Report::units(9, 10).stage("download").stage_number(1, 2);
        let second = Report::new().stage("encode").stage_number(2, 2);
        assert_eq!(merged([first.clone(), second.clone()]), second);
        let later = Report::units(1, 3).stage("encode").stage_number(2, 2);
        assert_eq!(merged([first, second, Report::units(1, 3)]), later);
    }

    #[test]
    fn stage_that_is_named_again_keeps_the_numbers() {
        let reports = [Report::units(9, 10), Report::new().stage("download").message("a")];
        assert_eq!(merged(reports), Report::units(9, 10).stage("download").message("a"));
    }

    #[test]
    fn reports_that_could_not_be_sent_are_merged_with_later_ones() {
        let mut unsent = Waiting { report: Report::units(9, 10).unit("rows"), starts_stage: false };
        unsent.add_all(Waiting { report: Report::new().stage("encode"), starts_stage: true });
        assert_eq!(unsent.report, Report::new().unit("rows").stage("encode"));
    }

    #[test]
    fn newer_numbers_replace_an_older_percentage() {
        assert_eq!(merged([Report::new().percent(90.0), Report::units(1, 10)]), Report::units(1, 10));
    }
}
