//! The terminal of a live view.

use std::{
    future::pending,
    io::{self, IsTerminal, Read, Write, stdin},
    thread,
};

use anstream::{AutoStream, adapter::strip_str};
use console::Term;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use super::Size;
use crate::cli::exit::CommandError;

/// Maximum number of frames per second that are written to the terminal.
const FRAMES_MAX: u8 = 10;

/// Escape sequences that enter the alternate screen and hide the cursor, and that undo both.
const ENTER: &str = "\u{1b}[?1049h\u{1b}[?25l";
const LEAVE: &str = "\u{1b}[?25h\u{1b}[?1049l";

/// Returns text for standard output; its colours are removed if standard output takes none.
fn coloured(text: &str) -> String {
    let has_colours = AutoStream::choice(&io::stdout()) != anstream::ColorChoice::Never;
    if has_colours { text.to_owned() } else { strip_str(text).to_string() }
}

/// Returns the size of the terminal.
fn size(terminal: &Term) -> Size {
    let (rows, columns) = terminal.size();
    Size { rows: rows.into(), columns: columns.into() }
}

/// Lines that are redrawn in place, below the text that was printed before.
pub struct Lines {
    terminal: Term,
    bar: ProgressBar,
}

impl Lines {
    /// Returns an empty frame below the last line of the terminal.
    pub fn new() -> Self {
        let terminal = Term::buffered_stdout();
        let target = ProgressDrawTarget::term(terminal.clone(), FRAMES_MAX);
        let style = ProgressStyle::with_template("{msg}").expect("a valid template");
        Self { terminal, bar: ProgressBar::with_draw_target(None, target).with_style(style) }
    }

    /// Returns the maximum size of a frame: one row is reserved for the cursor.
    pub fn size(&self) -> Size {
        let size = size(&self.terminal);
        Size { rows: size.rows.saturating_sub(1).max(1), ..size }
    }

    /// Draws a frame in place of the last one.
    pub fn draw(&self, lines: &[String]) {
        self.bar.set_message(coloured(&lines.join("\n")));
    }

    /// Prints text above the frame, where it stays.
    pub fn print(&self, text: &str) {
        self.bar.println(coloured(text.trim_end()));
    }

    /// Removes the frame.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

/// The alternate screen of the terminal. A drop restores the terminal.
pub struct Screen {
    terminal: Term,
    /// The terminal modes to restore; `None`: standard input is not a terminal.
    modes: Option<Termios>,
}

/// Detects that the user wants to leave the screen: by a key or by a signal.
pub struct Leave {
    signals: [Signal; 3],
    has_keys: bool,
}

impl Screen {
    /// Enters the alternate screen, and disables echo and line buffering of the keyboard.
    pub fn new() -> Result<(Self, Leave), CommandError> {
        let signals = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()].map(signal);
        let [Ok(interrupt), Ok(terminate), Ok(hangup)] = signals else {
            return Err(CommandError::Failed("signals can't be handled".to_owned()));
        };
        let modes = stdin().is_terminal().then(|| tcgetattr(stdin()).ok()).flatten();
        if let Some(mut changed) = modes.clone() {
            changed.local_modes -= LocalModes::ICANON | LocalModes::ECHO;
            _ = tcsetattr(stdin(), OptionalActions::Now, &changed);
        }
        let leave = Leave { signals: [interrupt, terminate, hangup], has_keys: modes.is_some() };
        let screen = Self { terminal: Term::stdout(), modes };
        screen.write(ENTER)?;
        Ok((screen, leave))
    }

    /// Returns the size of the terminal.
    pub fn size(&self) -> Size {
        size(&self.terminal)
    }

    /// Draws a frame in place of the last one.
    pub fn draw(&self, lines: &[String]) -> Result<(), CommandError> {
        let mut frame = "\u{1b}[H".to_owned();
        for (at, line) in lines.iter().enumerate() {
            frame.push_str(if at > 0 { "\r\n" } else { "" });
            frame.push_str(&coloured(line));
            frame.push_str("\u{1b}[K");
        }
        frame.push_str("\u{1b}[J");
        self.write(&frame)
    }

    fn write(&self, text: &str) -> Result<(), CommandError> {
        let mut terminal = &self.terminal;
        terminal.write_all(text.as_bytes())?;
        Ok(terminal.flush()?)
    }
}

impl Leave {
    /// Waits for the key `q`, Ctrl-C or a signal.
    pub async fn requested(mut self) {
        let [interrupt, terminate, hangup] = &mut self.signals;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
            () = leaving_key(), if self.has_keys => {}
        }
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        _ = self.write(LEAVE);
        if let Some(modes) = &self.modes {
            _ = tcsetattr(stdin(), OptionalActions::Now, modes);
        }
    }
}

/// Waits for the key `q`. Never returns if standard input ends first.
async fn leaving_key() {
    let (pressed, key) = oneshot::channel();
    // A blocking read can't be cancelled: the thread ends with the process.
    thread::spawn(move || {
        if stdin().lock().bytes().map_while(Result::ok).any(|key| matches!(key, b'q' | b'Q')) {
            _ = pressed.send(());
        }
    });
    if key.await.is_err() {
        pending::<()>().await;
    }
}
