//! `jobtrack cancel`.

use std::time::Duration;

use clap::Args;
use jobtrack_client::{
    Job, Tracker,
    proto::v1::{CancelJobRequest, ConfirmCancelRequest},
};

use super::{answer::Answer, each::each, values::to_proto};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
    },
    config,
};

/// The jobs to cancel.
#[derive(Args)]
pub struct Cancel {
    /// Ids of the jobs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    /// The reason, for people
    #[arg(long, short, default_value = "", hide_default_value = true)]
    reason: String,

    /// Name of who asks for it
    #[arg(long, default_value = "", hide_default_value = true)]
    requester: String,

    /// Cancel a running job at once, without waiting for its worker
    #[arg(long)]
    force: bool,

    /// Cancel the job if its worker has not ended it within this time
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    grace: Option<Duration>,

    /// Confirm, as the worker, that the work has stopped after a cancellation was asked for
    #[arg(long, conflicts_with_all = ["force", "grace", "requester"])]
    confirm: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Cancel {
    /// Asks for the cancellation of each job, or confirms it.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let tracker = self.connection.tracker()?;
        each(&self.ids, async |id| {
            let job = if self.confirm { self.confirm(&tracker, id).await? } else { self.request(&tracker, id).await? };
            self.answer.print(&job)
        })
        .await
    }

    async fn request(&self, tracker: &Tracker, id: &str) -> Result<Job, CommandError> {
        let request = CancelJobRequest {
            job_id: id.to_owned(),
            reason: self.reason.clone(),
            requester: self.requester.clone(),
            force: self.force,
            grace: self.grace.map(to_proto),
        };
        Ok(tracker.cancel_with(request).await?)
    }

    async fn confirm(&self, tracker: &Tracker, id: &str) -> Result<Job, CommandError> {
        let message = Some(self.reason.clone()).filter(|reason| !reason.is_empty());
        let request = ConfirmCancelRequest { job_id: id.to_owned(), message, ..ConfirmCancelRequest::default() };
        Ok(tracker.confirm_cancel(request).await?)
    }
}
