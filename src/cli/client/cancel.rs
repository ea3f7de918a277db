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

    /// Reason of the cancellation, shown to people; with --confirm, the last message of the worker
    #[arg(long, short, default_value = "", hide_default_value = true)]
    reason: String,

    /// Name of the person or program that requests the cancellation
    #[arg(long, default_value = "", hide_default_value = true)]
    requester: String,

    /// Cancel a running job at once, without waiting for its worker
    #[arg(long)]
    force: bool,

    /// Cancel a running job when this time has passed and its worker has not ended it
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    grace: Option<Duration>,

    /// Confirm, as the worker, that the work was stopped because of a requested cancellation
    #[arg(long, conflicts_with_all = ["force", "grace", "requester"])]
    confirm: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Cancel {
    /// Requests the cancellation of each job, or confirms that its work has stopped.
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
