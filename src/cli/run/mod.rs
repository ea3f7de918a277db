//! `jobtrack run`: any command as a job.
//!
//! The tracker never delays the command or its output. `machine` decides what happens, without any I/O; `supervisor`
//! performs its decisions; [`progress`] finds progress in the output.

mod child;
mod ending;
pub mod internal;
mod machine;
pub mod progress;
mod signals;
mod streams;
mod supervisor;
mod tail;
mod terminal;
mod tracking;
mod tree;

use std::{ffi::OsString, process::ExitCode, time::Duration};

use clap::Args;
use tokio::{runtime, sync::mpsc::unbounded_channel};

use self::{
    child::Start,
    machine::{Machine, Settings},
    progress::Pattern,
    signals::listen,
    streams::Observer,
    supervisor::{Receivers, Supervisor},
    terminal::has_controlling_terminal,
    tracking::{NewJob, Tracking, kind},
    tree::Placement,
};
use super::{
    client::values::pair,
    connection::Connection,
    exit::{CommandError, end, write_last_line},
};
use crate::config;

/// The command to run, and its job.
#[derive(Args)]
pub struct Run {
    /// Id of the job; an existing job is claimed; by default a new id
    #[arg(long)]
    id: Option<String>,

    /// Name of the job, shown to people; by default the command line
    #[arg(long)]
    title: Option<String>,

    /// Kind of work; by default the name of the program
    #[arg(long)]
    kind: Option<String>,

    /// Tenant or client that the job belongs to
    #[arg(long)]
    owner: Option<String>,

    /// Label of the job; may be given several times
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    label: Vec<(String, String)>,

    /// Lease: time without a report or heartbeat after which the job fails
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = config::duration)]
    lease: Duration,

    /// Number of times that the command is started again after a failure; each start is an attempt of the job
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    retries: u32,

    /// Time between SIGTERM and SIGKILL when the job is cancelled
    #[arg(long, default_value = "10s", value_name = "TIME", value_parser = config::duration)]
    grace: Duration,

    /// Maximum time to wait for the tracker after the end of the command
    #[arg(long, default_value = "5s", value_name = "TIME", value_parser = config::duration)]
    flush_timeout: Duration,

    /// Run the command only with a claimed job, stop the command if another worker takes over the job or the job ends,
    /// and fail if the end of the job can't be reported
    #[arg(long)]
    strict: bool,

    /// Run the command on a terminal of its own, for programs that show progress only on a terminal
    #[arg(long)]
    pty: bool,

    /// Do not send the last output as the message of a failure
    #[arg(long)]
    no_output: bool,

    /// Find progress only in lines that match; its named groups are percent, completed, total, stage and message
    #[arg(long, value_name = "REGEX", value_parser = Pattern::parse)]
    progress_regex: Option<Pattern>,

    #[command(flatten)]
    connection: Connection,

    /// Command with its arguments
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<OsString>,
}

impl Run {
    /// Runs the command to its end. Returns the exit code of the command.
    pub fn run(self) -> ExitCode {
        let runtime = match runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                return end(Err(CommandError::Failed(format!("the runtime can't be started: {error}"))));
            }
        };
        // The parent death signal of the command is sent when the thread that started it ends. With a runtime on the
        // current thread, that is the main thread, which ends with this process.
        let code = runtime.block_on(self.supervise());
        runtime.shutdown_background();
        code
    }

    async fn supervise(self) -> ExitCode {
        let placement = match (self.pty, has_controlling_terminal()) {
            (true, _) => Placement::Session,
            (false, true) => Placement::Shared,
            (false, false) => Placement::Group,
        };
        let ((heard_signal, signals), (messages, message_receiver)) = (unbounded_channel(), unbounded_channel());
        let (troubles, trouble_receiver) = unbounded_channel();
        if let Err(error) = listen(placement, &heard_signal) {
            write_last_line(format!("jobtrack: signals are not passed on: {error}"));
        }
        let (machine, first) = Machine::new(Settings { strict: self.strict, retries: self.retries });
        let job = self.job();
        let start = Start {
            command: self.command,
            placement,
            grace: self.grace,
            messages,
            observer: Observer::new(self.progress_regex),
        };
        let tracking = Tracking::new(self.connection, job, self.flush_timeout, troubles);
        let receivers = Receivers { signals, messages: message_receiver, troubles: trouble_receiver };
        let supervisor = Supervisor::new(machine, start, tracking, receivers, !self.no_output, write_last_line);
        supervisor.run(first).await.into()
    }

    fn job(&self) -> NewJob {
        let words: Vec<_> = self.command.iter().map(|word| word.to_string_lossy()).collect();
        NewJob {
            id: self.id.clone(),
            title: self.title.clone().unwrap_or_else(|| words.join(" ")),
            kind: self.kind.clone().unwrap_or_else(|| kind(&words[0])),
            owner: self.owner.clone(),
            labels: self.label.clone(),
            lease: self.lease,
        }
    }
}
