//! Client commands, for people and for shell scripts.

mod answer;
mod board;
mod cancel;
mod create;
mod each;
mod filter;
mod finish;
mod follow;
mod get;
mod list;
mod remove;
mod start;
mod stats;
mod target;
mod token;
mod top;
mod update;
pub mod values;
mod wait;
mod watch;
mod watched;

use clap::Subcommand;

use super::exit::{CommandError, Exit};

pub use self::target::{ATTEMPT, JOB_ID};

/// A command that calls a tracker.
#[derive(Subcommand)]
pub enum Command {
    /// Show jobs
    Get(get::Get),
    /// List jobs
    Ls(Box<list::List>),
    /// Create a job, and print it
    Create(Box<create::Create>),
    /// Claim the next attempt of a job, as its worker
    Start(Box<start::Start>),
    /// Report the progress of a job, as its worker
    Update(Box<update::Update>),
    /// Complete a job, as its worker
    Complete(Box<finish::Complete>),
    /// Fail a job or its attempt, as its worker
    Fail(Box<finish::Fail>),
    /// Request the cancellation of jobs, or confirm it
    Cancel(Box<cancel::Cancel>),
    /// Delete jobs
    Rm(remove::Remove),
    /// Delete finished jobs by age, state, kind and owner
    Purge(Box<remove::Purge>),
    /// Show statistics of the tracker
    Stats(stats::Stats),
    /// Create a watch token and a URL, whose holder can follow some jobs and do nothing else
    Token(Box<token::Token>),
    /// Wait for the ends of jobs
    Wait(Box<wait::Wait>),
    /// Watch jobs as they change
    Watch(Box<watch::Watch>),
    /// Show all jobs that have not ended, updated continuously; lost and stalled jobs first
    Top(Box<top::Top>),
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> Result<Exit, CommandError> {
        match self {
            Self::Get(get) => get.run().await,
            Self::Ls(list) => list.run().await,
            Self::Create(create) => create.run().await,
            Self::Start(start) => start.run().await,
            Self::Update(update) => update.run().await,
            Self::Complete(complete) => complete.run().await,
            Self::Fail(fail) => fail.run().await,
            Self::Cancel(cancel) => cancel.run().await,
            Self::Rm(remove) => remove.run().await,
            Self::Purge(purge) => purge.run().await,
            Self::Stats(stats) => stats.run().await,
            Self::Token(token) => token.run().await,
            Self::Wait(wait) => wait.run().await,
            Self::Watch(watch) => watch.run().await,
            Self::Top(top) => top.run().await,
        }
    }
}
