//! The record of what clients saw, and of what was done to the servers meanwhile.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use jobtrack::proto::v1::{self, Durability, Event, Liveness, job::State, reconciled_job::Outcome};
use prost_types::Timestamp;
use tonic::Code;

use crate::support::watching::is_terminal;

/// When something happened: so long after the history began.
pub type At = Duration;

/// Who asks for every job when all is quiet: its answers are what the others are held against.
pub const AUDITOR: &str = "auditor";

/// Everything that was seen and done. A client's calls are in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When it began, in microseconds since 1970.
    pub began: i64,
    pub calls: Vec<Call>,
    pub streams: Vec<Stream>,
    pub faults: Vec<Fault>,
    pub deaths: Vec<Death>,
    pub ledger: Vec<Entry>,
    /// When the machine was too busy to run this very test.
    pub stalls: Vec<(At, At)>,
    /// Since when everything has been healed, nobody has changed anything, and all that was to come has come.
    pub quiet: Option<At>,
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    pub client: String,
    pub replica: usize,
    pub job: String,
    pub act: Act,
    pub begun: At,
    pub ended: At,
    pub answer: Answer,
}

/// What was asked for.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    Create(Terms),
    Get,
    Report { sequence: i64, attempt: i32 },
    Complete { attempt: i32 },
    Fail { attempt: i32 },
    Cancel { force: bool },
    Confirm,
    Delete,
    Watch,
}

/// How a job is created. Times are in milliseconds; 0: none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub owner: String,
    pub request: String,
    pub lease: i64,
    pub retention: i64,
}

/// What came back.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The job. `applied`: by this call, as far as the answer tells.
    Job { shown: Shown, applied: bool },
    /// OK, and nothing else.
    Done,
    /// An error; without a reason if it is not the server's.
    Refused { code: Code, reason: String },
}

/// A job as it was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub id: String,
    /// When it was created, which tells two jobs of one id apart.
    pub life: i64,
    pub revision: i64,
    pub state: State,
    pub attempt: i32,
    /// Workers report their sequence as this.
    pub completed: i64,
    /// Somebody asked for it to be stopped.
    pub cancelled: bool,
    pub lost: bool,
    /// The length of its lease in milliseconds; 0: none.
    pub lease: i64,
    /// When its lease ends, in microseconds since 1970.
    pub lease_end: Option<i64>,
    /// When it expires.
    pub expiry: Option<i64>,
    pub durable: bool,
}

/// A stream, from its opening to its end.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Who watches. Goes on with another stream where one broke.
    pub watcher: String,
    pub replica: usize,
    /// Absent: all jobs of the owner that the watcher is named after.
    pub job: Option<String>,
    pub opened: At,
    /// The revision behind which it was to go on.
    pub resumed: Option<i64>,
    pub events: Vec<Heard>,
    pub closed: Option<(At, Ending)>,
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// The server ended it as it should.
    Ok,
    /// It broke.
    Broken(Code),
    /// Its watcher had enough.
    Left,
}

/// An event of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Heard {
    pub at: At,
    pub event: Event,
    pub shown: Option<Shown>,
    pub reset: bool,
}

/// What was done to the servers, until all of them said that they were whole again.
#[derive(Clone, Debug)]
pub struct Fault {
    pub name: &'static str,
    pub from: At,
    /// Absent: it is not over.
    pub until: Option<At>,
    /// Redis lost what it had, or some of it.
    pub lossy: bool,
    /// When nobody, or this replica alone, could have had an answer from Redis.
    pub silent: Option<(At, At, Option<usize>)>,
}

/// The process of a replica was killed, with what it held.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub replica: usize,
    pub at: At,
}

/// What the ledger of a replica says of a job, and when that was first read.
#[derive(Clone, Debug)]
pub struct Entry {
    pub replica: usize,
    pub at: At,
    pub job: String,
    pub outcome: Outcome,
}

impl Shown {
    pub fn is_end(&self) -> bool {
        is_terminal(self.state)
    }

    /// Whether both say the same, whatever they say of how sure it is.
    pub fn is_same(&self, other: &Self) -> bool {
        let essence = |shown: &Self| (shown.life, shown.revision, shown.state, shown.attempt, shown.completed);
        essence(self) == essence(other)
    }
}

impl From<&v1::Job> for Shown {
    fn from(job: &v1::Job) -> Self {
        let micros = |time: Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos) / 1000;
        Self {
            id: job.id.clone(),
            life: job.create_time.map_or(0, micros),
            revision: job.revision,
            state: job.state(),
            attempt: job.attempt,
            completed: job.progress.as_ref().and_then(|progress| progress.completed).unwrap_or_default(),
            cancelled: job.cancel.is_some(),
            lost: job.liveness() == Liveness::Lost,
            lease: job.lease_timeout.map_or(0, |time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000),
            lease_end: job.lease_expire_time.map(micros),
            expiry: job.expire_time.map(micros),
            durable: job.durability() == Durability::Durable,
        }
    }
}

impl History {
    /// A moment on the clocks of the servers.
    pub fn clock(&self, at: At) -> i64 {
        self.began + i64::try_from(at.as_micros()).expect("not that long")
    }

    /// All that concerns a job, in the order of time, for people.
    pub fn tell(&self, job: &str) -> String {
        let is_it = |shown: &Option<Shown>| shown.as_ref().is_some_and(|shown| shown.id == job);
        let calls = self.calls.iter().filter(|call| call.job == job).map(|call| (call.ended, format!("{call:?}")));
        let streams = self.streams.iter().flat_map(|stream| {
            let name = format!("{} on {}, opened at {:?}", stream.watcher, stream.replica, stream.opened);
            let whole = stream.job.as_deref() == Some(job);
            let line =
                whole.then(|| (stream.opened, format!("{name}, resumed {:?}, {:?}", stream.resumed, stream.closed)));
            let heard = stream
                .events
                .iter()
                .filter(move |heard| whole || is_it(&heard.shown) || (heard.reset && heard.shown.is_none()));
            line.into_iter().chain(heard.map(move |heard| (heard.at, format!("{name}: {heard:?}"))))
        });
        let faults = self.faults.iter().map(|fault| (fault.from, format!("{fault:?}")));
        let deaths = self.deaths.iter().map(|death| (death.at, format!("{death:?}")));
        let entries = self.ledger.iter().filter(|entry| entry.job == job).map(|entry| (entry.at, format!("{entry:?}")));
        let mut all: Vec<_> = calls.chain(streams).chain(faults).chain(deaths).chain(entries).collect();
        all.sort();
        let lines: Vec<_> = all.into_iter().map(|(at, line)| format!("{at:?} {line}")).collect();
        lines.join("\n")
    }

    /// For how long the machine was too busy between `from` and `until`.
    pub fn stalled(&self, from: At, until: At) -> At {
        let overlap = |stall: &(At, At)| stall.1.min(until).saturating_sub(stall.0.max(from));
        self.stalls.iter().map(overlap).sum()
    }

    /// Forgets the jobs and streams whose names `keep` does not hold for.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        self.calls.retain(|call| keep(&call.job));
        self.streams.retain(|stream| keep(stream.job.as_ref().unwrap_or(&stream.watcher)));
        self.ledger.retain(|entry| keep(&entry.job));
    }
}

/// Where clients write down what they see.
pub struct Recorder {
    started: Instant,
    history: Mutex<History>,
}

impl Recorder {
    pub fn start() -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is later than 1970");
        let began = i64::try_from(now.as_micros()).expect("not that late");
        Self { started: Instant::now(), history: Mutex::new(History { began, ..History::default() }) }
    }

    pub fn now(&self) -> At {
        self.started.elapsed()
    }

    pub fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
