//! The command line.

mod health;
mod serve;
mod variables;

use std::{env, ffi::OsStr, process::ExitCode, sync::mpsc, thread, time::Duration};

use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand, builder::Resettable, error::ErrorKind};

use crate::config::Config;

/// Maximum time to write the last line: standard error may be a pipe that nobody reads.
const LAST_LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// Tracks jobs that run elsewhere: create them, report progress, watch them, over gRPC.
///
/// Without a command it serves, in memory, on 127.0.0.1:50051:
///
///   jobtrack
///   grpcurl -plaintext -d '{"kind":"demo"}' 127.0.0.1:50051 jobtrack.v1.JobService/CreateJob
///
/// Every flag can be set in the environment too: --listen is JOBTRACK_LISTEN. Times are written 250ms, 1s, 12h, 7d.
#[derive(Parser)]
#[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
#[command(version, verbatim_doc_comment, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    serve: Config,
}

#[derive(Subcommand)]
enum Command {
    /// Serve; the same as without a command
    Serve(Box<Config>),
    /// Ask a server whether it takes calls: exit code 0 if it does, 1 if not; for container probes
    Health(health::Probe),
}

/// Returns the command line. Where the `first` word is a subcommand, the flags that stand for `serve` are not given, and
/// their variables must not be read either: they may be another subcommand's, or overridden by flags of `serve`.
fn command(first: Option<&OsStr>) -> clap::Command {
    let command = Cli::command();
    let is_subcommand = first.is_some_and(|word| word == "help" || command.find_subcommand(word).is_some());
    if is_subcommand { command.mut_args(|arg| arg.env(Resettable::Reset)) } else { command }
}

/// The configuration with what is not on the command line; exits where that is not usable.
fn resolved(mut config: Config, matches: &ArgMatches) -> Config {
    config.note_defaults(matches);
    match config.resolve() {
        Ok(()) => config,
        Err(problem) => reject(&problem),
    }
}

/// Exits as for a bad flag.
fn reject(problem: &str) -> ! {
    Cli::command().error(ErrorKind::ValueValidation, problem).exit()
}

/// Runs what the command line asks for. A bad flag has exit code 2, a command that fails has 1.
pub fn run() -> ExitCode {
    let mut command = command(env::args_os().nth(1).as_deref());
    let matches = command.get_matches_mut();
    let cli = Cli::from_arg_matches(&matches).unwrap_or_else(|error| error.format(&mut command).exit());
    let given = matches.subcommand().map_or(&matches, |(_, matches)| matches);
    let unknown = || variables::unknown(&Cli::command());
    let result = match cli.command {
        None => serve::run(&resolved(cli.serve, given), &unknown()),
        Some(Command::Serve(config)) => serve::run(&resolved(*config, given), &unknown()),
        Some(Command::Health(probe)) => health::run(&probe),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            write_last_line(format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Writes the last line, for which the end of the process does not wait long.
fn write_last_line(line: String) {
    let (done, written) = mpsc::channel();
    thread::spawn(move || {
        eprintln!("{line}");
        _ = done.send(());
    });
    _ = written.recv_timeout(LAST_LINE_TIMEOUT);
}
