//! Log lines.

use std::{
    io::{IsTerminal, stderr},
    panic,
    str::FromStr,
    sync::OnceLock,
};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing::{Subscriber, error, level_filters::LevelFilter};
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::{EnvFilter, Layer, fmt, registry::LookupSpan};

/// Maximum number of lines that wait to be written: standard error may be a pipe without a reader. Further lines are
/// dropped and counted.
const WAITING_LINES_MAX: usize = 8192;

/// The directives that precede those of `--log`: libraries log warnings and errors, and the client of Redis errors
/// only, because this crate logs why commands failed.
const LIBRARIES: &str = "warn,redis=error";

/// The counter of dropped lines.
static DROPPED: OnceLock<ErrorCounter> = OnceLock::new();

/// The format of log lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// Lines for people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Creates a layer that writes the log lines selected by `filter` to standard error. A thread of its own writes them,
/// so that calls do not wait for standard error. Dropping the guard writes the remaining lines.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
    filter: &str,
) -> Result<(impl Layer<S> + use<S>, WorkerGuard)> {
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{}", directives(filter)))
        .with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let (writer, guard) = NonBlockingBuilder::default()
        .buffered_lines_limit(WAITING_LINES_MAX)
        .lossy(true)
        .thread_name("log")
        .finish(stderr());
    _ = DROPPED.set(writer.error_counter());
    let lines = fmt::layer().with_writer(writer).with_ansi(stderr().is_terminal());
    let lines = match format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Ok((lines.with_filter(filter), guard))
}

/// Logs panics instead of writing them to standard error, which could block for ever.
pub fn log_panics() {
    panic::set_hook(Box::new(|panic| error!("{panic}")));
}

/// Returns the number of lines that were dropped because standard error was not read fast enough.
pub fn dropped_lines() -> u64 {
    DROPPED.get().map_or(0, |lost| lost.dropped_lines() as u64)
}

/// Returns the directives of a filter. In them a bare level of warn, info, debug or trace applies to this crate only,
/// so that debug does not flood the log with lines of libraries.
fn directives(filter: &str) -> String {
    let directives = filter.split(',').map(|directive| match LevelFilter::from_str(directive.trim()) {
        Ok(level) if level >= LevelFilter::WARN => format!("{}={level}", env!("CARGO_PKG_NAME")),
        Ok(_) | Err(_) => directive.to_owned(),
    });
    directives.collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bare_level_applies_to_this_crate() {
        assert_eq!(directives("debug"), "jobtrack=debug");
        assert_eq!(directives("TRACE, h2=debug"), "jobtrack=trace, h2=debug");
        assert_eq!(directives("jobtrack=debug,hyper=info"), "jobtrack=debug,hyper=info");
        assert_eq!(directives("off"), "off");
        assert_eq!(directives("error"), "error");
    }
}
