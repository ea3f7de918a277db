//! `jobtrack completions` and `jobtrack man`.

use std::{io, path::PathBuf};

use clap::{Args, Command};
use clap_complete::{Shell, generate};
use clap_mangen::{Man, generate_to};

use super::{
    exit::{CommandError, Exit},
    output::print,
};

/// The shell whose completion script is printed.
#[derive(Args)]
#[command(after_help = "  jobtrack completions bash > ~/.local/share/bash-completion/completions/jobtrack")]
pub struct Completions {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

impl Completions {
    /// Prints the completion script for `command`.
    pub fn run(&self, mut command: Command) -> Result<Exit, CommandError> {
        let mut script = Vec::new();
        generate(self.shell, &mut command, "jobtrack", &mut script);
        print(&String::from_utf8_lossy(&script))?;
        Ok(Exit::Done)
    }
}

/// The manual pages to print or to write.
#[derive(Args)]
#[command(after_help = "  jobtrack man | man -l -")]
pub struct Manual {
    /// Command to describe; by default jobtrack itself
    #[arg(conflicts_with = "dir")]
    command: Option<String>,

    /// Write the pages of all commands into this folder instead
    #[arg(long, value_name = "FOLDER")]
    dir: Option<PathBuf>,
}

impl Manual {
    /// Prints the page of a command, or writes the pages of all commands.
    pub fn run(&self, mut command: Command) -> Result<Exit, CommandError> {
        command.build();
        if let Some(folder) = &self.dir {
            let unwritable =
                |error: io::Error| CommandError::Failed(format!("can't write to {}: {error}", folder.display()));
            generate_to(command, folder).map_err(unwritable)?;
            return Ok(Exit::Done);
        }
        let chosen = match &self.command {
            None => &command,
            Some(name) => command
                .find_subcommand(name)
                .ok_or_else(|| CommandError::Usage(format!("there is no command {name:?}: see jobtrack --help")))?,
        };
        let mut page = Vec::new();
        Man::new(chosen.clone()).render(&mut page)?;
        print(&String::from_utf8_lossy(&page))?;
        Ok(Exit::Done)
    }
}
