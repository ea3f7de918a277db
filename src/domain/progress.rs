//! How far a job is: what a report makes of it.

use std::cmp::Ordering::{Greater, Less};

use super::Progress;

impl Progress {
    /// Takes over what `new` says. Another stage starts the numbers again.
    pub fn update(&mut self, new: &Self) {
        fn take<T: Clone>(field: &mut Option<T>, new: Option<&T>) {
            if let Some(new) = new {
                *field = Some(new.clone());
            }
        }
        if self.is_other_stage(new) {
            (self.percent, self.completed, self.total) = (None, None, None);
        }
        self.update_numbers(new);
        take(&mut self.unit, new.unit.as_ref());
        take(&mut self.stage, new.stage.as_ref());
        take(&mut self.stage_index, new.stage_index.as_ref());
        take(&mut self.stage_count, new.stage_count.as_ref());
        take(&mut self.message, new.message.as_ref());
        take(&mut self.details, new.details.as_ref());
    }

    /// Returns how far the work is, as far as it can be told: the work advances when this changes.
    pub fn place(&self) -> (Option<f64>, Option<i64>, Option<String>, Option<i32>) {
        (self.percent, self.completed, self.stage.clone(), self.stage_index)
    }

    /// Takes over the numbers, and derives the percentage where it is not given.
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

    /// Returns whether `report` is about another stage than the last one: by the indexes, or else by the names.
    fn is_other_stage(&self, report: &Self) -> bool {
        match (self.stage_index, report.stage_index) {
            (Some(last), Some(index)) => last != index,
            _ => report.stage.as_ref().is_some_and(|stage| !stage.is_empty() && self.stage.as_ref() != Some(stage)),
        }
    }

    /// Whether `report` was made before what is known here: in an earlier stage, or it counts less in the same one, or
    /// comes to less without more to do.
    pub fn is_ahead_of(&self, report: &Self) -> bool {
        fn fell<T: PartialOrd>(old: Option<T>, new: Option<T>) -> bool {
            matches!((old, new), (Some(old), Some(new)) if new < old)
        }
        match self.stage_index.zip(report.stage_index).map(|(last, index)| last.cmp(&index)) {
            Some(Greater) => return true,
            Some(Less) => return false,
            _ if self.is_other_stage(report) => return false,
            _ => {}
        }
        let total_grew = fell(report.total, self.total);
        let mut next = Self { percent: self.percent, completed: self.completed, total: self.total, ..Self::default() };
        next.update_numbers(report);
        fell(self.completed, report.completed) || (fell(self.percent, next.percent) && !total_grew)
    }
}

#[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than a double holds")]
fn ratio(completed: i64, total: i64) -> f64 {
    (completed as f64 / total as f64 * 100.0).min(100.0)
}
