//! A running command, with its streams and its guard process.

use std::{
    env,
    ffi::OsString,
    io,
    os::fd::OwnedFd,
    process::{Child, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use tokio::sync::mpsc::UnboundedSender;

use super::{
    ending::Ending,
    internal::{Guard, launcher},
    progress::Lane,
    streams::{Leftover, Observer, Sink, Stop, Stream, copy, pipes},
    terminal::{Keyboard, Pty, resize},
    tree::{Placement, Tree},
};

/// Variable that makes Python write its output unbuffered even if the output is not a terminal.
const UNBUFFERED: &str = "PYTHONUNBUFFERED";

/// A message from one of the threads that observe a command.
#[derive(Debug)]
pub enum CommandMessage {
    /// The command has ended.
    Ended,
    /// The copying of a stream has ended, or was stopped.
    Stream(Leftover),
}

/// The settings with which a command is started.
#[derive(Clone, Debug)]
pub struct Start {
    pub command: Vec<OsString>,
    pub placement: Placement,
    /// Time between SIGTERM and SIGKILL.
    pub grace: Duration,
    /// Receives the messages about the command.
    pub messages: UnboundedSender<CommandMessage>,
    pub observer: Observer,
}

/// A command that runs, or has just ended.
pub struct Running {
    pub tree: Tree,
    pub started: Instant,
    /// Number of streams that are still copied.
    pub open: usize,
    child: Child,
    guard: Option<Guard>,
    stops: Vec<Stop>,
    terminal: Option<(OwnedFd, Option<Keyboard>)>,
}

impl Start {
    /// Starts the command with additional environment variables.
    pub fn run(&self, variables: &[(&'static str, String)]) -> io::Result<Running> {
        let pty = if self.placement == Placement::Session { Some(Pty::open()?) } else { None };
        let (output, error, streams) = match &pty {
            None => pipes()?,
            Some(pty) => {
                let source = pty.master.try_clone()?;
                let stream = Stream { source, sink: Sink::Output, lane: Lane::Output };
                (pty.command_end.try_clone()?.into(), pty.command_end.try_clone()?.into(), vec![stream])
            }
        };
        let keyboard = pty.as_ref().map(|pty| Keyboard::pass_to(&pty.master)).transpose()?;
        let input = match (&pty, &keyboard) {
            (Some(pty), Some(Some(_))) => pty.command_end.try_clone()?.into(),
            // The command reads a file or a pipe directly.
            _ => Stdio::inherit(),
        };
        let child = self.spawn(variables, input, output, error)?;
        let root = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
        self.wait_for(root);
        let open = streams.len();
        let stops = streams.into_iter().map(|stream| self.copy(stream)).collect::<io::Result<_>>()?;
        Ok(Running {
            tree: Tree::new(root, self.placement),
            started: Instant::now(),
            open,
            child,
            // A missing guard is no error. Its only consequence: if this process is killed, the command keeps running.
            guard: Guard::start(root, self.placement, self.grace).ok(),
            stops,
            terminal: pty.map(|pty| (pty.master, keyboard.flatten())),
        })
    }

    /// Starts the process.
    fn spawn(
        &self,
        variables: &[(&'static str, String)],
        input: Stdio,
        output: Stdio,
        error: Stdio,
    ) -> io::Result<Child> {
        let mut command = launcher(&self.command, self.placement);
        for (name, value) in variables {
            command.env(name, value);
        }
        if env::var_os(UNBUFFERED).is_none() {
            command.env(UNBUFFERED, "1");
        }
        command.stdin(input).stdout(output).stderr(error).spawn()
    }

    /// Sends [`CommandMessage::Ended`] when the process has ended. `NOWAIT` leaves the process unreaped: until
    /// [`Running::reap`] no other process can get its id, and with it a signal for the command.
    fn wait_for(&self, root: Pid) {
        let messages = self.messages.clone();
        thread::spawn(move || {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while waitid(WaitId::Pid(root), options).is_err_and(|error| error == rustix::io::Errno::INTR) {}
            _ = messages.send(CommandMessage::Ended);
        });
    }

    fn copy(&self, stream: Stream) -> io::Result<Stop> {
        let (stopped, stop) = Stop::new()?;
        let (messages, observer) = (self.messages.clone(), self.observer.clone());
        thread::spawn(move || _ = messages.send(CommandMessage::Stream(copy(stream, &stopped, &observer))));
        Ok(stop)
    }
}

impl Running {
    /// Dismisses the guard and reaps the command. Must be called after [`CommandMessage::Ended`]. Returns the end of
    /// the command.
    pub fn reap(&mut self) -> Ending {
        if let Some(guard) = self.guard.take() {
            guard.dismiss();
        }
        self.child.wait().map_or(Ending::Exited(u8::MAX), Ending::from)
    }

    /// Stops the streams once the remaining output of the command is copied.
    pub fn drain(&mut self) {
        self.stops.clear();
    }

    /// Sets the terminal of the command to the size of the user's terminal.
    pub fn resize(&self) {
        if let Some((master, _)) = &self.terminal {
            resize(master);
        }
    }

    /// Returns whether keys go to the command. In that case the user's terminal is in raw mode.
    pub fn has_keyboard(&self) -> bool {
        self.terminal.as_ref().is_some_and(|(_, keyboard)| keyboard.is_some())
    }
}
