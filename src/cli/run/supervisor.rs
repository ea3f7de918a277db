//! Runs a command under a [`Machine`]: performs the actions of the machine, and sends it events.

use std::{collections::VecDeque, future::pending, pin::Pin, time::Duration};

use jobtrack_client::Work;
use rustix::process::Signal;
use tokio::{
    select,
    sync::mpsc::UnboundedReceiver,
    task::yield_now,
    time::{Instant, sleep, sleep_until},
};

use super::{
    child::{CommandMessage, Running, Start},
    ending::Ending,
    internal::not_started,
    machine::{Action, Event, Machine, Timer},
    signals::Passed,
    streams::{Leftover, Observer, hand_over},
    tracking::Tracking,
    tree::Placement,
};

/// Minimum time between two reports to the client library, which in turn sends reports less often.
const REPORT_INTERVAL: Duration = Duration::from_millis(100);

/// Time for which the tracker must be unavailable before the user is warned.
const TROUBLE_TIME: Duration = Duration::from_secs(1);

/// Interval at which a stopped command is checked for processes that are left.
const CLEAR_INTERVAL: Duration = Duration::from_millis(20);

/// Time to wait for signals that arrived just before the end of the command.
const SIGNAL_TIME: Duration = Duration::from_millis(1);

/// Maximum time for processes to end after SIGKILL.
const KILL_TIME: Duration = Duration::from_secs(2);

/// The channels of signals, of the command and of the tracker.
pub struct Receivers {
    pub signals: UnboundedReceiver<Passed>,
    pub messages: UnboundedReceiver<CommandMessage>,
    pub troubles: UnboundedReceiver<Option<String>>,
}

/// A call of the tracker. It returns an event, and the work if the call has claimed the job.
type Call = Pin<Box<dyn Future<Output = (Event, Option<Work>)>>>;

/// State while the supervisor waits for the end of all processes of a command.
#[derive(Clone, Copy)]
struct Clearing {
    /// Time at which to stop waiting; set when the processes were sent SIGKILL.
    deadline: Option<Instant>,
}

/// Performs the actions of a machine, and waits for its events.
pub struct Supervisor {
    machine: Machine,
    start: Start,
    tracking: Tracking,
    receivers: Receivers,
    /// Writes a line to standard error.
    warn: fn(String),
    /// The last output becomes the message of a failure.
    shows_output: bool,
    running: Option<Running>,
    call: Option<Call>,
    grace: Option<Instant>,
    trouble: Option<Instant>,
    /// Set while the end of all processes of the command is awaited.
    clearing: Option<Clearing>,
    next_report: Instant,
    /// Events that actions have caused.
    queued: VecDeque<Event>,
}

impl Supervisor {
    pub fn new(
        machine: Machine,
        start: Start,
        tracking: Tracking,
        receivers: Receivers,
        shows_output: bool,
        warn: fn(String),
    ) -> Self {
        Self {
            machine,
            start,
            tracking,
            receivers,
            warn,
            shows_output,
            running: None,
            call: None,
            grace: None,
            trouble: None,
            clearing: None,
            next_report: Instant::now(),
            queued: VecDeque::new(),
        }
    }

    /// Runs the machine until an action exits. Returns the exit code.
    pub async fn run(mut self, first: Action) -> u8 {
        let mut actions = VecDeque::from([first]);
        loop {
            while let Some(action) = actions.pop_front() {
                if let Some(code) = self.perform(action) {
                    return code;
                }
            }
            let event = self.next().await;
            actions.extend(self.machine.on(event));
        }
    }

    /// Performs an action. Returns the exit code if the action ends this process.
    fn perform(&mut self, action: Action) -> Option<u8> {
        match action {
            Action::Claim => self.call = Some(Box::pin(self.tracking.claim())),
            Action::Start => self.start(),
            Action::Terminate => self.signal_all(Signal::TERM),
            Action::Kill => {
                self.signal_all(Signal::KILL);
                self.clearing = self.clearing.map(|_| Clearing { deadline: Some(Instant::now() + KILL_TIME) });
            }
            Action::Clear => self.clearing = Some(Clearing { deadline: None }),
            Action::Drain => self.drain(),
            Action::Set(Timer::Grace) => self.grace = Some(Instant::now() + self.start.grace),
            Action::Set(Timer::Trouble) => self.trouble = Some(Instant::now() + TROUBLE_TIME),
            Action::Unset(Timer::Grace) => self.grace = None,
            Action::Unset(Timer::Trouble) => self.trouble = None,
            Action::Warn(problem) => self.warn(&problem),
            Action::Report(end) => {
                self.report_progress();
                let message = if self.shows_output { self.start.observer.message() } else { String::new() };
                let duration = self.running.as_ref().map(|running| running.started.elapsed());
                let ended = self.tracking.end(end, message, duration.unwrap_or_default());
                self.call = Some(Box::pin(async { (ended.await, None) }));
            }
            Action::Exit(code) => return Some(code),
        }
        None
    }

    fn start(&mut self) {
        match self.start.run(&self.tracking.variables()) {
            Ok(running) => self.running = Some(running),
            Err(error) => {
                let program = self.start.command.first().cloned().unwrap_or_default();
                self.queued.push_back(Event::Ended(Ending::Exited(not_started(&program, &error))));
            }
        }
        if self.machine.is_tracked() {
            self.queued.extend(self.tracking.begin());
        }
    }

    fn signal_all(&mut self, signal: Signal) {
        if let Some(running) = &mut self.running {
            running.tree.signal_all(signal);
            // A stopped process handles no other signal before it is continued.
            running.tree.signal_all(Signal::CONT);
        }
    }

    fn drain(&mut self) {
        match &mut self.running {
            Some(running) if running.open > 0 => running.drain(),
            _ => self.queued.push_back(Event::Drained),
        }
    }

    /// Reports new progress, if there is any.
    fn report_progress(&mut self) {
        if let Some(found) = self.start.observer.take() {
            self.tracking.report(found);
        }
        self.next_report = Instant::now() + REPORT_INTERVAL;
    }

    fn warn(&self, problem: &str) {
        // In raw mode a line feed does not return the cursor to the first column.
        let end = if self.running.as_ref().is_some_and(Running::has_keyboard) { "\r" } else { "" };
        (self.warn)(format!("jobtrack: {problem}{end}"));
    }

    /// Waits for the next event.
    async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.queued.pop_front() {
                return event;
            }
            let occurrence = self.next_occurrence().await;
            match occurrence {
                Occurrence::Event(event) => return event,
                Occurrence::Signal(passed) => self.pass_on(passed),
                Occurrence::Message(CommandMessage::Ended) => {
                    self.hear_signals().await;
                    let ending = self.running.as_mut().map(Running::reap);
                    self.queued.extend(ending.map(Event::Ended));
                }
                Occurrence::Message(CommandMessage::Stream(leftover)) => self.end_stream(leftover),
                Occurrence::News => self.report_progress(),
                Occurrence::Clear => self.clear(),
                Occurrence::Nothing => {}
            }
        }
    }

    async fn next_occurrence(&mut self) -> Occurrence {
        let Self { receivers, call, tracking, start, grace, trouble, clearing, next_report, .. } = self;
        let observer: &Observer = &start.observer;
        let news = async {
            sleep_until(*next_report).await;
            observer.news().await;
        };
        select! {
            biased;
            Some(passed) = receivers.signals.recv() => Occurrence::Signal(passed),
            Some(message) = receivers.messages.recv() => Occurrence::Message(message),
            Some(trouble) = receivers.troubles.recv() => {
                Occurrence::Event(trouble.map_or(Event::TroubleOver, |error| Event::Trouble(describe(&error))))
            }
            stop = tracking.stopped() => stop.map_or(Occurrence::Nothing, Occurrence::Event),
            (event, work) = finished(call) => {
                *call = None;
                if let Some(work) = work {
                    tracking.adopt(work);
                }
                Occurrence::Event(event)
            }
            () = expired(*grace) => {
                *grace = None;
                Occurrence::Event(Event::Expired(Timer::Grace))
            }
            () = expired(*trouble) => {
                *trouble = None;
                Occurrence::Event(Event::Expired(Timer::Trouble))
            }
            () = sleep(CLEAR_INTERVAL), if clearing.is_some() => Occurrence::Clear,
            () = news => Occurrence::News,
        }
    }

    /// Processes the signals that arrived before the end of the command. They may have caused that end, but the runtime
    /// delivers them later.
    async fn hear_signals(&mut self) {
        // One pass of the scheduler reads the signals, the next pass sends them to the channel.
        sleep(SIGNAL_TIME).await;
        yield_now().await;
        while let Ok(passed) = self.receivers.signals.try_recv() {
            self.pass_on(passed);
        }
    }

    fn pass_on(&mut self, passed: Passed) {
        if let Some(running) = &self.running {
            if passed.is_resize() { running.resize() } else { passed.send(&running.tree, self.start.placement) }
        }
        if passed.is_stopping() {
            self.queued.push_back(Event::Interrupted);
        }
    }

    fn end_stream(&mut self, leftover: Leftover) {
        // With a terminal of its own there is no leftover to copy: the terminal closes with its session.
        if let Some(stream) = leftover.filter(|_| self.start.placement != Placement::Session)
            && let Err(error) = hand_over(stream)
        {
            self.warn(&format!("output of a process that outlives the command is lost: {error}"));
        }
        if let Some(running) = &mut self.running {
            running.open = running.open.saturating_sub(1);
            if running.open == 0 {
                self.queued.push_back(Event::Drained);
            }
        }
    }

    fn clear(&mut self) {
        let is_late =
            self.clearing.and_then(|clearing| clearing.deadline).is_some_and(|deadline| Instant::now() >= deadline);
        let is_empty = self.running.as_mut().is_none_or(|running| running.tree.is_empty());
        if is_empty || is_late {
            self.clearing = None;
            self.queued.push_back(Event::Cleared);
        }
    }
}

/// An occurrence that [`Supervisor::next`] waits for.
enum Occurrence {
    Event(Event),
    Signal(Passed),
    Message(CommandMessage),
    News,
    Clear,
    Nothing,
}

/// Returns the warning that the tracker is unavailable.
fn describe(error: &str) -> String {
    format!("the tracker is unavailable: {error}; the command keeps running, and is reported when the tracker answers")
}

async fn finished(call: &mut Option<Call>) -> (Event, Option<Work>) {
    match call {
        Some(call) => call.await,
        None => pending().await,
    }
}

async fn expired(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}
