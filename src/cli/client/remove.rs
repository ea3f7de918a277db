//! `jobtrack rm` and `jobtrack purge`.

use std::time::Duration;

use clap::{ArgGroup, Args};
use jobtrack_client::{
    State,
    proto::v1::{PurgeJobsRequest, PurgeJobsResponse},
};

use super::{
    each::each,
    values::{state, to_proto},
};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::{Json, Output, note, print},
    },
    config,
};

/// The jobs to delete.
#[derive(Args)]
pub struct Remove {
    /// Ids of the jobs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    /// Delete jobs that have not ended, too
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Remove {
    /// Deletes each job.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let tracker = self.connection.tracker()?;
        each(&self.ids, async |id| Ok(tracker.delete(id, self.force).await?)).await
    }
}

/// The finished jobs to delete.
#[derive(Args)]
#[command(group = ArgGroup::new("selection").required(true).multiple(true))]
pub struct Purge {
    /// Only jobs that ended at least this long ago
    #[arg(long, value_name = "TIME", value_parser = config::duration, group = "selection")]
    older_than: Option<Duration>,

    /// Only jobs in these states: succeeded, failed, cancelled
    #[arg(long, value_name = "STATE", value_delimiter = ',', value_parser = state, group = "selection")]
    state: Vec<State>,

    /// Only this kind
    #[arg(long, group = "selection")]
    kind: Option<String>,

    /// Only this owner
    #[arg(long, group = "selection")]
    owner: Option<String>,

    /// All finished jobs
    #[arg(long, group = "selection", conflicts_with_all = ["older_than", "state", "kind", "owner"])]
    all: bool,

    /// Count the jobs, but delete none
    #[arg(long, group = "selection")]
    dry_run: bool,

    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Purge {
    /// Deletes the jobs in batches, one per call.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let (tracker, format) = (self.connection.tracker()?, self.output.format);
        let mut request = PurgeJobsRequest {
            older_than: self.older_than.map(to_proto),
            states: self.state.into_iter().map(Into::into).collect(),
            kind: self.kind.unwrap_or_default(),
            owner: self.owner.unwrap_or_default(),
            dry_run: self.dry_run,
            page_token: String::new(),
        };
        let what = if self.dry_run { "would be purged" } else { "purged" };
        let mut all = PurgeJobsResponse::default();
        loop {
            let part = match tracker.purge(request.clone()).await {
                Ok(part) => part,
                Err(error) => {
                    note(&format!("before the error: {} jobs {what}", all.purged_count));
                    return Err(error.into());
                }
            };
            all.purged_count += part.purged_count;
            all.partial |= part.partial;
            request.page_token = part.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
        let text = || format!("{} jobs {what}\n", all.purged_count);
        print(&if format.is_json() { Json::of("PurgeJobsResponse", format).write(&all) } else { text() })?;
        if all.partial {
            note("some jobs may be left: Redis is unavailable");
        }
        Ok(Exit::Done)
    }
}
