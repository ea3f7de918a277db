//! Signals to this process, which are passed on to the command.

use std::{fs, io};

use rustix::process::Signal;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::mpsc::UnboundedSender,
};

use super::tree::{Placement, Tree};

/// A signal that is passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passed(i32);

/// Signal that a terminal sends when its size has changed.
const WINDOW_CHANGED: Signal = Signal::WINCH;

/// Signals that ask a process to stop. They are sent to the process group of the command, if it leads one.
const STOPPING: [Signal; 4] = [Signal::HUP, Signal::INT, Signal::QUIT, Signal::TERM];

/// Signals that a terminal sends to its whole foreground process group when a key is pressed.
const OF_KEYS: [Signal; 2] = [Signal::INT, Signal::QUIT];

/// Signals that are sent to the command alone, not to its process group.
const CUSTOM: [Signal; 2] = [Signal::USR1, Signal::USR2];

/// Signals that stop and continue a process group. In the foreground group of a terminal they reach this process and
/// the command alike, and need not be passed on.
const JOB_CONTROL: [Signal; 2] = [Signal::TSTP, Signal::CONT];

/// Listens for the signals to pass on to a command of this placement. Signals that were ignored at the start of this
/// process stay ignored; the command inherits that.
pub fn listen(placement: Placement, heard: &UnboundedSender<Passed>) -> io::Result<()> {
    let ignored = ignored();
    let of_place: &[Signal] = match placement {
        Placement::Shared => &[],
        Placement::Group => &JOB_CONTROL,
        Placement::Session => &[WINDOW_CHANGED],
    };
    for listened in STOPPING.iter().chain(&CUSTOM).chain(of_place) {
        let number = listened.as_raw();
        if ignored & (1 << (number - 1)) != 0 {
            continue;
        }
        let mut signals = signal(SignalKind::from_raw(number))?;
        let heard = heard.clone();
        tokio::spawn(async move { while signals.recv().await.is_some() && heard.send(Passed(number)).is_ok() {} });
    }
    Ok(())
}

/// Returns the signals that were ignored at the start of this process, as a bit mask.
fn ignored() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default()
}

impl Passed {
    /// Returns whether the signal asks the command to stop.
    pub fn is_stopping(self) -> bool {
        self.is_one_of(&STOPPING)
    }

    /// Returns whether the size of the terminal has changed.
    pub fn is_resize(self) -> bool {
        self.is_one_of(&[WINDOW_CHANGED])
    }

    /// Passes the signal on.
    pub fn send(self, tree: &Tree, placement: Placement) {
        // In a shared group the terminal has sent these signals to the command, too.
        if self.is_resize() || (placement == Placement::Shared && self.is_one_of(&OF_KEYS)) {
            return;
        }
        let Some(signal) = Signal::from_named_raw(self.0) else { return };
        if self.is_one_of(&CUSTOM) { tree.signal_root(signal) } else { tree.signal_group(signal) }
    }

    fn is_one_of(self, signals: &[Signal]) -> bool {
        signals.iter().any(|signal| signal.as_raw() == self.0)
    }
}
