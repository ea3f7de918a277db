//! Helper processes of `jobtrack run`, which run this binary with an internal first argument.
//!
//! | argument | task |
//! |---|---|
//! | `__launch` | sets up its session and its parent death signal, then replaces itself by the command |
//! | `__guard` | ends the processes of the command if the wrapper (`jobtrack run`) is killed |
//! | `__copy` | copies the output of processes that outlive the command |

use std::{
    env,
    ffi::{OsStr, OsString},
    io::{self, ErrorKind, Read, Write},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{ChildStdin, Command, ExitCode, Stdio},
    sync::OnceLock,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, ioctl_tiocsctty, setsid};
#[cfg(target_os = "linux")]
use rustix::thread::{disable_transparent_huge_pages, transparent_huge_pages_are_disabled};

use super::{
    ending::{NOT_EXECUTABLE, NOT_FOUND},
    tree::{Placement, Tree},
};

const LAUNCH: &str = "__launch";
const GUARD: &str = "__guard";
const COPY: &str = "__copy";

/// The subcommand of the wrapper itself.
const RUN: &str = "run";

/// Interval at which the guard checks whether the processes have ended.
const GUARD_INTERVAL: Duration = Duration::from_millis(50);

/// Byte that the wrapper writes to its guard to dismiss it.
const DISMISSED: u8 = b'.';

/// Runs the helper process that the first argument names; `None` if the argument names none.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> Option<ExitCode> {
    let mut arguments = arguments.into_iter().skip(1);
    match arguments.next()?.to_str()? {
        LAUNCH => Some(launch(arguments)),
        GUARD => Some(guard(arguments)),
        COPY => Some(copy()),
        RUN => {
            disable_huge_pages();
            None
        }
        _ => None,
    }
}

/// Returns a command that runs this binary, even if the file was replaced after the start.
fn this_binary(word: &str) -> io::Result<Command> {
    let linux = PathBuf::from("/proc/self/exe");
    let mut command = Command::new(if linux.exists() { linux } else { env::current_exe()? });
    command.arg0("jobtrack").arg(word);
    Ok(command)
}

fn placement_word(placement: Placement) -> &'static str {
    match placement {
        Placement::Shared => "shared",
        Placement::Group => "group",
        Placement::Session => "session",
    }
}

fn placement_of(word: Option<&OsStr>) -> Placement {
    match word.and_then(OsStr::to_str) {
        Some("group") => Placement::Group,
        Some("session") => Placement::Session,
        _ => Placement::Shared,
    }
}

/// Word for `__launch`: huge pages are to be enabled again.
const ENABLE_HUGE_PAGES: &str = "huge-pages";

/// Word for `__launch`: the setting of huge pages stays as it is.
const KEEP_HUGE_PAGES: &str = "-";

/// The word for `__launch`, once huge pages were disabled.
static HUGE_PAGES: OnceLock<&str> = OnceLock::new();

/// Disables huge pages for this process before it allocates much. The allocator asks for them, and with them the three
/// megabytes of a wrapper occupy eleven. The command would inherit the setting, so `__launch` enables them again.
fn disable_huge_pages() {
    #[cfg(target_os = "linux")]
    if this_binary(LAUNCH).is_ok()
        && transparent_huge_pages_are_disabled() == Ok(false)
        && disable_transparent_huge_pages(true).is_ok()
    {
        _ = HUGE_PAGES.set(ENABLE_HUGE_PAGES);
    }
}

/// Enables huge pages again, if the wrapper has disabled them.
fn restore_huge_pages(word: Option<&OsStr>) {
    #[cfg(target_os = "linux")]
    if word == Some(OsStr::new(ENABLE_HUGE_PAGES)) {
        _ = disable_transparent_huge_pages(false);
    }
}

/// Returns the `__launch` process for the command `words`; if this binary can't be found, the command itself.
pub fn launcher(words: &[OsString], placement: Placement) -> Command {
    let mut command = match (this_binary(LAUNCH), words) {
        (Err(_), [program, arguments @ ..]) => {
            let mut direct = Command::new(program);
            direct.args(arguments);
            direct
        }
        (Err(_), []) => Command::new(""),
        (Ok(mut launcher), _) => {
            let id = std::process::id().to_string();
            let huge_pages = HUGE_PAGES.get().unwrap_or(&KEEP_HUGE_PAGES);
            launcher.args([&id, placement_word(placement), huge_pages]).args(words);
            launcher
        }
    };
    if placement == Placement::Group {
        command.process_group(0);
    }
    command
}

/// Replaces this process by the command. Returns only if that fails, with the exit code that a shell would have.
fn launch(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let parent = arguments.next().and_then(|id| id.to_str()?.parse().ok()).and_then(Pid::from_raw);
    let placement = placement_of(arguments.next().as_deref());
    restore_huge_pages(arguments.next().as_deref());
    if placement == Placement::Session {
        // Standard output is the terminal.
        _ = setsid().and_then(|_| ioctl_tiocsctty(io::stdout()));
    }
    die_with_parent();
    if parent.is_some() && getppid() != parent {
        // The wrapper was killed before the death signal was set, and another process is the parent now.
        return ExitCode::FAILURE;
    }
    let program = arguments.next().unwrap_or_default();
    let error = Command::new(&program).args(arguments).exec();
    not_started(&program, &error).into()
}

/// Asks the system to send SIGTERM to the command when its wrapper dies. Processes that the command starts do not
/// inherit this setting; the guard signals them.
fn die_with_parent() {
    #[cfg(target_os = "linux")]
    {
        _ = rustix::process::set_parent_process_death_signal(Some(Signal::TERM));
    }
}

/// Writes to standard error why a command can't be started. Returns the exit code that a shell would have.
pub fn not_started(program: &OsStr, error: &io::Error) -> u8 {
    let program = program.to_string_lossy();
    let (problem, code) = match error.kind() {
        ErrorKind::NotFound => ("command not found".to_owned(), NOT_FOUND),
        _ => (error.to_string(), NOT_EXECUTABLE),
    };
    _ = writeln!(io::stderr(), "jobtrack: {program}: {problem}");
    code
}

/// The guard process, which ends the command if this process is killed.
pub struct Guard {
    pipe: ChildStdin,
}

impl Guard {
    /// Starts the guard of a command. `grace` is the time between SIGTERM and SIGKILL.
    pub fn start(root: Pid, placement: Placement, grace: Duration) -> io::Result<Self> {
        let mut command = this_binary(GUARD)?;
        command.arg(root.as_raw_pid().to_string()).arg(placement_word(placement)).arg(grace.as_millis().to_string());
        // In a group of its own the guard gets no signals from the terminal.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/");
        let mut process = command.spawn()?;
        let pipe = process.stdin.take().ok_or(ErrorKind::BrokenPipe)?;
        Ok(Self { pipe })
    }

    /// Tells the guard to end. Does not wait for that, because the guard may still be starting.
    pub fn dismiss(mut self) {
        // The write fails only if the guard has ended, and then there is nothing to dismiss.
        _ = self.pipe.write_all(&[DISMISSED]);
    }
}

/// Waits until the wrapper dismisses this guard or ends. Without a dismissal, ends the processes of the command.
fn guard(mut arguments: impl Iterator<Item = OsString>) -> ExitCode {
    let number = |word: Option<OsString>| word?.to_str()?.parse::<i32>().ok();
    let Some(root) = number(arguments.next()).and_then(Pid::from_raw) else { return ExitCode::FAILURE };
    let placement = placement_of(arguments.next().as_deref());
    let grace = Duration::from_millis(number(arguments.next()).unwrap_or_default().try_into().unwrap_or_default());
    let mut tree = Tree::new(root, placement);
    let mut dismissal = [0];
    if matches!(io::stdin().read(&mut dismissal), Ok(1..)) {
        return ExitCode::SUCCESS;
    }
    let deadline = Instant::now() + grace;
    // On Linux the system has already sent SIGTERM to the command itself.
    if cfg!(target_os = "linux") {
        tree.signal_others(Signal::TERM);
    } else {
        tree.signal_all(Signal::TERM);
    }
    while !tree.is_empty() && Instant::now() < deadline {
        sleep(GUARD_INTERVAL);
    }
    tree.signal_all(Signal::KILL);
    ExitCode::SUCCESS
}

/// Returns the `__copy` process, which copies its standard input to its standard output.
pub fn copier() -> io::Result<Command> {
    let mut command = this_binary(COPY)?;
    command.stderr(Stdio::null()).current_dir("/");
    Ok(command)
}

/// Copies standard input to standard output until the input ends or the output is closed.
fn copy() -> ExitCode {
    let mut buffer = [0; 16 * 1024];
    let (mut input, mut output) = (io::stdin(), io::stdout());
    while let Ok(length @ 1..) = input.read(&mut buffer) {
        if output.write_all(&buffer[..length]).and_then(|()| output.flush()).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
