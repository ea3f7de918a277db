//! Log lines, metrics and traces.

mod filter;
pub mod log;
pub mod metrics;
pub mod registry;
pub mod traces;

use anyhow::Result;
pub use filter::log_filter;
pub use log::LogFormat;
use tracing_appender::non_blocking::WorkerGuard;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use self::traces::Traces;

/// The guard of traces and log lines. Dropping it sends the last spans, and writes the last lines.
pub struct TelemetryGuard {
    _traces: Option<Traces>,
    // Dropped after the traces: sending the last spans may fail, which is logged.
    _lines: WorkerGuard,
}

/// Starts to write log lines to standard error: those that `filter` selects, and panics. Starts to send traces, if the
/// environment names a receiver. Must be called within the tokio runtime.
pub fn init(format: LogFormat, filter: &str) -> Result<TelemetryGuard> {
    let (lines, guard) = log::layer(format, filter)?;
    let traces = Traces::from_env()?;
    tracing_subscriber::registry().with(lines).with(traces.as_ref().map(Traces::layer)).init();
    log::log_panics();
    Ok(TelemetryGuard { _traces: traces, _lines: guard })
}
