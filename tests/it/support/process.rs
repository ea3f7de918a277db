//! The real binary as a process.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{admin_service_client::AdminServiceClient, job_service_client::JobServiceClient};
use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use super::{
    Admin, Client,
    faketime::{self, WallClock},
};

/// How long a process may take for what it is asked; far more than it needs.
const PATIENCE: Duration = Duration::from_secs(30);

/// The binary, not started yet, with no setting from outside, and without an HTTP port unless `flags` ask for one.
pub fn command(flags: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_jobtrack"));
    command
        .args(flags)
        .env_clear()
        .env("JOBTRACK_HTTP_LISTEN", "off")
        .env("JOBTRACK_REPLICA_GRACE", "1s")
        .stdin(Stdio::null());
    command
}

/// Runs the binary to its end.
pub fn output(flags: &[&str]) -> Output {
    command(flags).output().expect("the binary can be started")
}

/// A serving process, killed when dropped.
pub struct Process {
    pub address: SocketAddr,
    pub banner: String,
    child: Child,
    /// What it has logged so far, as it comes: a full pipe would hold it up.
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Serves on a free port with these flags, as soon as the banner is there.
    pub fn start(flags: &[&str]) -> Self {
        Self::run(command(flags))
    }

    /// The same, by this wall clock.
    pub fn by_clock(clock: &WallClock, flags: &[&str]) -> Self {
        let mut command = command(flags);
        clock.drive(&mut command);
        let process = Self::run(command);
        faketime::tidy(process.id());
        process
    }

    /// The same, by this command.
    pub fn run(command: Command) -> Self {
        Self::run_on(command, "127.0.0.1:0")
    }

    /// The same, at this address.
    pub fn run_on(mut command: Command, address: &str) -> Self {
        command.args(["--listen", address]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut banner = String::new();
        // The banner is written at once; what it has in its last line depends on the flags.
        while banner.lines().count() < 4 || !lines.buffer().is_empty() {
            assert!(lines.read_line(&mut banner).expect("the banner is text") > 0, "it ended after {banner:?}");
        }
        let address = banner.split([' ', ',']).find_map(|word| word.parse().ok()).expect("the banner has the address");
        let log = Arc::new(Mutex::new(String::new()));
        let (written, read) = (child.stderr.take().expect("it is piped"), log.clone());
        let reader = thread::spawn(move || {
            for line in BufReader::new(written).lines() {
                let line = line.expect("the log is text");
                read.lock().expect("no reader panics").push_str(&(line + "\n"));
            }
        });
        Self { address, banner, child, log, reader: Some(reader) }
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Waits until it has logged a line with all of these words, and returns that.
    pub async fn logged(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {words:?} in {log}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// A new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address is a URI");
        endpoint.connect().await.expect("it listens")
    }

    /// Calls of `JobService` on a new connection.
    pub async fn client(&self) -> Client {
        JobServiceClient::new(self.channel().await)
    }

    /// The id of the process.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Calls of `AdminService` on a new connection.
    pub async fn admin(&self) -> Admin {
        AdminServiceClient::new(self.channel().await)
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill can be started");
        assert!(sent.success());
    }

    /// Waits for its end. Returns its status and what it wrote to standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the process did not end");
            thread::sleep(Duration::from_millis(5));
        };
        self.reader.take().expect("nobody else waits").join().expect("the log is text");
        (status, self.log())
    }

    /// How many files and connections it has open.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// How many threads it has.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs").count()
    }

    /// Memory that it occupies, in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is told");
        line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// The number of jobs that a log counts as left behind by a stop.
pub fn count_left(log: &str) -> Option<usize> {
    let line = log.lines().find(|line| line.contains("stopped with changes that are not stored in Redis"))?;
    let (_, count) = line.split_once("count=")?;
    count.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
