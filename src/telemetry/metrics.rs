//! Metrics. Each component owns its metrics and exposes them by [`Measured`]; the server collects them. There are no
//! global metrics, so that several servers in one process have separate metrics.

use std::array::from_fn;

pub use prometheus::{Gauge, Histogram, HistogramVec, IntCounter as Counter, IntCounterVec as CounterVec, TEXT_FORMAT};
use prometheus::{HistogramOpts, Opts, core::Collector};

/// The metrics of a component.
pub type Metrics = Vec<Box<dyn Collector>>;

/// A component that exposes metrics.
pub trait Measured {
    /// Returns the metrics, which stay connected to the component.
    fn metrics(&self) -> Metrics;
}

/// Names and labels are constants: only a mistake in this source could make them invalid.
pub(super) const VALID: &str = "names and labels are valid";

/// Creates a counter.
pub fn counter(name: &str, help: &str) -> Counter {
    Counter::new(name, help).expect(VALID)
}

/// Creates a gauge.
pub fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect(VALID)
}

/// Creates a histogram with these upper bounds.
pub fn histogram(name: &str, help: &str, bounds: &[f64]) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())).expect(VALID)
}

/// Creates a family of counters with these labels.
pub fn counters(name: &str, help: &str, labels: &[&str]) -> CounterVec {
    CounterVec::new(Opts::new(name, help), labels).expect(VALID)
}

/// Creates a family of histograms with these upper bounds and labels.
pub fn histograms(name: &str, help: &str, bounds: &[f64], labels: &[&str]) -> HistogramVec {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels).expect(VALID)
}

/// A family of counters with one label. All values of the label are exposed from the start.
pub struct Counters<const N: usize> {
    all: CounterVec,
    each: [Counter; N],
}

impl<const N: usize> Counters<N> {
    /// Creates one counter for each of the `values` of `label`.
    pub fn new(name: &str, help: &str, label: &str, values: [&str; N]) -> Self {
        let all = counters(name, help, &[label]);
        Self { each: from_fn(|at| all.with_label_values(&[values[at]])), all }
    }

    /// Returns the counter of the value at an index.
    pub fn of(&self, at: usize) -> &Counter {
        &self.each[at]
    }

    /// Returns the collector of the family.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.all.clone())
    }
}

/// A family of histograms with one label. All values of the label are exposed from the start.
pub struct Histograms<const N: usize> {
    all: HistogramVec,
    each: [Histogram; N],
}

impl<const N: usize> Histograms<N> {
    /// Creates one histogram with these upper bounds for each of the `values` of `label`.
    pub fn new(name: &str, help: &str, bounds: &[f64], label: &str, values: [&str; N]) -> Self {
        let all = histograms(name, help, bounds, &[label]);
        Self { each: from_fn(|at| all.with_label_values(&[values[at]])), all }
    }

    /// Returns the histogram of the value at an index.
    pub fn of(&self, at: usize) -> &Histogram {
        &self.each[at]
    }

    /// Returns the collector of the family.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.all.clone())
    }
}
