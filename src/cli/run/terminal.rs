//! A terminal of the command's own, and that of the user.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, Read, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
    thread,
};

use rustix::{
    process::getpgrp,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

/// Size of a terminal if this process has none.
const DEFAULT_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Returns whether this process has a terminal that sends signals to its process group.
pub fn has_controlling_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// A new terminal: this process has its one end, the command the other.
pub struct Pty {
    pub master: OwnedFd,
    pub command_end: File,
}

impl Pty {
    /// Opens a terminal with the size of the user's. If this process does not write to a terminal, output is passed
    /// through unchanged: line ends are not made carriage returns and line feeds.
    pub fn open() -> io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let name = ptsname(&master, Vec::new())?;
        let path = Path::new(OsStr::from_bytes(name.as_bytes()));
        let no_controlling_terminal = OpenptFlags::NOCTTY.bits().cast_signed();
        let command_end = OpenOptions::new().read(true).write(true).custom_flags(no_controlling_terminal).open(path)?;
        tcsetwinsize(&master, size())?;
        if !io::stdout().is_terminal() {
            let mut attributes = tcgetattr(&command_end)?;
            attributes.output_modes.remove(OutputModes::OPOST);
            tcsetattr(&command_end, OptionalActions::Now, &attributes)?;
        }
        Ok(Self { master, command_end })
    }
}

/// Returns the size of the user's terminal.
fn size() -> Winsize {
    let size =
        tcgetwinsize(io::stdout()).or_else(|_| tcgetwinsize(io::stdin())).or_else(|_| tcgetwinsize(io::stderr()));
    size.ok().filter(|size| size.ws_col > 0).unwrap_or(DEFAULT_SIZE)
}

/// Gives a terminal the size of the user's again.
pub fn resize(master: &OwnedFd) {
    _ = tcsetwinsize(master, size());
}

/// The user's terminal while its keys go to the command. Restored when dropped.
pub struct Keyboard {
    before: Termios,
}

impl Keyboard {
    /// Passes keys on to `master`. `None`: this process does not read from a terminal, or is in its background.
    pub fn pass_to(master: &OwnedFd) -> io::Result<Option<Self>> {
        let input = io::stdin();
        if !input.is_terminal() || tcgetpgrp(&input)? != getpgrp() {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        let mut master = File::from(master.try_clone()?);
        // It ends with the process: nothing can stop a read.
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = io::stdin().read(&mut buffer) {
                if master.write_all(&buffer[..length]).is_err() {
                    return;
                }
            }
        });
        Ok(Some(Self { before }))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}
