//! Medians, and the spread of repetitions.

use uuid::Uuid;

/// Returns the median.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// Returns the value below which this share of the values lies.
pub fn quantile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "few values"
    )]
    let at = ((sorted.len() - 1) as f64 * share).round() as usize;
    sorted[at]
}

/// The range of most ratios between two equal servers. A ratio within it is not significant.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// Returns the middle 80 % of the ratios, in both directions.
    pub fn of(ratios: &[f64]) -> Self {
        let both: Vec<_> = ratios.iter().flat_map(|&ratio| [ratio, 1.0 / ratio]).collect();
        Self { low: quantile(&both, 0.1), high: quantile(&both, 0.9) }
    }

    /// Returns whether a ratio is indistinguishable from 1.
    pub fn holds(self, ratio: f64) -> bool {
        (self.low..=self.high).contains(&ratio)
    }
}

/// Converts a count to a floating point number.
#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// Returns the numbers below `count` in random order.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).map(|at| (Uuid::new_v4(), at)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, at)| at).collect()
}
