//! Cancelled jobs, whose commands are stopped.

use jobtrack_client::{State, proto::v1::CancelJobRequest};

use super::{ID, code, ended, gone, output, tracker, until, wrap};
use crate::support::process::Process;

/// Starts a command that writes the ids of its processes, and cancels the job of the command. Returns the exit code and
/// the ids after the end of the command.
async fn cancel(process: &Process, flags: &[&str], script: &str, force: bool) -> (i32, Vec<String>) {
    let flags = [&["--lease", "1s"], flags].concat();
    let mut wrapper = wrap(process.address, &flags, script).spawn().expect("it runs");
    let mut lines = output::lines(&mut wrapper);
    let mut ids = Vec::new();
    while ids.last().is_none_or(|last| last != "ready") {
        ids.push(lines.recv().await.expect("a line"));
    }
    ids.pop();
    until(process.address, |job| job.state() == State::Running).await;
    let request = CancelJobRequest { job_id: ID.to_owned(), force, ..Default::default() };
    tracker(process.address).cancel_with(request).await.expect("it runs");
    (code(output(wrapper).await.status), ids)
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_command_gets_sigterm_with_all_its_processes() {
    let process = Process::start(&[]);
    let script = "sh -c 'echo $$; exec sleep 1000' & sleep 1000 & echo $!; sh -c 'echo ready'; wait";
    let (code, ids) = cancel(&process, &[], script, false).await;
    assert_eq!((code, ended(&process).await.state()), (128 + 15, State::Cancelled));
    for id in ids {
        gone(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_that_ignores_sigterm_is_killed_after_the_grace() {
    let process = Process::start(&[]);
    let script = "trap '' TERM; sleep 1000 & echo $!; echo $$; echo ready; while :; do wait; done";
    let (code, ids) = cancel(&process, &["--grace", "200ms"], script, false).await;
    assert_eq!((code, ended(&process).await.state()), (128 + 9, State::Cancelled));
    for id in ids {
        gone(&id).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_ignores_sigterm_does_not_outlive_its_cancelled_command() {
    let process = Process::start(&[]);
    let script = "sh -c 'trap \"\" TERM; echo $$; echo ready; while :; do sleep 1000; done' & wait";
    let (code, ids) = cancel(&process, &["--grace", "200ms"], script, false).await;
    assert_eq!((code, ended(&process).await.state()), (128 + 15, State::Cancelled));
    assert_eq!(ids.len(), 1);
    gone(&ids[0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stopped_command_is_cancelled_too() {
    let process = Process::start(&[]);
    let script = "echo $$; sh -c 'echo ready'; kill -STOP $$; sleep 1000";
    let (code, _) = cancel(&process, &[], script, false).await;
    assert_eq!((code, ended(&process).await.state()), (128 + 15, State::Cancelled));
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_command_that_ends_well_has_succeeded() {
    let process = Process::start(&[]);
    let script = "trap 'exit 0' TERM; sleep 1000 & echo ready; wait";
    let (code, _) = cancel(&process, &[], script, false).await;
    assert_eq!((code, ended(&process).await.state()), (0, State::Succeeded));
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_is_cancelled_by_force_stops_its_command() {
    let process = Process::start(&[]);
    let (code, _) = cancel(&process, &[], "sleep 1000 & echo ready; wait", true).await;
    assert_eq!((code, ended(&process).await.state()), (128 + 15, State::Cancelled));
}
