//! Medians, and how far apart repetitions are.

use uuid::Uuid;

/// The value in the middle.
pub fn median(values: &[f64]) -> f64 {
    quantile(values, 0.5)
}

/// The value below which this share of the values lies.
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

/// Where most ratios of two equal things lie, so that one in there says nothing.
#[derive(Clone, Copy)]
pub struct Spread {
    pub low: f64,
    pub high: f64,
}

impl Spread {
    /// The middle 80 % of the ratios, either way round.
    pub fn of(ratios: &[f64]) -> Self {
        let both: Vec<_> = ratios.iter().flat_map(|&ratio| [ratio, 1.0 / ratio]).collect();
        Self { low: quantile(&both, 0.1), high: quantile(&both, 0.9) }
    }

    /// Whether a ratio is indistinguishable from 1.
    pub fn holds(self, ratio: f64) -> bool {
        (self.low..=self.high).contains(&ratio)
    }
}

/// A count as a floating point number.
#[allow(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
pub fn real(count: u64) -> f64 {
    count as f64
}

/// The numbers below `count`, in a new order.
pub fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<_> = (0..count).map(|at| (Uuid::new_v4(), at)).collect();
    order.sort_unstable();
    order.into_iter().map(|(_, at)| at).collect()
}
