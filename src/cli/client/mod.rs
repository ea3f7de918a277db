//! The commands for people and for shell scripts: clients of a tracker.

mod filter;
mod get;
mod list;
mod values;

use clap::Subcommand;

use super::exit::{CommandError, Exit};

/// A command that calls a tracker.
#[derive(Subcommand)]
pub enum Command {
    /// Show jobs
    Get(get::Get),
    /// List jobs
    Ls(Box<list::List>),
}

impl Command {
    /// Runs the command.
    pub async fn run(self) -> Result<Exit, CommandError> {
        match self {
            Self::Get(get) => get.run().await,
            Self::Ls(list) => list.run().await,
        }
    }
}
