//! The real binary as a process.

use std::{
    ffi::OsStr,
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

/// Maximum wait for a process; far longer than it needs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the command of the binary, without any setting from outside, and without an HTTP port unless `flags` ask for
/// one.
pub fn command(flags: &[&str]) -> Command {
    command_of(OsStr::new(env!("CARGO_BIN_EXE_jobtrack")), flags)
}

/// Returns the same command of another binary.
pub fn command_of(binary: &OsStr, flags: &[&str]) -> Command {
    let mut command = Command::new(binary);
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
    /// The log so far. It is read continuously, because a full pipe would block the process.
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts a server on a free port with these flags. Returns once the banner is complete.
    pub fn start(flags: &[&str]) -> Self {
        Self::run(command(flags))
    }

    /// Starts a server by this wall clock.
    pub fn by_clock(clock: &WallClock, flags: &[&str]) -> Self {
        let mut command = command(flags);
        clock.drive(&mut command);
        let process = Self::run(command);
        faketime::tidy(process.id());
        process
    }

    /// Starts a server by this command.
    pub fn run(command: Command) -> Self {
        Self::run_on(command, "127.0.0.1:0")
    }

    /// Starts a server at this address by this command.
    pub fn run_on(mut command: Command, address: &str) -> Self {
        command.args(["--listen", address]).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary can be started");
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut banner = String::new();
        // The banner is written at once; the content of its last line depends on the flags.
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

    /// Returns the log so far.
    pub fn log(&self) -> String {
        self.log.lock().expect("no reader panics").clone()
    }

    /// Waits until the log has a line with all of these words. Returns the line.
    pub async fn logged(&self, words: &[&str]) -> String {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            let log = self.log();
            if let Some(line) = log.lines().find(|line| words.iter().all(|word| line.contains(word))) {
                return line.to_owned();
            }
            assert!(Instant::now() < deadline, "no line with {words:?} in {log}");
            sleep(Duration::from_millis(10)).await;
        }
    }

    /// Returns the address of metrics and probes, which is in the last line of the banner.
    pub fn http(&self) -> SocketAddr {
        let url = self.banner.lines().last().and_then(|line| line.split_once("http://")?.1.strip_suffix("/metrics"));
        url.and_then(|address| address.parse().ok()).unwrap_or_else(|| panic!("no address in {:?}", self.banner))
    }

    /// Opens a new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address is a URI");
        endpoint.connect().await.expect("it listens")
    }

    /// Opens a new connection, and returns a client of `JobService`.
    pub async fn client(&self) -> Client {
        JobServiceClient::new(self.channel().await)
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Opens a new connection, and returns a client of `AdminService`.
    pub async fn admin(&self) -> Admin {
        AdminServiceClient::new(self.channel().await)
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill can be started");
        assert!(sent.success());
    }

    /// Waits for the end of the process. Returns its status and its standard error.
    pub fn wait(mut self) -> (ExitStatus, String) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
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

    /// Counts the open files and connections of the process.
    pub fn files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.child.id())).expect("it runs").count()
    }

    /// Counts the threads of the process.
    pub fn threads(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/task", self.child.id())).expect("it runs").count()
    }

    /// Returns the resident memory in bytes.
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

/// Returns the number of jobs that a log counts as left behind by a stop.
pub fn count_left(log: &str) -> Option<usize> {
    let line = log.lines().find(|line| line.contains("stopped with changes that are not stored in Redis"))?;
    let (_, count) = line.split_once("count=")?;
    count.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()
}
