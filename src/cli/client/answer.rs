//! The output of commands that change a job.

use std::time::SystemTime;

use clap::Args;
use jobtrack_client::Job;
use prost::Message;

use crate::cli::{
    exit::CommandError,
    output::{Json, Output, print},
    show::line,
};

/// Flags for the output of a command that changes a job.
#[derive(Args, Clone, Copy)]
pub struct Answer {
    #[command(flatten)]
    output: Output,
}

impl Answer {
    /// Prints the job after the change.
    pub fn print(self, job: &Job) -> Result<(), CommandError> {
        self.print_of("Job", job, job)
    }

    /// Prints an answer as JSON, in the form of the message `name`, or prints its job for people.
    pub fn print_of(self, name: &str, answer: &impl Message, job: &Job) -> Result<(), CommandError> {
        let format = self.output.format;
        print(&if format.is_json() { Json::of(name, format).write(answer) } else { line(job, SystemTime::now()) })
    }
}
