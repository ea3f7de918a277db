//! The command line.

mod health;
mod serve;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand, error::ErrorKind};

use crate::config::Config;

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

/// The configuration with what is not on the command line; exits where that is not usable.
fn resolved(mut config: Config) -> Config {
    match config.resolve() {
        Ok(()) => config,
        Err(problem) => Cli::command().error(ErrorKind::ValueValidation, problem).exit(),
    }
}

/// Runs what the command line asks for. A bad flag has exit code 2, a command that fails has 1.
pub fn run() -> ExitCode {
    let cli = Cli::parse();
    let result = match cli.command {
        None => serve::run(&resolved(cli.serve)),
        Some(Command::Serve(config)) => serve::run(&resolved(*config)),
        Some(Command::Health(probe)) => health::run(&probe),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
