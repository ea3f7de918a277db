//! Log lines.

use std::io::{IsTerminal, stderr};

use anyhow::{Context, Result};
use clap::ValueEnum;
use tracing_subscriber::{EnvFilter, fmt};

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// Writes log lines that `filter` lets pass to standard error, from here on.
pub fn init(format: LogFormat, filter: &str) -> Result<()> {
    // Redis's client repeats what we say once.
    let filter = EnvFilter::try_new(format!("redis=error,{filter}"))
        .with_context(|| format!("--log {filter:?} is not a log filter"))?;
    let lines = fmt().with_env_filter(filter).with_writer(stderr).with_ansi(stderr().is_terminal());
    match format {
        LogFormat::Human => lines.init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}
