//! `jobtrack get`.

use std::time::SystemTime;

use clap::Args;

use crate::cli::{
    connection::Connection,
    exit::{CommandError, Exit},
    output::{Output, print, print_job},
    show::detail,
};

/// The jobs to show.
#[derive(Args)]
pub struct Get {
    /// Ids of the jobs
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Get {
    /// Shows the jobs.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let (tracker, format) = (self.connection.tracker()?, self.output.format);
        for (at, id) in self.ids.into_iter().enumerate() {
            let job = tracker.get(id).await?;
            if at > 0 && !format.is_json() {
                print("\n")?;
            }
            print_job(format, &job, |job| detail(job, SystemTime::now()))?;
        }
        Ok(Exit::Done)
    }
}
