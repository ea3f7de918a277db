//! What a worker reports.

use serde::Serialize;

use crate::{Error, job::document, proto::v1::Progress};

/// How far the work is. Fields that are not set keep their values, but another stage starts the numbers again.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report(pub(crate) Progress);

impl Report {
    /// Returns a report without any field: a heartbeat.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns a report of units done, and of all units.
    pub fn units(completed: u64, total: u64) -> Self {
        Self::new().completed(completed).total(total)
    }

    /// Sets the percentage, 0 to 100. It follows from [`units`](Self::units) by itself.
    pub fn percent(mut self, percent: f64) -> Self {
        self.0.percent = Some(percent);
        self
    }

    /// Sets the number of units done.
    pub fn completed(mut self, completed: u64) -> Self {
        self.0.completed = Some(completed.try_into().unwrap_or(i64::MAX));
        self
    }

    /// Sets the number of units to do.
    pub fn total(mut self, total: u64) -> Self {
        self.0.total = Some(total.try_into().unwrap_or(i64::MAX));
        self
    }

    /// Sets what the units are: `frames`, `rows`.
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

    /// Sets the line for people.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.0.message = Some(message.into());
        self
    }

    /// Sets the worker's own data: what serializes to a JSON object.
    pub fn details(mut self, details: impl Serialize) -> Result<Self, Error> {
        self.0.details = document(details)?;
        Ok(self)
    }

    /// Adds a later report: of two values of a field the later one counts, as if both had been sent.
    pub(crate) fn merge(&mut self, later: Self) {
        let (now, later) = (&mut self.0, later.0);
        if is_another(now.stage.as_ref(), later.stage.as_ref())
            || is_another(now.stage_index.as_ref(), later.stage_index.as_ref())
        {
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

/// Returns whether a field changes to another value. A field that is absent now may have any value at the server.
fn is_another<T: PartialEq>(now: Option<&T>, later: Option<&T>) -> bool {
    later.is_some() && later != now
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(reports: impl IntoIterator<Item = Report>) -> Report {
        reports.into_iter().fold(Report::new(), |mut sum, report| {
            sum.merge(report);
            sum
        })
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
    fn newer_numbers_replace_an_older_percentage() {
        assert_eq!(merged([Report::new().percent(90.0), Report::units(1, 10)]), Report::units(1, 10));
    }
}
