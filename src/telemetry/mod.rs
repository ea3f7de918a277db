//! What a running server tells of itself: log lines, metrics and traces.

mod filter;
pub mod log;
pub mod metrics;
pub mod registry;
pub mod traces;

use anyhow::Result;
pub use filter::log_filter;
pub use log::LogFormat;
use tracing_subscriber::{layer::SubscriberExt, util::SubscriberInitExt};

use self::traces::Traces;

/// Tells, until it is dropped: the last spans are sent then.
pub struct Telling(#[expect(dead_code, reason = "it is dropped")] Option<Traces>);

/// Writes log lines that `filter` lets pass to standard error from here on, and sends traces where the environment says
/// so. To be called within the runtime.
pub fn init(format: LogFormat, filter: &str) -> Result<Telling> {
    let lines = log::layer(format, filter)?;
    let traces = Traces::from_env()?;
    tracing_subscriber::registry().with(lines).with(traces.as_ref().map(Traces::layer)).init();
    Ok(Telling(traces))
}
