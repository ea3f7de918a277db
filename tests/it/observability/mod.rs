//! Data for operators: log lines, metrics, probes and traces.

mod log;
mod metrics;
mod traces;
