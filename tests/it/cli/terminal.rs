//! A terminal for a program under test, made by `script` of util-linux.

use std::{
    ffi::OsStr,
    io::{Read, Write},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

/// Maximum time to wait for an expected output; far more than the output needs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A program on a terminal of its own.
pub struct Terminal {
    child: Child,
    keyboard: ChildStdin,
    shown: Receiver<Vec<u8>>,
    /// The output so far: it begins with the process id, and ends with the modes of the terminal.
    pub text: String,
}

impl Terminal {
    /// Runs a command, whose arguments have no spaces, on a terminal of this size.
    pub fn run(command: &Command, columns: u16, rows: u16) -> Self {
        let words = [command.get_program()].into_iter().chain(command.get_args());
        let words: Vec<_> = words.map(|word| word.to_str().expect("it is text")).collect();
        let program = format!("sh -c 'echo pid $$; exec {}'", words.join(" "));
        let line = format!("stty columns {columns} rows {rows}; {program}; code=$?; stty -a; exit $code");
        let mut script = Command::new("script");
        script.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]).env_clear();
        let variables = command.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let path = std::env::var_os("PATH").unwrap_or_default();
        let own = [("TERM", OsStr::new("xterm-256color")), ("SHELL", OsStr::new("/bin/sh")), ("PATH", &path)];
        script.envs(variables).envs(own).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = script.spawn().expect("script of util-linux can be started");
        let (keyboard, screen) = (child.stdin.take().expect("it is piped"), child.stdout.take());
        let mut screen = screen.expect("it is piped");
        let (send, shown) = channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(read @ 1..) = screen.read(&mut buffer) {
                if send.send(buffer[..read].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { child, keyboard, shown, text: String::new() }
    }

    /// Waits until the output fulfils `is_so`.
    #[track_caller]
    pub fn until(&mut self, is_so: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        while !is_so(&self.text) {
            let left = deadline.saturating_duration_since(Instant::now());
            let bytes = self.shown.recv_timeout(left).unwrap_or_else(|_| panic!("not shown in {:?}", self.text));
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Presses keys.
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("it is open");
    }

    /// Sends a signal by its name to the program.
    pub fn signal(&self, name: &str) {
        let id = self.text.lines().find_map(|line| line.strip_prefix("pid ")).expect("it is shown first");
        let sent = Command::new("kill").args(["-s", name, id.trim()]).status().expect("kill can be started");
        assert!(sent.success());
    }

    /// Waits for the end of the program, and reads the rest of its output.
    pub fn end(&mut self) -> ExitStatus {
        let status = self.child.wait().expect("it can be waited for");
        while let Ok(bytes) = self.shown.recv_timeout(WAIT_TIMEOUT) {
            self.text.push_str(&String::from_utf8_lossy(&bytes));
        }
        status
    }

    /// Returns whether the final modes of the terminal have echo and line buffering, as before the program.
    pub fn ended_plain(&self) -> bool {
        [" icanon ", " echo "].iter().all(|mode| self.text.contains(mode))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}
