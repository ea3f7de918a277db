//! Signals to the wrapper, which are passed on to the command.

use std::process::{Child, Command, Stdio};

use jobtrack_client::State;

use super::{SESSION, code, ended, kill, output, until, wrap};
use crate::support::process::Process;

/// Starts a command. Returns when the command has printed `ready` and its job is RUNNING.
async fn start(process: &Process, script: &str) -> (Child, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let mut wrapper = wrap(process.address, &[], script).spawn().expect("it runs");
    let mut lines = output::lines(&mut wrapper);
    assert_eq!(lines.recv().await.as_deref(), Some("ready"));
    until(process.address, |job| job.state() == State::Running).await;
    (wrapper, lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_reach_the_command() {
    for (signal, number) in [("TERM", 15), ("INT", 2), ("HUP", 1), ("QUIT", 3)] {
        let process = Process::start(&[]);
        let (wrapper, _lines) = start(&process, "ulimit -c 0; echo ready; exec sleep 1000").await;
        kill(signal, wrapper.id());
        assert_eq!(code(output(wrapper).await.status), 128 + number);
        assert_eq!(ended(&process).await.failure().expect("it failed").reason, format!("SIGNAL_{number}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_can_catch_signals() {
    let process = Process::start(&[]);
    // A signal that arrives while the shell starts a process may miss that process: it must end soon by itself.
    let script = "trap 'echo caught' USR1; trap 'exit 7' TERM; echo ready; while :; do sleep 0.05; done";
    let (wrapper, mut lines) = start(&process, script).await;
    kill("USR1", wrapper.id());
    assert_eq!(lines.recv().await.as_deref(), Some("caught"));
    kill("TERM", wrapper.id());
    assert_eq!(code(output(wrapper).await.status), 7);
    assert_eq!(ended(&process).await.failure().expect("it failed").reason, "EXIT_7");
}

#[tokio::test(flavor = "multi_thread")]
async fn signals_that_are_ignored_stay_ignored() {
    let process = Process::start(&[]);
    let inner = wrap(process.address, &[], "echo ready; read x; kill -HUP $$; echo alive");
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$@\"", "sh"]).args(inner.get_args().skip(SESSION.len() - 2));
    command.env("JOBTRACK_SERVER", format!("http://{}", process.address));
    let mut wrapper = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("it runs");
    let mut lines = output::lines(&mut wrapper);
    assert_eq!(lines.recv().await.as_deref(), Some("ready"));
    kill("HUP", wrapper.id());
    std::io::Write::write_all(wrapper.stdin.as_mut().expect("it is piped"), b"go\n").expect("it reads");
    assert_eq!(lines.recv().await.as_deref(), Some("alive"));
    assert_eq!(code(output(wrapper).await.status), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_an_absent_tracker_after_a_signal() {
    let address = std::net::SocketAddr::from(([127, 0, 0, 1], crate::support::redis::next_port()));
    let mut wrapper = wrap(address, &["--flush-timeout", "1h"], "echo ready; exit 3").spawn().expect("it runs");
    let mut errors = std::io::BufReader::new(wrapper.stderr.take().expect("it is piped"));
    // The warning is printed at the end of the command. After it, the wrapper waits for the flush timeout.
    let mut line = String::new();
    std::io::BufRead::read_line(&mut errors, &mut line).expect("a line");
    assert!(line.contains("unavailable"), "{line}");
    kill("TERM", wrapper.id());
    assert_eq!(code(output(wrapper).await.status), 3);
}
