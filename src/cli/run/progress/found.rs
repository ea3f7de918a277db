//! The progress that was found in output.

/// The progress in one line. Values that the line does not have are absent.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Found {
    /// Percentage, 0 to 100.
    pub percent: Option<f64>,
    /// Units done.
    pub completed: Option<u64>,
    /// Total number of units.
    pub total: Option<u64>,
    /// Name of the units.
    pub unit: Option<String>,
    /// The current stage.
    pub stage: Option<String>,
    /// Message for people.
    pub message: Option<String>,
}

impl Found {
    /// Returns progress with only a percentage.
    pub fn percent(percent: f64) -> Self {
        Self { percent: Some(percent), ..Self::default() }
    }

    /// Returns progress with the number of units done and of all units.
    pub fn units(completed: u64, total: u64) -> Self {
        Self { completed: Some(completed), total: Some(total), ..Self::default() }
    }

    /// Sets the unit.
    pub fn of(mut self, unit: Option<&str>) -> Self {
        self.unit = unit.map(str::to_owned);
        self
    }

    /// Returns the percentage of the line, or else the ratio of its counts.
    #[expect(clippy::cast_precision_loss, reason = "a percentage needs no more than a double holds")]
    pub fn ratio(&self) -> Option<f64> {
        let counted = match (self.completed, self.total) {
            (Some(completed), Some(total)) if total > 0 => Some((completed as f64 / total as f64 * 100.0).min(100.0)),
            _ => None,
        };
        self.percent.or(counted)
    }
}
