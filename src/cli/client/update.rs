//! `jobtrack update`.

use std::time::Duration;

use clap::Args;
use jobtrack_client::proto::v1::{Progress, UpdateProgressRequest};

use super::{
    answer::Answer,
    target::Target,
    values::{document, to_proto},
};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::note,
    },
    config,
};

/// The report to send. Without any value it is a heartbeat.
#[derive(Args)]
#[command(after_help = "The exit code is 3 if cancellation was requested: stop, then `jobtrack cancel ID --confirm`.")]
pub struct Update {
    #[command(flatten)]
    target: Target,

    /// Percentage, 0 to 100
    #[arg(long, short, value_name = "NUMBER", allow_negative_numbers = true)]
    percent: Option<f64>,

    /// Units done
    #[arg(long, short, value_name = "COUNT", allow_negative_numbers = true)]
    completed: Option<i64>,

    /// Total number of units
    #[arg(long, short, value_name = "COUNT", allow_negative_numbers = true)]
    total: Option<i64>,

    /// Name of the units, such as frames or rows
    #[arg(long)]
    unit: Option<String>,

    /// Current stage; a new stage resets the percentage, --completed and --total
    #[arg(long, short)]
    stage: Option<String>,

    /// Number of the current stage, and of all stages: 2/3
    #[arg(long, value_name = "NUMBER/COUNT", value_parser = stage_number)]
    stage_number: Option<(i32, Option<i32>)>,

    /// Message, shown to people
    #[arg(long, short)]
    message: Option<String>,

    /// Your own data: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    details: Option<String>,

    /// Name of the worker
    #[arg(long, default_value = "", hide_default_value = true)]
    worker: String,

    /// Sequence number of the report: the tracker ignores a report if it has received a later one
    #[arg(long, value_name = "NUMBER")]
    sequence: Option<i64>,

    /// New lease: the time without a report after which the worker counts as lost; 0: never
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    lease: Option<Duration>,

    /// Print nothing
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Update {
    /// Sends the report.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let details = self.details.map(|details| document("--details", &details)).transpose()?;
        let (stage_index, stage_count) = self.stage_number.map_or((None, None), |(index, count)| (Some(index), count));
        let progress = Progress {
            percent: self.percent,
            completed: self.completed,
            total: self.total,
            unit: self.unit,
            stage: self.stage,
            stage_index,
            stage_count,
            message: self.message,
            details,
        };
        let request = UpdateProgressRequest {
            attempt: self.target.attempt()?,
            job_id: self.target.id,
            claim: self.target.claim,
            progress: Some(progress),
            worker: self.worker,
            sequence: self.sequence,
            lease_timeout: self.lease.map(to_proto),
            expected_revision: None,
        };
        let updated = self.connection.tracker()?.update(request).await?;
        let job = updated.job.clone().unwrap_or_default();
        if !self.quiet {
            self.answer.print_of("UpdateProgressResponse", &updated, &job)?;
        }
        if !updated.applied {
            let reason = updated.ignored().as_str_name().trim_start_matches("IGNORED_").replace('_', " ");
            note(&format!("the report was ignored: {}", reason.to_lowercase()));
        }
        Ok(if job.cancel.is_some() { Exit::Cancelled } else { Exit::Done })
    }
}

fn stage_number(text: &str) -> Result<(i32, Option<i32>), String> {
    let invalid = |_| "write it as 2/3, or 2".to_owned();
    match text.split_once('/') {
        Some((index, count)) => Ok((index.parse().map_err(invalid)?, Some(count.parse().map_err(invalid)?))),
        None => Ok((text.parse().map_err(invalid)?, None)),
    }
}
