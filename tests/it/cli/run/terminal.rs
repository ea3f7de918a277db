//! Commands on the terminal of the user, and on a terminal of their own.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Write},
    os::fd::OwnedFd,
    process::{Child, Command},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use jobtrack_client::State;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    task::spawn_blocking,
    time::timeout,
};

use super::{SESSION, WAIT_TIMEOUT, code, ended, output, run, until, wrap};
use crate::support::process::Process;

/// A terminal with a wrapper in its foreground.
struct Terminal {
    master: OwnedFd,
    wrapper: Child,
    written: UnboundedReceiver<Vec<u8>>,
    text: String,
    is_closed: Arc<AtomicBool>,
}

impl Terminal {
    /// Runs a script in a wrapper on a new terminal of this size.
    fn start(process: &Process, flags: &[&str], size: (u16, u16), script: &str) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).expect("a terminal");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name").into_string().expect("a path");
        let slave = OpenOptions::new().read(true).write(true).open(name).expect("it can be opened");
        let inner = wrap(process.address, flags, script);
        let mut command = Command::new(SESSION[0]);
        command.args(&SESSION[1..]);
        command
            .arg("--ctty")
            .args(inner.get_args().skip(SESSION.len() - 1))
            .env("JOBTRACK_SERVER", format!("http://{}", process.address));
        command
            .stdin(slave.try_clone().expect("it is open"))
            .stdout(slave.try_clone().expect("it is open"))
            .stderr(slave);
        let wrapper = command.spawn().expect("it can be started");
        let (sender, written) = unbounded_channel();
        let is_closed = Arc::new(AtomicBool::new(false));
        let (reader, is_over) = (File::from(master.try_clone().expect("it is open")), is_closed.clone());
        spawn_blocking(move || read(reader, &is_over, &sender));
        let terminal = Self { master, wrapper, written, text: String::new(), is_closed };
        terminal.resize(size);
        terminal
    }

    fn resize(&self, (ws_row, ws_col): (u16, u16)) {
        let size = Winsize { ws_row, ws_col, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&self.master, size).expect("it is open");
    }

    /// Waits until a text is shown after the previous text that was waited for.
    async fn shows(&mut self, text: &str) {
        let shown = async {
            while !self.text.contains(text) {
                let bytes = self.written.recv().await.unwrap_or_else(|| panic!("{text:?} is not in {:?}", self.text));
                self.text.push_str(&String::from_utf8_lossy(&bytes));
            }
        };
        timeout(WAIT_TIMEOUT, shown).await.unwrap_or_else(|_| panic!("{text:?} is not in {:?}", self.text));
        let end = self.text.find(text).expect("it was just found") + text.len();
        self.text.drain(..end);
    }

    fn press(&self, keys: &str) {
        let mut keyboard = File::from(self.master.try_clone().expect("it is open"));
        keyboard.write_all(keys.as_bytes()).expect("it is open");
    }

    /// Closes the terminal.
    fn close(mut self) -> Child {
        self.is_closed.store(true, Relaxed);
        // The reader thread has the last copy of the master. The terminal is closed when that thread ends.
        drop(self.master);
        while self.written.blocking_recv().is_some() {}
        self.wrapper
    }

    async fn end(self) -> i32 {
        let mut wrapper = self.wrapper;
        let status = spawn_blocking(move || wrapper.wait().expect("it can be waited for"));
        code(timeout(WAIT_TIMEOUT, status).await.expect("it ends").expect("no panic"))
    }
}

/// Reads what is written, until the terminal is closed.
fn read(mut reader: File, is_over: &AtomicBool, sender: &UnboundedSender<Vec<u8>>) {
    let interval = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
    let mut buffer = [0; 4096];
    while !is_over.load(Relaxed) {
        let is_ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&interval)).is_ok_and(|ready| ready > 0);
        match if is_ready { reader.read(&mut buffer) } else { continue } {
            Ok(length @ 1..) if sender.send(buffer[..length].to_vec()).is_ok() => {}
            _ => break,
        }
    }
}

const SIZE: (u16, u16) = (40, 100);

#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_a_command_on_the_terminal_of_the_user() {
    let process = Process::start(&[]);
    let script = "trap 'echo caught; exit 9' INT; read line; echo got $line; echo ready; sleep 1000";
    let mut terminal = Terminal::start(&process, &[], SIZE, script);
    terminal.press("hello\n");
    terminal.shows("got hello").await;
    terminal.shows("ready").await;
    until(process.address, |job| job.state() == State::Running).await;
    terminal.press("\x03");
    terminal.shows("caught").await;
    assert_eq!(terminal.end().await, 9);
    assert_eq!(ended(&process).await.failure().expect("it failed").reason, "EXIT_9");
}

#[tokio::test(flavor = "multi_thread")]
async fn command_ends_when_its_terminal_is_closed_and_the_job_says_so() {
    for flags in [&[][..], &["--pty"]] {
        let process = Process::start(&[]);
        let mut terminal = Terminal::start(&process, flags, SIZE, "echo ready; exec sleep 1000");
        terminal.shows("ready").await;
        until(process.address, |job| job.state() == State::Running).await;
        let mut wrapper = spawn_blocking(move || terminal.close()).await.expect("no panic");
        let status = spawn_blocking(move || wrapper.wait().expect("it can be waited for"));
        assert_eq!(code(timeout(WAIT_TIMEOUT, status).await.expect("it ends").expect("no panic")), 128 + 1);
        assert_eq!(ended(&process).await.failure().expect("it failed").reason, "SIGNAL_1");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn command_gets_a_terminal_of_the_size_of_the_user_s() {
    let process = Process::start(&[]);
    let script = "test -t 0 && test -t 1 && test -t 2 && stty size; trap 'stty size; exit 5' WINCH; \
                  echo ready; while :; do sleep 0.05; done";
    let mut terminal = Terminal::start(&process, &["--pty"], SIZE, script);
    terminal.shows("40 100\r\n").await;
    terminal.shows("ready").await;
    terminal.resize((50, 132));
    terminal.shows("50 132\r\n").await;
    assert_eq!(terminal.end().await, 5);
    assert_eq!(ended(&process).await.failure().expect("it failed").reason, "EXIT_5");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_a_command_on_its_own_terminal() {
    let process = Process::start(&[]);
    let mut terminal = Terminal::start(&process, &["--pty"], SIZE, "echo ready; read x; echo got $x; exec sleep 1000");
    terminal.shows("ready").await;
    terminal.press("hello\r");
    terminal.shows("got hello").await;
    until(process.address, |job| job.state() == State::Running).await;
    terminal.press("\x03");
    assert_eq!(terminal.end().await, 128 + 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_reach_the_attempt_that_runs() {
    let process = Process::start(&[]);
    let script = "test $JOBTRACK_ATTEMPT = 1 && exit 1; echo ready; read x; echo got $x; read y; echo got $y";
    let mut terminal = Terminal::start(&process, &["--pty", "--retries", "1"], SIZE, script);
    terminal.shows("ready").await;
    for line in ["hello", "again"] {
        terminal.press(&format!("{line}\r"));
        terminal.shows(&format!("got {line}")).await;
    }
    assert_eq!(terminal.end().await, 0);
    assert_eq!(ended(&process).await.state(), State::Succeeded);
}

#[tokio::test(flavor = "multi_thread")]
async fn output_of_a_terminal_in_a_pipe_has_plain_line_ends() {
    let process = Process::start(&[]);
    let finished =
        run(wrap(process.address, &["--pty"], "test -t 1 && stty size < /dev/tty; echo err >&2; exit 3")).await;
    assert_eq!((code(finished.status), String::from_utf8_lossy(&finished.stdout).as_ref()), (3, "24 80\nerr\n"));
    assert_eq!(ended(&process).await.failure().expect("it failed").message, "24 80\nerr");
}

#[tokio::test(flavor = "multi_thread")]
async fn process_that_keeps_a_terminal_open_is_not_waited_for() {
    let process = Process::start(&[]);
    let script = "trap '' HUP; sleep 1000 & echo $!";
    let finished = output(wrap(process.address, &["--pty"], script).spawn().expect("it runs")).await;
    assert_eq!(code(finished.status), 0);
    let id = String::from_utf8_lossy(&finished.stdout).trim().to_owned();
    super::kill("KILL", id.parse().expect("a number"));
}
