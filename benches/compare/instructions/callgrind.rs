//! A server under callgrind, with counters that are read from outside.

use std::{
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::time::sleep;
use uuid::Uuid;

use crate::process::{Kind, Server};

/// A server whose instructions are counted.
pub struct Counted {
    server: Server,
    folder: PathBuf,
    dumps: u32,
}

impl Counted {
    /// Starts a server and counts from here on.
    pub fn start(kind: Kind, redis: Option<&str>) -> Self {
        Self::start_with(kind, redis, |_| {})
    }

    /// Starts a server, after `change` has changed its command.
    pub fn start_with(kind: Kind, redis: Option<&str>, change: impl FnOnce(&mut Command)) -> Self {
        let found = Command::new("valgrind").arg("--version").output().is_ok_and(|output| output.status.success());
        assert!(found, "valgrind IS MISSING: install it (apt-get install valgrind), or ask for other sections");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callgrind-{}", Uuid::new_v4()));
        fs::create_dir_all(&folder).expect("a folder can be made");
        let flags = ["valgrind", "-q", "--tool=callgrind", "--fair-sched=yes", "--instr-atstart=no"];
        let mut wrapper: Vec<_> = flags.map(str::to_owned).into();
        wrapper.push(format!("--callgrind-out-file={}", folder.join("out").display()));
        let mut command = kind.command(redis, &wrapper);
        change(&mut command);
        let server = Server::start(command);
        let counted = Self { server, folder, dumps: 0 };
        let switched = Command::new("callgrind_control").args(["-i", "on", &counted.server.id().to_string()]).output();
        assert!(switched.is_ok_and(|output| output.status.success()), "callgrind_control failed");
        counted
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Resets the counter.
    pub fn zero(&self) {
        self.order("-z");
    }

    /// Returns the number of instructions since [`zero`](Self::zero) or the last dump.
    pub fn dump(&mut self) -> f64 {
        self.order("-d");
        self.dumps += 1;
        let text = fs::read_to_string(self.last_dump()).expect("the dump is there");
        let totals = text.lines().find_map(|line| line.strip_prefix("totals: "));
        totals.and_then(|totals| totals.trim().parse().ok()).expect("a dump has a total")
    }

    /// Returns the number of instructions in a time without calls.
    pub async fn idle(&mut self, time: Duration) -> f64 {
        self.zero();
        sleep(time).await;
        self.dump()
    }

    /// Returns the functions of the last dump that take the most instructions, alone or with all that they call.
    pub fn annotate(&self, inclusive: bool, lines: usize) -> String {
        let flag = if inclusive { "--inclusive=yes" } else { "--inclusive=no" };
        let output = Command::new("callgrind_annotate")
            .args([flag, "--auto=no", "--threshold=100"])
            .arg(self.last_dump())
            .output();
        let output = output.expect("callgrind_annotate comes with valgrind").stdout;
        let text = String::from_utf8_lossy(&output);
        let kind = if inclusive { "with all that they call" } else { "by themselves" };
        let functions = text.lines().skip_while(|line| !line.contains("PROGRAM TOTALS")).take(lines);
        format!("functions {kind}:\n{}", functions.collect::<Vec<_>>().join("\n"))
    }

    /// Copies the last dump to a place where it stays, for further use with `callgrind_annotate`.
    pub fn keep(&self) -> PathBuf {
        let kept = Path::new(env!("CARGO_TARGET_TMPDIR")).join("callgrind.out");
        fs::copy(self.last_dump(), &kept).expect("a file can be copied");
        kept
    }

    fn last_dump(&self) -> PathBuf {
        self.folder.join(format!("out.{}", self.dumps))
    }

    fn order(&self, order: &str) {
        let process = self.server.id().to_string();
        let output = Command::new("callgrind_control").args([order, &process]).output();
        assert!(output.is_ok_and(|output| output.status.success()), "callgrind_control failed");
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.folder);
    }
}
