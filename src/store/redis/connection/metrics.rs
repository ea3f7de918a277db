//! Metrics of the operations on Redis.

use redis::RedisError;
use tokio::time::Instant;
use tracing::{Instrument, Span, trace_span};

use super::{
    fault::{Answer, Fault, is_unknown_script},
    reason::Reason,
};
use crate::telemetry::metrics::{Counters, Histogram, Histograms, Measured, Metrics};

/// An operation on Redis.
#[derive(Clone, Copy)]
pub enum Command {
    /// Reading a job.
    Get,
    /// Reading many jobs.
    GetMany,
    /// Storing a version.
    Write,
    /// Storing many versions.
    WriteMany,
    /// Reading a page of a list.
    List,
    /// Counting jobs.
    Count,
    /// Reading due records.
    Due,
    /// Forgetting a record.
    Delete,
    /// Checking whether Redis serves.
    Ping,
}

impl Command {
    const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }

    const NAMES: [&str; 9] = ["get", "get_many", "write", "write_many", "list", "count", "due", "delete", "ping"];
}

/// Upper bounds of the duration of operations in seconds: up to the longest `--redis-timeout`, and operations of
/// several commands.
const SECONDS: [f64; 14] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 4.0];

/// Durations of operations, and failures of commands.
pub struct ConnectionMetrics {
    seconds: Histograms<{ Command::NAMES.len() }>,
    failures: Counters<{ Reason::COUNT }>,
}

impl Default for ConnectionMetrics {
    fn default() -> Self {
        Self {
            seconds: Histograms::new(
                "jobtrack_redis_command_seconds",
                "Duration of operations on Redis, failures included; some take several round trips.",
                &SECONDS,
                "command",
                Command::NAMES,
            ),
            failures: Counters::new(
                "jobtrack_redis_command_failures_total",
                "Commands that failed, by reason: the error code of Redis, or how the connection failed.",
                "reason",
                Reason::NAMES,
            ),
        }
    }
}

impl ConnectionMetrics {
    /// Measures the duration of `work`, even if it is abandoned; within a call, in a span that only traces show.
    pub async fn time<T>(&self, command: Command, work: impl Future<Output = T>) -> T {
        let _timed = Timed { histogram: self.seconds.of(command as usize), started: Instant::now() };
        let name = command.name();
        let span = if Span::current().is_none() {
            Span::none()
        } else {
            trace_span!("redis", otel.name = name, otel.kind = "client", db.system = "redis", db.operation = name)
        };
        work.instrument(span).await
    }

    /// Begins a request, which counts as failed if its caller gives up before there is an answer.
    pub fn sent(&self) -> Sent<'_> {
        Sent(Some(self))
    }

    /// Counts the failures in a request.
    fn count(&self, outcome: &Result<Vec<Answer>, Fault>) {
        match outcome {
            Ok(answers) => {
                answers.iter().filter_map(|answer| answer.as_ref().err()).for_each(|error| self.failed(error));
            }
            Err(fault) => self.failed(fault.error()),
        }
    }

    fn failed(&self, error: &RedisError) {
        if is_failure(error) {
            self.failures.of(Reason::of(error) as usize).inc();
        }
    }
}

/// Returns whether an error counts as a failure. Two do not: a script that Redis has forgotten is sent again, and a key
/// of another type is reported to the reader of the record.
fn is_failure(error: &RedisError) -> bool {
    !is_unknown_script(error) && error.code() != Some("WRONGTYPE")
}

/// Measures the time until it is dropped.
struct Timed<'a> {
    histogram: &'a Histogram,
    started: Instant,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.histogram.observe(self.started.elapsed().as_secs_f64());
    }
}

/// A request that was not answered yet.
pub struct Sent<'a>(Option<&'a ConnectionMetrics>);

impl Sent<'_> {
    /// Records the answer.
    pub fn answered(mut self, outcome: &Result<Vec<Answer>, Fault>) {
        self.0.take().into_iter().for_each(|metrics| metrics.count(outcome));
    }
}

impl Drop for Sent<'_> {
    fn drop(&mut self) {
        self.0.into_iter().for_each(|metrics| metrics.failures.of(Reason::Timeout as usize).inc());
    }
}

impl Measured for ConnectionMetrics {
    fn metrics(&self) -> Metrics {
        vec![self.seconds.collector(), self.failures.collector()]
    }
}
