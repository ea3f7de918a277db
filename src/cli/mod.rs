//! The command line.

mod client;
mod connection;
mod exit;
mod health;
mod output;
mod pages;
pub mod run;
mod serve;
mod show;
mod text;
mod variables;

use std::{env, ffi::OsStr, process::ExitCode};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable, error::ErrorKind};

use self::exit::{CommandError, Exit, end, write_last_line};
use crate::config::Config;

/// A job tracker over gRPC: create jobs, report their progress, watch them.
///
/// Without a command, jobtrack starts a server on 127.0.0.1:50051 that stores jobs in memory:
///
///   jobtrack
///   grpcurl -plaintext -d '{"kind":"demo"}' 127.0.0.1:50051 jobtrack.v1.JobService/CreateJob
///
/// Every flag of the server has an environment variable, such as JOBTRACK_LISTEN for --listen. Durations are written as
/// 250ms, 1s, 12h or 7d.
#[derive(Parser)]
#[expect(clippy::doc_markdown, reason = "the text is shown in a terminal")]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Config,
}

#[derive(Subcommand)]
enum Command {
    /// Start a server (the default command)
    Serve(Box<Config>),
    /// Probe a server, for containers: the exit code is 0 if the server accepts calls, otherwise 1
    Health(health::Probe),
    /// Run a command as a job: detect progress in its output, and exit with its exit code
    Run(Box<run::Run>),
    #[command(flatten)]
    Client(client::Command),
    /// Print the completion script of a shell
    Completions(pages::Completions),
    /// Print a manual page, or write the pages of all commands
    Man(pages::Manual),
}

/// Returns the command line parser. If the `first` word is a subcommand, the top-level flags do not apply. Then their
/// variables must not be read: the values may be meant for another subcommand, or flags of `serve` may override them.
fn command(first: Option<&OsStr>) -> clap::Command {
    let command = Cli::command();
    let is_subcommand = first.is_some_and(|word| word == "help" || command.find_subcommand(word).is_some());
    if is_subcommand { command.mut_args(|arg| arg.env(Resettable::Reset)) } else { command }
}

/// Returns the resolved configuration. Exits if the configuration is invalid.
fn resolved(mut config: Config, matches: &ArgMatches) -> Config {
    config.note_defaults(matches);
    match config.resolve() {
        Ok(()) => config,
        Err(problem) => reject(&problem.to_string()),
    }
}

/// Prints an error as for an invalid flag, and exits with code 2.
fn reject(problem: &str) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, problem).exit()
}

/// Runs the command. The exit code is 2 for an invalid flag, and 1 if the command fails. `docs/cli.md` lists the exit
/// codes of client commands.
pub fn run() -> ExitCode {
    if let Some(code) = run::internal::run(env::args_os()) {
        return code;
    }
    let mut command = command(env::args_os().nth(1).as_deref());
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    let given = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    let unknown = || variables::unknown(&Cli::command());
    let result = match cli.command {
        None => serve::run(&resolved(cli.serve, given), &unknown()),
        Some(Command::Serve(config)) => serve::run(&resolved(*config, given), &unknown()),
        Some(Command::Health(probe)) => health::run(&probe),
        Some(Command::Run(run)) => return run.run(),
        Some(Command::Client(command)) => return run_client(command.run()),
        Some(Command::Completions(shell)) => return end(shell.run(Cli::command())),
        Some(Command::Man(page)) => return end(page.run(Cli::command())),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            write_last_line(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Runs a client command to its end, and returns its exit code. An error is written to standard error in one line.
fn run_client(command: impl Future<Output = Result<Exit, CommandError>>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(CommandError::Failed(format!("the runtime can't be started: {error}")))),
    };
    let result = runtime.block_on(command);
    // A thread may still wait for keys of the terminal. The runtime must not wait for that thread.
    runtime.shutdown_background();
    end(result)
}
