//! What can be set: flag over environment over default.

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::domain::{MAX_DURATION, Retention};

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to serve gRPC; port 0 picks a free one, which the banner names
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT")]
    pub listen: String,

    /// How long a succeeded job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_SUCCEEDED", default_value = "7d", value_name = "TIME", value_parser = duration)]
    pub ttl_succeeded: Duration,

    /// How long a failed job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_FAILED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_failed: Duration,

    /// How long a cancelled job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_CANCELLED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_cancelled: Duration,

    /// How long an active job is kept after its last change; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_ACTIVE", default_value = "0", value_name = "TIME", value_parser = duration)]
    pub ttl_active: Duration,

    /// How many jobs are held in memory at most; then ended jobs give way, and after that new ones are refused
    #[arg(long, env = "JOBTRACK_MAX_MEMORY_JOBS", default_value = "100000", value_name = "COUNT", value_parser = count)]
    pub max_memory_jobs: usize,

    /// How log lines are written, to standard error
    #[arg(long, env = "JOBTRACK_LOG_FORMAT", default_value = "human", value_enum)]
    pub log_format: LogFormat,

    /// What is logged: error, warn, info, debug (a line for each call) or trace, or a filter such as jobtrack=debug
    #[arg(long, env = "JOBTRACK_LOG", default_value = "info", value_name = "LEVEL")]
    pub log: String,
}

/// Where to serve if nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";

/// How log lines are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

impl Config {
    /// How long jobs are kept.
    pub const fn retention(&self) -> Retention {
        Retention {
            succeeded: self.ttl_succeeded,
            failed: self.ttl_failed,
            cancelled: self.ttl_cancelled,
            active: self.ttl_active,
        }
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text {
        "0" => Duration::ZERO,
        text => humantime::parse_duration(text).map_err(|_| "write it as 250ms, 1s, 12h or 7d, or 0")?,
    };
    if duration > MAX_DURATION { Err("it is more than 3650 days".to_owned()) } else { Ok(duration) }
}

fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it must be a whole number from 1".to_owned())
}
