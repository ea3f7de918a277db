//! `jobtrack start`.

use std::time::Duration;

use clap::Args;
use jobtrack_client::proto::v1::StartAttemptRequest;
use uuid::Uuid;

use super::{answer::Answer, target::JOB_ID, values::to_proto};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::print,
        text::escape,
    },
    config,
};

/// The attempt to claim.
#[derive(Args)]
#[command(
    after_help = "  claim=$(jobtrack start \"$id\" -q) && jobtrack update \"$id\" --claim \"$claim\" --percent 5"
)]
pub struct Start {
    /// Id of the job
    #[arg(env = JOB_ID, value_name = "ID")]
    id: String,

    /// Name of the worker
    #[arg(long, default_value = "", hide_default_value = true)]
    worker: String,

    /// Time without a report after which the worker counts as lost; 0: never
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    lease: Option<Duration>,

    /// End the running attempt of another worker
    #[arg(long)]
    takeover: bool,

    /// Id of this request, for a safe retry: a second request with the same id returns the same attempt
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,

    /// Print only the claim
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Start {
    /// Claims the next attempt.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let request = StartAttemptRequest {
            job_id: self.id,
            worker: self.worker,
            request_id: self.request_id.unwrap_or_else(|| Uuid::new_v4().to_string()),
            lease_timeout: self.lease.map(to_proto),
            takeover: self.takeover,
        };
        let started = self.connection.tracker()?.start_attempt(request).await?;
        if self.quiet {
            print(&format!("{}\n", escape(&started.claim)))?;
        } else {
            self.answer.print_of("StartAttemptResponse", &started, &started.job.clone().unwrap_or_default())?;
        }
        Ok(Exit::Done)
    }
}
