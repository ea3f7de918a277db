//! The state machine of a wrapped command and its job: it turns events into actions. It is pure: it performs no I/O and
//! does not read the clock.
//!
//! ```text
//! (strict: claiming) -> running -> [clearing: its other processes are stopped] -> draining: its output is copied
//!   -> reporting: its end is sent -> exit, or running again
//! ```

use super::ending::Ending;
use crate::cli::exit::Exit;

/// An event of the command, the tracker or the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The job was claimed, before the start of the command.
    Claimed,
    /// The job could not be claimed, before the start of the command.
    ClaimFailed(String, Exit),
    /// The command ended.
    Ended(Ending),
    /// No process of the command is left.
    Cleared,
    /// The output of the command was copied.
    Drained,
    /// The cancellation of the job was requested.
    Cancelled,
    /// The job was cancelled by force: it is CANCELLED already.
    CancelledByForce,
    /// The attempt does not belong to this command any more, or could not be claimed.
    Lost(String),
    /// The tracker is unavailable.
    Trouble(String),
    /// The tracker is available again.
    TroubleOver,
    /// A signal to this process asks the command to stop.
    Interrupted,
    /// A timer has expired.
    Expired(Timer),
    /// The end of the attempt was stored.
    Reported,
    /// The end of the attempt could not be stored.
    NotReported(String, Exit),
}

/// Times that the machine waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Timer {
    /// Time between SIGTERM and SIGKILL.
    Grace,
    /// Time between the first failed call and the warning that the tracker is unavailable.
    Trouble,
}

/// An action that the supervisor performs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Creates and claims the job. `Claimed` or `ClaimFailed` follows.
    Claim,
    /// Starts the command, and claims the job meanwhile unless it is claimed. `Ended` follows when the command ends.
    Start,
    /// Asks all processes of the command to stop.
    Terminate,
    /// Kills all processes of the command.
    Kill,
    /// Waits for the end of all processes of the command. `Cleared` follows.
    Clear,
    /// Copies the rest of the output. `Drained` follows.
    Drain,
    /// Starts a timer. `Expired` follows.
    Set(Timer),
    /// Stops a timer.
    Unset(Timer),
    /// Writes a line for the user.
    Warn(String),
    /// Sends the end of the attempt to the tracker. `Reported` or `NotReported` follows.
    Report(End),
    /// Exits with this code.
    Exit(u8),
}

/// The end of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The job has succeeded.
    Complete,
    /// The job has failed.
    Fail(Ending),
    /// The attempt has failed, and another one follows.
    Retry(Ending),
    /// The job was cancelled.
    ConfirmCancel,
}

/// Settings of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct Settings {
    /// The command runs only with a claimed job.
    pub strict: bool,
    /// Number of further attempts after a failure.
    pub retries: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Claiming,
    Running,
    Clearing(Ending),
    Draining(Ending),
    Reporting { code: u8, retries: bool },
    Done,
}

/// The reason for which the command is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    No,
    /// The job is cancelled when the command has ended.
    Cancel,
    /// The job has ended or belongs to another worker: no end is sent.
    Lost,
}

/// The state of a wrapped command.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    phase: Phase,
    stopping: Stopping,
    /// The job belongs to this command, and its end will be sent.
    is_tracked: bool,
    /// A signal to this process asked the command to stop.
    is_interrupted: bool,
    /// The message about the unavailable tracker; `None` while the tracker is available.
    trouble: Option<String>,
    has_warned: bool,
}

impl Machine {
    /// Returns a machine, and its first action.
    pub fn new(settings: Settings) -> (Self, Action) {
        let (phase, action) =
            if settings.strict { (Phase::Claiming, Action::Claim) } else { (Phase::Running, Action::Start) };
        let machine = Self {
            settings,
            phase,
            stopping: Stopping::No,
            is_tracked: true,
            is_interrupted: false,
            trouble: None,
            has_warned: false,
        };
        (machine, action)
    }

    /// Returns whether the job belongs to this command.
    pub fn is_tracked(&self) -> bool {
        self.is_tracked
    }

    /// Processes an event, and returns the actions to perform. An event that comes too late has no actions.
    pub fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Claimed if self.phase == Phase::Claiming => self.enter(Phase::Running, Action::Start),
            Event::ClaimFailed(problem, exit) if self.phase == Phase::Claiming => {
                vec![Action::Warn(format!("{problem}; the command was not started")), self.exit(exit as u8)]
            }
            Event::Ended(ending) if self.phase == Phase::Running => self.on_ended(ending),
            Event::Cleared => match self.phase {
                Phase::Clearing(ending) => {
                    let mut actions = vec![Action::Unset(Timer::Grace)];
                    actions.extend(self.drain(ending));
                    actions
                }
                _ => Vec::new(),
            },
            Event::Drained => match self.phase {
                Phase::Draining(ending) => self.report(ending),
                _ => Vec::new(),
            },
            Event::Cancelled => self.stop(Stopping::Cancel, Vec::new()),
            Event::CancelledByForce => self.stop(Stopping::Lost, Vec::new()),
            Event::Lost(problem) => self.on_lost(&problem),
            Event::Trouble(problem) => self.on_trouble(problem),
            Event::TroubleOver => {
                self.trouble = None;
                vec![Action::Unset(Timer::Trouble)]
            }
            Event::Interrupted => self.on_interrupted(),
            Event::Expired(Timer::Grace) => match self.phase {
                Phase::Running | Phase::Clearing(_) if self.stopping != Stopping::No => vec![Action::Kill],
                _ => Vec::new(),
            },
            Event::Expired(Timer::Trouble) => self.warn_of_trouble(),
            Event::Reported => self.on_reported(None),
            Event::NotReported(problem, exit) => self.on_reported(Some((problem, exit))),
            Event::Claimed | Event::ClaimFailed(..) | Event::Ended(_) => Vec::new(),
        }
    }

    fn enter(&mut self, phase: Phase, action: Action) -> Vec<Action> {
        self.phase = phase;
        vec![action]
    }

    fn exit(&mut self, code: u8) -> Action {
        self.phase = Phase::Done;
        Action::Exit(code)
    }

    /// Continues after the end of the command. If the command was told to stop, its other processes must end first.
    fn on_ended(&mut self, ending: Ending) -> Vec<Action> {
        match self.stopping {
            Stopping::No => self.drain(ending),
            Stopping::Cancel | Stopping::Lost => self.enter(Phase::Clearing(ending), Action::Clear),
        }
    }

    fn drain(&mut self, ending: Ending) -> Vec<Action> {
        self.enter(Phase::Draining(ending), Action::Drain)
    }

    fn report(&mut self, ending: Ending) -> Vec<Action> {
        let code = self.code(ending);
        let is_last = self.settings.retries == 0 || !ending.is_retryable() || self.is_interrupted;
        let retries = !is_last && self.stopping == Stopping::No;
        self.settings.retries -= u32::from(retries);
        if !self.is_tracked {
            return if retries { self.enter(Phase::Running, Action::Start) } else { vec![self.exit(code)] };
        }
        let end = match (ending.is_success(), self.stopping) {
            (true, _) => End::Complete,
            (false, Stopping::Cancel) => End::ConfirmCancel,
            (false, _) if retries => End::Retry(ending),
            (false, _) => End::Fail(ending),
        };
        self.phase = Phase::Reporting { code, retries };
        let mut actions = self.warn_of_trouble();
        actions.push(Action::Report(end));
        actions
    }

    /// Returns the exit code. It is never 0 if the command is strict and has lost its job.
    fn code(&self, ending: Ending) -> u8 {
        let is_lost = self.settings.strict && !self.is_tracked && self.stopping == Stopping::Lost;
        if is_lost && ending.is_success() { Exit::Failed as u8 } else { ending.code() }
    }

    fn on_reported(&mut self, problem: Option<(String, Exit)>) -> Vec<Action> {
        let Phase::Reporting { code, retries } = self.phase else { return Vec::new() };
        let mut actions = Vec::new();
        let mut code = code;
        if let Some((problem, exit)) = problem {
            if !self.has_warned {
                self.has_warned = true;
                actions.push(Action::Warn(problem));
            }
            if self.settings.strict && code == 0 {
                code = exit as u8;
            }
        }
        let next = if retries { self.enter(Phase::Running, Action::Start) } else { vec![self.exit(code)] };
        actions.extend(next);
        actions
    }

    /// Stops the command, unless it is stopping already.
    fn stop(&mut self, reason: Stopping, mut actions: Vec<Action>) -> Vec<Action> {
        if reason == Stopping::Lost {
            self.is_tracked = false;
        }
        if self.phase == Phase::Running && self.stopping == Stopping::No {
            self.stopping = reason;
            actions.extend([Action::Terminate, Action::Set(Timer::Grace)]);
        }
        actions
    }

    fn on_trouble(&mut self, problem: String) -> Vec<Action> {
        self.trouble = Some(problem);
        if self.has_warned { Vec::new() } else { vec![Action::Set(Timer::Trouble)] }
    }

    fn on_lost(&mut self, problem: &str) -> Vec<Action> {
        if !self.is_tracked || self.stopping != Stopping::No {
            return Vec::new();
        }
        self.is_tracked = false;
        self.has_warned = true;
        // Another worker may have the job now. Only the command can know whether it may run beside that worker: it is
        // not stopped, unless the user asked for that with `--strict`.
        let (result, stops) = if self.settings.strict { ("is stopped", true) } else { ("continues untracked", false) };
        let actions = vec![Action::Warn(format!("{problem}; the command {result}"))];
        if stops { self.stop(Stopping::Lost, actions) } else { actions }
    }

    /// Processes a signal that asks to stop. The supervisor passes the signal on to the command. If only the report of
    /// the end is left, this process exits without waiting for the tracker.
    fn on_interrupted(&mut self) -> Vec<Action> {
        self.is_interrupted = true;
        match self.phase {
            Phase::Claiming => vec![self.exit(Ending::Signalled(INTERRUPT).code())],
            Phase::Reporting { code, .. } => vec![self.exit(code)],
            _ => Vec::new(),
        }
    }

    fn warn_of_trouble(&mut self) -> Vec<Action> {
        match self.trouble.as_ref().filter(|_| !self.has_warned) {
            Some(problem) => {
                self.has_warned = true;
                vec![Action::Warn(problem.clone())]
            }
            None => Vec::new(),
        }
    }
}

/// Number of SIGINT.
const INTERRUPT: u8 = 2;

#[cfg(test)]
mod tests;
