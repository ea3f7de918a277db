//! A replica: the real binary as a process that can be killed, stopped and started again, with its own wall clock.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tonic::transport::{Channel, Endpoint};

use super::world::Settings;
use crate::support::{
    faketime::{self, WallClock},
    json::Http,
    process::{command, count_left},
};

/// Time within which a replica promises to return after a fault.
pub const GRACE: Duration = Duration::from_secs(6);

/// Flags of every replica, besides those that depend on the run.
const FLAGS: [&str; 2] = ["--log", "jobtrack=debug,info"];

/// Maximum time for a process to start again.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Time after which a stopping process is killed: longer than a stop may take.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// Pause between two checks of a process.
const POLL_INTERVAL: Duration = Duration::from_millis(20);

/// A process, killed when dropped, and its log.
pub struct Replica {
    pub channel: Channel,
    pub http: Http,
    pub number: usize,
    clock: WallClock,
    address: SocketAddr,
    flags: Vec<String>,
    log: PathBuf,
    /// Length of the log when the process was started.
    started: usize,
    child: Child,
}

/// The outcome of a graceful stop.
pub struct Stopped {
    /// The exit code; absent: it had to be killed.
    pub code: Option<i32>,
    /// Log lines of the stop.
    log: String,
    /// Log lines of the process, from its start.
    life: String,
}

impl Replica {
    /// Starts a replica on a free port with this Redis. Its log is in `folder`.
    pub fn start(number: usize, redis: &str, settings: Settings, folder: &Path) -> Self {
        let log = folder.join(format!("replica-{number}.log"));
        _ = fs::remove_file(&log);
        let identities = folder.join("identities.json").display().to_string();
        let active_retention = format!("{}ms", settings.active_retention.as_millis());
        let grace = format!("{}s", GRACE.as_secs());
        let own = ["--redis-url", redis, "--auth-tokens", &identities, "--ttl-active", &active_retention];
        let own = own.into_iter().chain(["--replica-grace", &grace]);
        let flags: Vec<_> = own.chain(FLAGS).map(str::to_owned).collect();
        let clock = WallClock::new();
        let (child, address) = serve("127.0.0.1:0", &flags, &clock, &log).expect("it serves");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy();
        let http = Http::new(address);
        Self { channel, http, number, clock, address, flags, log, started: 0, child }
    }

    /// Starts the process again, on the same port.
    pub fn run(&mut self) {
        // Another process may have been given the port for a moment.
        let deadline = Instant::now() + START_TIMEOUT;
        self.started = self.log().len();
        loop {
            if let Some((child, _)) = serve(&self.address.to_string(), &self.flags, &self.clock, &self.log) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < deadline, "replica {} does not start again", self.number);
            std::thread::sleep(POLL_INTERVAL);
        }
    }

    pub fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }

    /// Steps the replica's wall clock: from now on it is this many seconds off.
    pub fn step_clock(&self, seconds: i64) {
        self.clock.set_off(seconds);
    }

    /// Stops the replica gracefully, while `meanwhile` runs.
    pub async fn stop(&mut self, meanwhile: impl Future<Output = ()>) -> Stopped {
        let before = self.log().len();
        let sent = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(sent.expect("kill can be started").success());
        let (code, ()) = tokio::join!(self.end(), meanwhile);
        let mut log = self.log();
        let life = log.split_off(self.started);
        Stopped { code, log: life[before - self.started..].to_owned(), life }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).expect("the log is text")
    }

    async fn end(&mut self) -> Option<i32> {
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait().expect("the process can be waited for") {
                return status.code();
            }
            sleep(POLL_INTERVAL).await;
        }
        self.kill();
        None
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the binary, which appends to `log`. Returns `None` if it ends at once.
fn serve(address: &str, flags: &[String], clock: &WallClock, log: &Path) -> Option<(Child, SocketAddr)> {
    let log = File::options().create(true).append(true).open(log).expect("a file can be written");
    let flags: Vec<_> = flags.iter().map(String::as_str).chain(["--listen", address]).collect();
    let mut command = command(&flags);
    clock.drive(&mut command);
    let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("the binary can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut banner = String::new();
    while banner.lines().count() < 4 {
        if lines.read_line(&mut banner).expect("the banner is text") == 0 {
            child.wait().expect("it can be waited for");
            return None;
        }
    }
    faketime::tidy(child.id());
    let address = banner.split([' ', ',']).find_map(|word| word.parse().ok()).expect("the banner has the address");
    Some((child, address))
}

impl Stopped {
    /// Returns the number of jobs that the log counts as left behind.
    pub fn left(&self) -> Option<usize> {
        count_left(&self.log)
    }

    /// Returns the jobs that the log of the process names as conflicted or dropped: its report ends with the process.
    pub fn given_way<'a>(&'a self, jobs: impl Iterator<Item = &'a String>) -> Vec<&'a String> {
        let messages = ["conflicting changes merged; one was discarded", "a job is dropped"];
        let is_reported = |line: &&str| messages.iter().any(|message| line.contains(message));
        let lines: Vec<_> = self.life.lines().filter(is_reported).collect();
        let names = |line: &str, job: &str| {
            line.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '-').any(|word| word == job)
        };
        jobs.filter(|job| lines.iter().any(|line| names(line, job))).collect()
    }
}
