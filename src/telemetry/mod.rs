//! What a running server tells of itself: log lines, metrics and traces.

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

/// Traces and log lines, which are sent and written until it is dropped; then the last ones are.
pub struct Telling {
    _traces: Option<Traces>,
    // Dropped last: sending the last spans may fail, which is logged.
    _lines: WorkerGuard,
}

/// Writes log lines that `filter` lets pass to standard error from here on, panics too, and sends traces where the
/// environment says so. Must be called within the runtime.
pub fn init(format: LogFormat, filter: &str) -> Result<Telling> {
    let (lines, guard) = log::layer(format, filter)?;
    let traces = Traces::from_env()?;
    tracing_subscriber::registry().with(lines).with(traces.as_ref().map(Traces::layer)).init();
    log::log_panics();
    Ok(Telling { _traces: traces, _lines: guard })
}
