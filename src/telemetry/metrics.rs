//! What is counted and measured. Whoever does a thing owns its metrics and hands them out by [`Measured`]; the server
//! gathers them, so that many servers in one process have nothing in common.

use std::array::from_fn;

pub use prometheus::{Gauge, Histogram, HistogramVec, IntCounter as Counter, IntCounterVec as CounterVec, TEXT_FORMAT};
use prometheus::{HistogramOpts, Opts, core::Collector};

/// What somebody has to tell.
pub type Metrics = Vec<Box<dyn Collector>>;

/// Somebody who has something to tell.
pub trait Measured {
    /// Its metrics, which go on changing with it.
    fn metrics(&self) -> Metrics;
}

/// Only mistakes in this source are errors.
pub(super) const VALID: &str = "names and labels are valid";

/// A counter.
pub fn counter(name: &str, help: &str) -> Counter {
    Counter::new(name, help).expect(VALID)
}

/// A number that rises and falls.
pub fn gauge(name: &str, help: &str) -> Gauge {
    Gauge::new(name, help).expect(VALID)
}

/// A histogram with these upper bounds.
pub fn histogram(name: &str, help: &str, bounds: &[f64]) -> Histogram {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(bounds.to_vec())).expect(VALID)
}

/// Counters that differ in `labels`.
pub fn counters(name: &str, help: &str, labels: &[&str]) -> CounterVec {
    CounterVec::new(Opts::new(name, help), labels).expect(VALID)
}

/// Histograms with these upper bounds that differ in `labels`.
pub fn histograms(name: &str, help: &str, bounds: &[f64], labels: &[&str]) -> HistogramVec {
    HistogramVec::new(HistogramOpts::new(name, help).buckets(bounds.to_vec()), labels).expect(VALID)
}

/// Counters that differ in one label, all of them there from the beginning.
pub struct Counters<const N: usize> {
    all: CounterVec,
    each: [Counter; N],
}

impl<const N: usize> Counters<N> {
    /// One counter for each of the `values` of `label`.
    pub fn new(name: &str, help: &str, label: &str, values: [&str; N]) -> Self {
        let all = counters(name, help, &[label]);
        Self { each: from_fn(|at| all.with_label_values(&[values[at]])), all }
    }

    /// The counter of the value at this place.
    pub fn of(&self, at: usize) -> &Counter {
        &self.each[at]
    }

    /// All of them.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.all.clone())
    }
}

/// Histograms that differ in one label, all of them there from the beginning.
pub struct Histograms<const N: usize> {
    all: HistogramVec,
    each: [Histogram; N],
}

impl<const N: usize> Histograms<N> {
    /// One histogram with these upper bounds for each of the `values` of `label`.
    pub fn new(name: &str, help: &str, bounds: &[f64], label: &str, values: [&str; N]) -> Self {
        let all = histograms(name, help, bounds, &[label]);
        Self { each: from_fn(|at| all.with_label_values(&[values[at]])), all }
    }

    /// The histogram of the value at this place.
    pub fn of(&self, at: usize) -> &Histogram {
        &self.each[at]
    }

    /// All of them.
    pub fn collector(&self) -> Box<dyn Collector> {
        Box::new(self.all.clone())
    }
}
