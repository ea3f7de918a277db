//! `jobtrack wait`.

use std::{
    future::pending,
    time::{Duration, SystemTime},
};

use clap::Args;
use tokio::time::sleep;

use super::{
    follow::{Detail, Follow, News, Scope},
    watch::unavailable,
    watched::{Change, Watched, gone, missing},
};
use crate::{
    cli::{
        connection::Connection,
        exit::{CommandError, Exit},
        output::{Output, note, print_job},
        show::line,
    },
    config,
};

/// Minimum time between two versions of a job. Only ends matter here, and the server sends ends at once.
const INTERVAL: Duration = Duration::from_secs(3600);

/// The jobs to wait for.
#[derive(Args)]
#[command(after_help = "The exit code is 0 if all jobs have succeeded, 1 if one has failed or has not ended in \
                        time, 3 if one was cancelled, 4 if one does not exist.")]
pub struct Wait {
    /// Ids of the jobs, at most 1000
    #[arg(required = true, value_name = "ID")]
    ids: Vec<String>,

    /// Maximum time to wait; by default without limit
    #[arg(long, value_name = "TIME", value_parser = config::duration)]
    timeout: Option<Duration>,

    /// Print nothing
    #[arg(long, short)]
    quiet: bool,

    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    connection: Connection,
}

impl Wait {
    /// Waits until all jobs have ended, and prints each job at its end.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let scope = Scope::of(self.ids.clone());
        let documents = self.output.format.is_json();
        let mut follow = Follow::new(&self.connection, &scope, Detail { interval: INTERVAL, documents })?;
        let mut watched = Watched::new(&scope);
        let timeout = async {
            match self.timeout {
                Some(timeout) => sleep(timeout).await,
                None => pending().await,
            }
        };
        tokio::pin!(timeout);
        loop {
            if let Some(exit) = watched.exit() {
                return Ok(exit);
            }
            let news = tokio::select! {
                news = follow.next() => news?,
                () = &mut timeout => return Err(self.late(&watched, follow.is_unavailable())),
            };
            match news {
                Some(News::Event(event)) => self.show(watched.apply(*event))?,
                Some(News::Unavailable(error)) => note(&unavailable(&error)),
                Some(News::Available) => note("the tracker is available again"),
                None => return Err(CommandError::Failed("the jobs can't be followed any more".to_owned())),
            }
        }
    }

    fn show(&self, change: Change) -> Result<(), CommandError> {
        match change {
            Change::Ended(job) if !self.quiet => {
                print_job(self.output.format, &job, |job| line(job, SystemTime::now()))
            }
            Change::Removed(job, removal) => {
                note(&gone(&job.id, removal));
                Ok(())
            }
            Change::Missing(ids) => {
                for id in &ids {
                    note(&missing(id));
                }
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Returns the error after the timeout.
    fn late(&self, watched: &Watched, is_unavailable: bool) -> CommandError {
        let timeout = self.timeout.unwrap_or_default();
        if is_unavailable {
            return CommandError::Unavailable(format!("the tracker is unavailable; gave up after {timeout:?}"));
        }
        let state =
            |id: &String| watched.get(id).map_or_else(|| id.clone(), |job| format!("{id} {}", job.state_name()));
        let left: Vec<_> = watched.awaited().map(state).collect();
        CommandError::Failed(format!("not ended within {timeout:?}: {}", left.join(", ")))
    }
}
