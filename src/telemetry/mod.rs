//! What a running server tells of itself: log lines and metrics.

pub mod log;
pub mod metrics;
pub mod registry;

pub use log::LogFormat;
