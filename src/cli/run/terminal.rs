//! The terminal of the user, and a terminal for the command alone.

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::{self, IsTerminal, PipeReader, PipeWriter, Write},
    os::{
        fd::OwnedFd,
        unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    },
    path::Path,
    thread,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
    process::getpgrp,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
    termios::{
        OptionalActions, OutputModes, Termios, Winsize, tcgetattr, tcgetpgrp, tcgetwinsize, tcsetattr, tcsetwinsize,
    },
};

/// Size of a new terminal if this process has no terminal.
const DEFAULT_SIZE: Winsize = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };

/// Returns whether this process has a controlling terminal, which sends signals to process groups.
pub fn has_controlling_terminal() -> bool {
    File::open("/dev/tty").is_ok()
}

/// A pseudoterminal: this process has the master, and the command has the other end.
pub struct Pty {
    pub master: OwnedFd,
    pub command_end: File,
}

impl Pty {
    /// Opens a terminal with the size of the user's terminal. If this process does not write to a terminal, the new one
    /// does not convert line feeds to carriage returns and line feeds.
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

/// Sets a terminal to the current size of the user's terminal.
pub fn resize(master: &OwnedFd) {
    _ = tcsetwinsize(master, size());
}

/// The user's terminal in raw mode, while its keys go to the command. A drop restores the previous mode.
pub struct Keyboard {
    before: Termios,
    /// Its drop ends the thread that passes keys on, so that the thread does not take the keys for the next attempt.
    _open: PipeWriter,
}

impl Keyboard {
    /// Sets the user's terminal to raw mode, and passes its keys on to `master`. `None`: standard input is not a
    /// terminal, or this process is in the background of its terminal.
    pub fn pass_to(master: &OwnedFd) -> io::Result<Option<Self>> {
        let input = io::stdin();
        if !input.is_terminal() || tcgetpgrp(&input)? != getpgrp() {
            return Ok(None);
        }
        let before = tcgetattr(&input)?;
        let mut raw = before.clone();
        raw.make_raw();
        let (closed, open) = io::pipe()?;
        let master = File::from(master.try_clone()?);
        tcsetattr(&input, OptionalActions::Now, &raw)?;
        thread::spawn(move || pass_keys(&closed, master));
        Ok(Some(Self { before, _open: open }))
    }
}

impl Drop for Keyboard {
    fn drop(&mut self) {
        _ = tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Passes keys on until the other end of `closed` is closed.
fn pass_keys(closed: &PipeReader, mut master: File) {
    let keys = io::stdin();
    let mut buffer = [0; 4096];
    loop {
        let mut sources = [PollFd::new(closed, PollFlags::IN), PollFd::new(&keys, PollFlags::IN)];
        match poll(&mut sources, None) {
            Err(Errno::INTR) => continue,
            Ok(_) if sources[0].revents().is_empty() => {}
            _ => return,
        }
        // Not through the buffer of standard input, in which keys for the next attempt would stay.
        match rustix::io::read(&keys, &mut buffer) {
            Err(Errno::INTR) => {}
            Ok(length @ 1..) if master.write_all(&buffer[..length]).is_ok() => {}
            _ => return,
        }
    }
}
