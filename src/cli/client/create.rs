//! `jobtrack create`.

use std::time::Duration;

use clap::Args;

use super::{
    answer::Answer,
    values::{document, pair},
};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::print,
        text::escape,
    },
    config,
};

/// The job to create.
#[derive(Args)]
#[command(after_help = "  id=$(jobtrack create --kind backup -q)")]
pub struct Create {
    /// Kind of work, such as video.render
    #[arg(long)]
    kind: String,

    /// Id of the job: 1 to 128 characters of A-Z a-z 0-9 . _ : -; by default the tracker generates an id
    #[arg(long)]
    id: Option<String>,

    /// Name of the job, shown to people
    #[arg(long)]
    title: Option<String>,

    /// Tenant or client that the job belongs to
    #[arg(long)]
    owner: Option<String>,

    /// Label to filter by; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,

    /// Your own data: a JSON object, @FILE, or - for standard input
    #[arg(long, value_name = "JSON")]
    metadata: Option<String>,

    /// Time without a report after which the worker counts as lost; 0: never
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    lease: Option<Duration>,

    /// Fail the job when its worker is lost
    #[arg(long)]
    fail_when_lost: bool,

    /// Maximum time that the job waits for a worker before the job counts as lost; 0: without limit
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    start_timeout: Option<Duration>,

    /// Time to keep the job after its end; 0: for ever
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    retention: Option<Duration>,

    /// Id of this request, for a safe retry: a second request with the same id returns the job of the first
    #[arg(long, value_name = "TEXT")]
    request_id: Option<String>,

    /// Print only the id
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    answer: Answer,
    #[command(flatten)]
    connection: Connection,
}

impl Create {
    /// Creates the job.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let tracker = self.connection.tracker()?;
        let mut create = tracker.create(self.kind).fail_when_lost(self.fail_when_lost);
        create = create.id(self.id.unwrap_or_default()).owner(self.owner.unwrap_or_default());
        create = create.title(self.title.unwrap_or_default());
        for (key, value) in self.label {
            create = create.label(key, value);
        }
        if let Some(metadata) = self.metadata {
            create = create.metadata(document("--metadata", &metadata)?.to_json());
        }
        if let Some(lease) = self.lease {
            create = create.lease(lease);
        }
        if let Some(timeout) = self.start_timeout {
            create = create.start_timeout(timeout);
        }
        if let Some(retention) = self.retention {
            create = create.retention(retention);
        }
        if let Some(id) = self.request_id {
            create = create.request_id(id);
        }
        let job = create.send().await?;
        if self.quiet {
            print(&format!("{}\n", escape(&job.id)))?;
        } else {
            self.answer.print(&job)?;
        }
        Ok(Exit::Done)
    }
}
