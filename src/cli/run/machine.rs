//! The states of a wrapped command and its job: events in, actions out. Pure: it does nothing by itself.
//!
//! ```text
//! (strict: claiming) -> running -> [clearing: its other processes are stopped] -> draining: its output is written
//!   -> reporting: the end is sent -> exit, or running again
//! ```

use super::ending::Ending;
use crate::cli::exit::Exit;

/// An event of the command, the tracker or the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The job was claimed before the command starts.
    Claimed,
    /// The job could not be claimed before the command starts.
    ClaimFailed(String, Exit),
    /// The command ended.
    Ended(Ending),
    /// No process of the command is left.
    Cleared,
    /// The output was written as far as there is any.
    Drained,
    /// Somebody requested the cancellation.
    Cancelled,
    /// The job was cancelled without waiting for the command.
    CancelledByForce,
    /// The job is not this command's any more, or never was.
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
    /// From the request to stop to the end by force.
    Grace,
    /// From the first sign that the tracker is unavailable to the warning.
    Trouble,
}

/// An action that the supervisor performs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Create and claim the job, and tell what came of it.
    Claim,
    /// Start the command, and tell when it has ended. The job is claimed meanwhile unless it is.
    Start,
    /// Ask all processes of the command to stop.
    Terminate,
    /// End all processes of the command.
    Kill,
    /// Tell when no process of the command is left.
    Clear,
    /// Tell when the output is written.
    Drain,
    /// Start a timer.
    Set(Timer),
    /// Stop a timer.
    Unset(Timer),
    /// Write a line for the user.
    Warn(String),
    /// Send the end of the attempt, and tell whether that was stored.
    Report(End),
    /// End with this exit code.
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
    /// The command does not run without the tracker.
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
    /// The job needs no end any more.
    Lost,
}

/// The state of a wrapped command: it turns events into actions.
#[derive(Debug)]
pub struct Machine {
    settings: Settings,
    phase: Phase,
    stopping: Stopping,
    /// The end of the job is sent.
    is_tracked: bool,
    /// A signal to this process asked the command to stop.
    is_interrupted: bool,
    /// The reason for which the tracker is unavailable.
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

    /// Returns whether the job is this command's.
    pub fn is_tracked(&self) -> bool {
        self.is_tracked
    }

    /// Returns what is to be done after an event. Events that come too late need nothing.
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

    /// The command is over, but its other processes are not stopped yet if it was to stop.
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

    /// Returns the exit code. That of a strict command that lost its job is never 0.
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

    /// Stops the command, unless that was begun.
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
        // The command may have been to run once: only it knows whether it may go on beside another worker.
        let (result, stops) = if self.settings.strict { ("is stopped", true) } else { ("runs on untracked", false) };
        let actions = vec![Action::Warn(format!("{problem}; the command {result}"))];
        if stops { self.stop(Stopping::Lost, actions) } else { actions }
    }

    /// Signals are passed on by themselves; when only the report is left, nobody waits for that.
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
