//! Progress of a job, and the effect of a report on it.

use std::cmp::Ordering::{Equal, Greater, Less};

use super::Progress;

/// The stage of a report compared with that of the last one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StageChange {
    /// The same stage, or the report names none.
    Same,
    /// The first stage that is reported.
    First,
    /// A different stage: a higher index, or a different name.
    Other,
    /// A stage with a lower index.
    Earlier,
}

impl Progress {
    /// Applies the fields that `new` sets. A different stage resets the numbers.
    pub fn update(&mut self, new: &Self) {
        fn take<T: Clone>(field: &mut Option<T>, new: Option<&T>) {
            if let Some(new) = new {
                *field = Some(new.clone());
            }
        }
        if matches!(self.compare_stage(new), StageChange::Earlier | StageChange::Other) {
            (self.percent, self.completed, self.total, self.stage_index) = (None, None, None, None);
        }
        self.update_numbers(new);
        take(&mut self.unit, new.unit.as_ref());
        take(&mut self.stage, new.stage.as_ref());
        take(&mut self.stage_index, new.stage_index.as_ref());
        take(&mut self.stage_count, new.stage_count.as_ref());
        take(&mut self.message, new.message.as_ref());
        take(&mut self.details, new.details.as_ref());
    }

    /// Returns whether the percentage, the number of units done or the stage differ from `before`.
    pub fn has_advanced_since(&self, before: &Self) -> bool {
        (self.percent, self.completed, self.stage_index) != (before.percent, before.completed, before.stage_index)
            || self.stage != before.stage
    }

    /// Applies the numbers, and derives the percentage if it is not given.
    fn update_numbers(&mut self, new: &Self) {
        self.completed = new.completed.or(self.completed);
        self.total = new.total.or(self.total);
        let counted = new.completed.is_some() || new.total.is_some();
        let derived = match (self.completed, self.total) {
            (Some(completed), Some(total)) if counted && total > 0 => Some(ratio(completed, total)),
            _ => None,
        };
        self.percent = new.percent.or(derived).or(self.percent);
    }

    /// Compares the stage of `report` with the last one: by index, or else by name.
    fn compare_stage(&self, report: &Self) -> StageChange {
        if let (Some(last), Some(index)) = (self.stage_index, report.stage_index) {
            return match index.cmp(&last) {
                Less => StageChange::Earlier,
                Equal => StageChange::Same,
                Greater => StageChange::Other,
            };
        }
        let [last, stage] = [self, report].map(|progress| progress.stage.as_deref().filter(|stage| !stage.is_empty()));
        match (last, stage) {
            (Some(last), Some(stage)) if last != stage => StageChange::Other,
            (None, Some(_)) => StageChange::First,
            _ if self.stage_index.is_none() && report.stage_index.is_some() => StageChange::First,
            _ => StageChange::Same,
        }
    }

    /// Returns whether `report` is older than this progress: it has an earlier stage or, in the same stage, fewer
    /// completed units or a lower percentage. A percentage that is lower because the total has grown does not count.
    pub fn is_ahead_of(&self, report: &Self) -> bool {
        fn fell<T: PartialOrd>(old: Option<T>, new: Option<T>) -> bool {
            matches!((old, new), (Some(old), Some(new)) if new < old)
        }
        match self.compare_stage(report) {
            StageChange::Earlier => return true,
            StageChange::First | StageChange::Other => return false,
            StageChange::Same => {}
        }
        let total_grew = fell(report.total, self.total);
        let mut next = Self { percent: self.percent, completed: self.completed, total: self.total, ..Self::default() };
        next.update_numbers(report);
        fell(self.completed, report.completed) || (fell(self.percent, next.percent) && !total_grew)
    }
}

#[expect(clippy::cast_precision_loss, reason = "the precision of a double is enough for a percentage")]
fn ratio(completed: i64, total: i64) -> f64 {
    (completed as f64 / total as f64 * 100.0).min(100.0)
}
