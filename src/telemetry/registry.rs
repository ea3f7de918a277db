//! The metrics of one server in the text format of Prometheus.

use prometheus::{GaugeVec, Opts, TextEncoder, process_collector::ProcessCollector};

use super::metrics::{Measured, VALID, counters};

/// The metrics that components update as they run.
pub struct Registry(prometheus::Registry);

impl Registry {
    /// Creates a registry of the metrics of all components, and of the process.
    pub fn of(measured: &[&dyn Measured]) -> Self {
        let registry = prometheus::Registry::new();
        let metrics = measured.iter().flat_map(|measured| measured.metrics());
        for collector in metrics.chain([Box::new(ProcessCollector::for_self()) as Box<_>]) {
            registry.register(collector).expect("each metric is registered once");
        }
        Self(registry)
    }

    /// Returns the registered metrics and those of `now` in the text format of Prometheus.
    pub fn text(&self, now: &Snapshot) -> anyhow::Result<String> {
        let mut families = self.0.gather();
        families.extend(now.0.gather());
        Ok(TextEncoder::new().encode_to_string(&families)?)
    }
}

/// The metrics that are computed for one scrape.
#[derive(Default)]
pub struct Snapshot(prometheus::Registry);

/// A number that can be the value of a metric.
pub trait Number {
    /// Returns the number as a float.
    fn real(self) -> f64;
}

impl Number for f64 {
    fn real(self) -> f64 {
        self
    }
}

macro_rules! whole {
    ($($kind:ty),*) => {$(
        impl Number for $kind {
            #[allow(clippy::cast_precision_loss, clippy::cast_lossless, reason = "what is counted stays below 2^53")]
            fn real(self) -> f64 {
                self as f64
            }
        }
    )*};
}
whole!(u8, i32, i64, u32, u64, usize);

impl Snapshot {
    /// Adds a gauge.
    pub fn gauge(&mut self, name: &str, help: &str, value: impl Number) {
        let gauge = super::metrics::gauge(name, help);
        gauge.set(value.real());
        self.0.register(Box::new(gauge)).expect(VALID);
    }

    /// Adds a family of gauges, by the values of a label.
    pub fn gauge_of<'a, N: Number>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, N)>,
    ) {
        let gauges = GaugeVec::new(Opts::new(name, help), &[label]).expect(VALID);
        for (of, value) in values {
            gauges.with_label_values(&[of]).set(value.real());
        }
        self.0.register(Box::new(gauges)).expect(VALID);
    }

    /// Adds a counter whose value is counted elsewhere.
    pub fn counter(&mut self, name: &str, help: &str, value: u64) {
        let counter = super::metrics::counter(name, help);
        counter.inc_by(value);
        self.0.register(Box::new(counter)).expect(VALID);
    }

    /// Adds a family of counters whose values are counted elsewhere, by the values of a label.
    pub fn counter_of<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (&'a str, u64)>,
    ) {
        let family = counters(name, help, &[label]);
        for (of, value) in values {
            family.with_label_values(&[of]).inc_by(value);
        }
        self.0.register(Box::new(family)).expect(VALID);
    }
}
