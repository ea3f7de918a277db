//! The client commands of the binary, against real servers.

mod commands;
mod exit_codes;
mod restarts;
mod run;
mod terminal;
mod watching;

use std::{
    net::SocketAddr,
    process::{Command, Output},
};

use crate::support::process::{Process, command};

/// Returns a client command for the tracker at this address.
pub fn client(address: SocketAddr, arguments: &[&str]) -> Command {
    let mut command = command(arguments);
    command.env("JOBTRACK_SERVER", format!("http://{address}"));
    command
}

/// The output of a client command.
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl From<Output> for Ended {
    fn from(from: Output) -> Self {
        let [stdout, stderr] = [from.stdout, from.stderr].map(|text| String::from_utf8(text).expect("it is text"));
        assert!(!stderr.contains("panicked"), "{stderr}");
        Self { code: from.status.code(), stdout, stderr }
    }
}

/// Runs a client command to its end.
pub fn run(process: &Process, arguments: &[&str]) -> Ended {
    client(process.address, arguments).output().expect("the binary can be started").into()
}

/// Runs a client command that succeeds, and returns its output.
#[track_caller]
pub fn ok(process: &Process, arguments: &[&str]) -> String {
    let ended = run(process, arguments);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""), "{arguments:?}: {}", ended.stdout);
    ended.stdout
}
