//! `jobtrack get`.

use std::{cell::Cell, time::SystemTime};

use clap::Args;

use super::each::each;

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
        let is_first = Cell::new(true);
        each(&self.ids, async |id| {
            let job = tracker.get(id).await?;
            if !is_first.replace(false) && !format.is_json() {
                print("\n")?;
            }
            print_job(format, &job, |job| detail(job, SystemTime::now()))
        })
        .await
    }
}
