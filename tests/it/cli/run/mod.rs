//! `jobtrack run`: commands under the real binary, with available and with unavailable trackers.

mod cancellation;
mod commands;
mod outages;
mod output;
mod progress;
mod reports;
mod signals;
mod terminal;

use std::{
    env,
    net::SocketAddr,
    os::unix::process::ExitStatusExt,
    process::{Child, Command, ExitStatus, Output, Stdio},
    time::Duration,
};

use jobtrack_client::{Job, JobFilter, Tracker};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::support::{credentials::Folder, process::Process, watching::until_version};

/// Maximum time to wait for an expected event; far more than the event needs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(180);

/// Id of the job, in each test.
const ID: &str = "job";

/// Returns `jobtrack run FLAGS -- sh -c SCRIPT`, without a controlling terminal.
fn wrap(address: SocketAddr, flags: &[&str], script: &str) -> Command {
    wrap_words(address, flags, &["sh", "-c", script])
}

/// Prefix of a command that starts it in a new session, with the default effect of terminal signals. Commands inherit
/// ignored signals, and a shell script ignores these signals in its background commands.
const SESSION: [&str; 3] = ["env", "--default-signal=HUP,INT,QUIT", "setsid"];

/// Returns `jobtrack run FLAGS -- WORDS`, without a controlling terminal.
fn wrap_words(address: SocketAddr, flags: &[&str], words: &[&str]) -> Command {
    let mut command = Command::new(SESSION[0]);
    command
        .args(&SESSION[1..])
        .arg(env!("CARGO_BIN_EXE_jobtrack"))
        .arg("run")
        .args(["--id", ID])
        .args(flags)
        .arg("--")
        .args(words);
    command.env("JOBTRACK_SERVER", format!("http://{address}"));
    tidy(&mut command);
    command
}

/// Returns `sh -c SCRIPT`.
fn bare(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    tidy(&mut command);
    command
}

fn tidy(command: &mut Command) {
    for (name, _) in env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("JOBTRACK_")) {
        if command.get_envs().all(|(set, _)| set != name) {
            command.env_remove(name);
        }
    }
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Waits for the end of a process.
async fn output(child: Child) -> Output {
    let output = spawn_blocking(|| child.wait_with_output().expect("it can be waited for"));
    timeout(WAIT_TIMEOUT, output).await.expect("it ends").expect("no panic")
}

/// Runs a command to its end.
async fn run(mut command: Command) -> Output {
    output(command.spawn().expect("it can be started")).await
}

/// Returns the exit code that a shell has for the end of a process.
fn code(status: ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().expect("it has ended"))
}

/// Fails unless a wrapped command has the exit code and the output of the bare command. Returns the lines that the
/// wrapper itself has written.
#[track_caller]
fn same(wrapped: &Output, bare: &Output) -> Vec<String> {
    assert_eq!(code(wrapped.status), code(bare.status), "{}", String::from_utf8_lossy(&wrapped.stderr));
    assert!(wrapped.stdout == bare.stdout, "{} and {} bytes", wrapped.stdout.len(), bare.stdout.len());
    let text = String::from_utf8_lossy(&wrapped.stderr).into_owned();
    let (own, of_command): (Vec<_>, Vec<_>) =
        text.split_inclusive('\n').partition(|line| line.starts_with("jobtrack: "));
    assert_eq!(of_command.concat(), String::from_utf8_lossy(&bare.stderr));
    own.into_iter().map(str::to_owned).collect()
}

fn tracker(address: SocketAddr) -> Tracker {
    Tracker::builder(format!("http://{address}")).timeout(WAIT_TIMEOUT).connect_lazy().expect("the URL is valid")
}

/// Waits for the end of the job, and returns the job.
async fn ended(process: &Process) -> Job {
    until(process.address, Job::has_ended).await
}

/// Waits for a version of the job that fulfils `is_so`. The job may not exist yet.
async fn until(address: SocketAddr, is_so: impl Fn(&Job) -> bool) -> Job {
    let watch = tracker(address).watch_many(JobFilter::default()).with_documents().ids([ID]);
    until_version(watch, WAIT_TIMEOUT, is_so).await
}

/// A named pipe that makes a command wait: `read x < GATE`.
struct Gate {
    path: String,
    _folder: Folder,
}

impl Gate {
    fn new() -> Self {
        let folder = Folder::new();
        let path = folder.path("gate");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo can be started").success());
        Self { path, _folder: folder }
    }

    /// Waits until the command reads from the gate, and lets it continue.
    async fn open(&self) {
        let path = self.path.clone();
        let opened = spawn_blocking(move || std::fs::write(path, "go\n").expect("the command waits"));
        timeout(WAIT_TIMEOUT, opened).await.expect("the command waits").expect("no panic");
    }
}

/// Sends a signal to a process.
fn kill(signal: &str, process: u32) {
    let sent = Command::new("kill").args(["-s", signal, &process.to_string()]).status().expect("kill can be started");
    assert!(sent.success(), "{process} has ended");
}

/// Returns whether a process has not ended.
fn is_alive(process: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

/// Waits until a process has ended.
async fn gone(process: &str) {
    let ended = async {
        while is_alive(process) {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(WAIT_TIMEOUT, ended).await.unwrap_or_else(|_| panic!("process {process} was left behind"));
}
