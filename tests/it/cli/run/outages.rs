//! Trackers that are absent, unresponsive, slow or killed, or that reject the job. The command is never affected.

use std::{net::SocketAddr, time::Duration};

use jobtrack_client::State;
use serde_json::json;

use super::{Gate, bare, code, ended, output, run, same, until, wrap};
use crate::support::{
    create,
    credentials::{Folder, holder, identities},
    process::{Process, command},
    redis::{Redis, next_port},
    relay::{Link, Relay},
};

/// A command that writes to both outputs and fails.
const SCRIPT: &str = "echo out; echo 45%; echo err >&2; exit 3";

fn unused() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], next_port()))
}

#[tokio::test(flavor = "multi_thread")]
async fn absent_tracker_costs_one_line() {
    let address = unused();
    let finished = run(wrap(address, &["--flush-timeout", "100ms"], SCRIPT)).await;
    let lines = same(&finished, &run(bare(SCRIPT)).await);
    assert!(lines.len() == 1 && lines[0].contains("refused") && lines[0].contains(&address.to_string()), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_command_is_not_run_without_the_tracker() {
    let finished = run(wrap(unused(), &["--strict"], "echo started")).await;
    assert_eq!((code(finished.status), finished.stdout.len()), (5, 0));
    let text = String::from_utf8_lossy(&finished.stderr);
    assert!(text.lines().count() == 1 && text.contains("not started") && text.contains("refused"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_tracker_costs_one_line_and_the_time_to_flush() {
    let process = Process::start(&[]);
    process.signal("STOP");
    let finished = run(wrap(process.address, &["--flush-timeout", "100ms"], SCRIPT)).await;
    process.signal("CONT");
    let lines = same(&finished, &run(bare(SCRIPT)).await);
    assert!(lines.len() == 1 && lines[0].contains("not reported"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn job_is_created_late_and_has_the_latest_state() {
    let (address, gate) = (unused(), Gate::new());
    let script = format!("echo 45%; read x < {}; echo 55%; exit 3", gate.path);
    let wrapper = wrap(address, &["--flush-timeout", "60s"], &script).spawn().expect("it runs");
    let process = Process::run_on(command(&[]), &address.to_string());
    let job = until(address, |job| job.percent() == Some(45.0)).await;
    assert_eq!(job.state(), State::Running);
    gate.open().await;
    assert_eq!(code(output(wrapper).await.status), 3);
    let job = ended(&process).await;
    assert_eq!((job.percent(), job.failure().expect("it failed").reason.as_str()), (Some(55.0), "EXIT_3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_ended_while_the_tracker_was_away_is_reported() {
    let address = unused();
    let wrapper = wrap(address, &["--flush-timeout", "60s"], SCRIPT).spawn().expect("it runs");
    let process = Process::run_on(command(&[]), &address.to_string());
    assert_eq!(code(output(wrapper).await.status), 3);
    assert_eq!(ended(&process).await.failure().expect("it failed").reason, "EXIT_3");
}

#[tokio::test(flavor = "multi_thread")]
async fn tracker_that_is_killed_and_comes_back_costs_nothing() {
    let (redis, address, gates) = (Redis::start().await, unused(), [Gate::new(), Gate::new()]);
    let url = redis.url();
    let flags = ["--redis-url", &url];
    let start = || Process::run_on(command(&flags), &address.to_string());
    let process = start();
    let script = format!("echo 25%; read x < {}; echo 50%; read x < {}; echo out", gates[0].path, gates[1].path);
    let wrapper = wrap(address, &["--flush-timeout", "60s"], &script).spawn().expect("it runs");
    until(address, |job| job.percent() == Some(25.0)).await;
    process.signal("KILL");
    process.wait();
    gates[0].open().await;
    let process = start();
    until(address, |job| job.percent() == Some(50.0)).await;
    gates[1].open().await;
    let finished = output(wrapper).await;
    assert_eq!((code(finished.status), String::from_utf8_lossy(&finished.stdout).as_ref()), (0, "25%\n50%\nout\n"));
    let job = ended(&process).await;
    assert_eq!((job.state(), job.attempt), (State::Succeeded, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn tracker_that_lost_the_job_does_not_stop_the_command() {
    let (address, gate) = (unused(), Gate::new());
    let start = || Process::run_on(command(&[]), &address.to_string());
    let process = start();
    let script = format!("echo 25%; read x < {}; exit 3", gate.path);
    let mut wrapper = wrap(address, &["--lease", "1s"], &script).spawn().expect("it runs");
    until(address, |job| job.percent() == Some(25.0)).await;
    process.signal("KILL");
    process.wait();
    let process = start();
    // The new process does not know the job: the next heartbeat fails, and the wrapper prints a warning.
    let mut errors = std::io::BufReader::new(wrapper.stderr.take().expect("it is piped"));
    let read = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        while !text.contains("JOB_NOT_FOUND")
            && std::io::BufRead::read_line(&mut errors, &mut text).is_ok_and(|read| read > 0)
        {}
        text
    });
    let text = tokio::time::timeout(super::WAIT_TIMEOUT, read).await.expect("it says so").expect("no panic");
    assert!(text.contains("continues untracked"), "{text}");
    gate.open().await;
    assert_eq!(code(output(wrapper).await.status), 3);
    drop(process);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_tracker_is_only_slow() {
    let process = Process::start(&[]);
    let relay = Relay::to(process.address.port()).await;
    relay.set_all(Link::Late(Duration::from_millis(500)));
    let address = relay.url().trim_start_matches("redis://").parse().expect("an address");
    let finished = run(wrap(address, &["--flush-timeout", "60s"], SCRIPT)).await;
    same(&finished, &run(bare(SCRIPT)).await);
    let job = ended(&process).await;
    assert_eq!((job.percent(), job.failure().expect("it failed").reason.as_str()), (Some(45.0), "EXIT_3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_token_costs_one_line() {
    let files = Folder::new();
    let tokens = files.write("identities", &identities(&[holder("right", "reporter", &json!("*"))]));
    let process = Process::start(&["--auth-tokens", &tokens]);
    let mut command = wrap(process.address, &["--flush-timeout", "2s"], SCRIPT);
    command.env("JOBTRACK_TOKEN", "wrong");
    let lines = same(&run(command).await, &run(bare(SCRIPT)).await);
    assert!(lines.len() == 1 && lines[0].contains("UNAUTHENTICATED"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_tracker_costs_one_line() {
    let process = Process::start(&["--max-memory-jobs", "1"]);
    create(&mut process.client().await, "other").await;
    let finished = run(wrap(process.address, &["--flush-timeout", "2s"], SCRIPT)).await;
    let lines = same(&finished, &run(bare(SCRIPT)).await);
    assert!(lines.len() == 1 && lines[0].contains("MEMORY_FULL"), "{lines:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_that_can_not_be_configured_does_not_stop_the_command() {
    let mut command = wrap(unused(), &["--ca-file", "/missing"], SCRIPT);
    command.env("JOBTRACK_SERVER", "https://127.0.0.1:1");
    let lines = same(&run(command).await, &run(bare(SCRIPT)).await);
    assert!(lines.len() == 1 && lines[0].contains("/missing"), "{lines:?}");
}
