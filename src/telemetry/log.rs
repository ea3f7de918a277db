//! Log lines.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing::Subscriber;
use tracing_subscriber::{EnvFilter, Layer, fmt, registry::LookupSpan};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Writes log lines that `filter` lets pass to standard error.
pub fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(
    format: LogFormat,
    filter: &str,
) -> Result<impl Layer<S> + use<S>> {
    // Redis's client repeats what we say once.
    let filter = EnvFilter::try_new(format!("redis=error,{filter}"))
        .with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let lines = fmt::layer().with_writer(stderr).with_ansi(stderr().is_terminal());
    let lines = match format {
        LogFormat::Human => lines.boxed(),
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
    };
    Ok(lines.with_filter(filter))
}
