//! The measured servers, as separate processes.

use std::{
    env, fs,
    io::{BufRead, BufReader},
    net::SocketAddr,
    process::{Child, Command, Stdio},
    time::Duration,
};

use crate::cpu;

/// A capacity at which no job is evicted.
const ROOM: &str = "10000000";

/// A server process, killed when dropped.
pub struct Server {
    pub address: SocketAddr,
    child: Child,
}

impl Server {
    /// Runs `command` until its first line of output, which names its address.
    pub fn start(mut command: Command) -> Self {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?} can't be started: {error}"));
        let mut line = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
        lines.read_line(&mut line).expect("the first line is text");
        let address = line.trim().split([' ', ',']).find_map(|word| word.parse().ok());
        let address = address.unwrap_or_else(|| panic!("{command:?} ended early; its first line is {line:?}"));
        Self::new(address, child)
    }

    /// Returns the server of a running process.
    pub fn new(address: SocketAddr, child: Child) -> Self {
        Self { address, child }
    }

    /// Returns the process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Returns the CPU time used so far.
    pub fn cpu_time(&self) -> Duration {
        cpu::time(self.id())
    }

    /// Returns the resident memory in bytes.
    pub fn resident(&self) -> u64 {
        resident(self.id())
    }
}

/// Returns the resident memory of a process in bytes.
pub fn resident(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("its memory is told");
    line.trim().trim_end_matches(" kB").trim().parse::<u64>().expect("a number") * 1024
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

/// Variable with jobtrack's timeout of a Redis command.
pub const REDIS_TIMEOUT: &str = "JOBTRACK_REDIS_TIMEOUT";

/// A kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The bare server, with one shared connection to Redis.
    Floor,
    /// The bare server with a stock connection pool.
    Stock,
    Jobtrack,
}

impl Kind {
    /// Returns the command that serves on a free port, in memory or with the Redis at this address. `wrapper` precedes
    /// it.
    pub fn command(self, redis: Option<&str>, wrapper: &[String]) -> Command {
        let mut words = wrapper.to_vec();
        words.extend(match self {
            Self::Floor | Self::Stock => floor_command(redis, self == Self::Stock),
            Self::Jobtrack => jobtrack_command(redis),
        });
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).env_clear().env("JOBTRACK_HTTP_LISTEN", "127.0.0.1:0");
        // The maximum: under valgrind everything is slow.
        command.env(REDIS_TIMEOUT, "4s");
        for name in ["PATH", "HOME"] {
            command.envs(env::var_os(name).map(|value| (name, value)));
        }
        command
    }

    /// Starts the server with its default options.
    pub fn start(self, redis: Option<&str>) -> Server {
        Server::start(self.command(redis, &[]))
    }
}

/// Returns the command that serves the floor by this program.
fn floor_command(redis: Option<&str>, stock: bool) -> Vec<String> {
    let program = env::current_exe().expect("this program has a path");
    let mut words = vec![program.display().to_string(), "floor".to_owned()];
    words.extend(redis.into_iter().flat_map(|url| ["--redis".to_owned(), url.to_owned()]));
    words.extend(stock.then(|| "--stock".to_owned()));
    words
}

fn jobtrack_command(redis: Option<&str>) -> Vec<String> {
    let flags = match redis {
        None => vec!["--max-memory-jobs", ROOM],
        Some(url) => vec!["--redis-url", url],
    };
    // All connections of a measurement are open before the first call, and one caller has all watches.
    let unlimited = ["--max-unauthenticated-connections", "0", "--max-watches-per-identity", "0"];
    let words = [env!("CARGO_BIN_EXE_jobtrack"), "--listen", "127.0.0.1:0"].into_iter().chain(unlimited).chain(flags);
    words.map(str::to_owned).collect()
}
