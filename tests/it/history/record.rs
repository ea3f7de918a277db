//! The record of what clients saw, and of what was done to the servers meanwhile.

use std::time::Duration;

use jobtrack::proto::v1::{
    self, Durability, Event, Liveness,
    job::{Outcome as JobOutcome, State},
    reconciled_job::Outcome,
};
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
    /// The number of replicas.
    pub replicas: usize,
    /// Within this time a replica promises to return after a fault.
    pub grace: At,
    /// The time for which an active job is kept after its last change; zero: for ever.
    pub active_retention: At,
    pub calls: Vec<Call>,
    pub streams: Vec<Stream>,
    pub faults: Vec<Fault>,
    pub deaths: Vec<Death>,
    pub stops: Vec<Stop>,
    pub ledger: Vec<Entry>,
    /// When the machine was too busy to run this very test.
    pub stalls: Vec<(At, At)>,
    /// Since when everything has been healed, nobody has changed anything, and all that was to come has come.
    pub quiet: Option<At>,
    /// Before this moment calls have been forgotten.
    pub forgotten: At,
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    pub client: String,
    /// The owner whose jobs alone the client may see; empty: it may see all.
    pub limited_to: String,
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
    Report {
        sequence: i64,
        attempt: i32,
    },
    Complete {
        attempt: i32,
    },
    Fail {
        attempt: i32,
    },
    Cancel {
        force: bool,
    },
    Confirm,
    Delete,
    Watch,
    /// A report that is larger than a message may be.
    Oversized,
}

/// How a job is created. Times are in milliseconds; 0: none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub owner: String,
    pub request: String,
    pub lease: i64,
    pub fail_when_lost: bool,
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
    pub owner: String,
    pub revision: i64,
    pub state: State,
    pub attempt: i32,
    /// Workers report their sequence as this.
    pub completed: i64,
    /// Somebody asked for it to be stopped.
    pub cancelled: bool,
    pub lost: bool,
    /// Why it failed; empty: it has not.
    pub reason: String,
    /// The length of its lease in milliseconds; 0: none.
    pub lease: i64,
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
    /// When it was mended: from then on replicas may return. Absent: it is not mended, or nothing was broken.
    pub mended: Option<At>,
    /// Absent: it is not over.
    pub until: Option<At>,
    /// Redis lost what it had, or some of it.
    pub lossy: bool,
    /// When nobody, or this replica alone, could have had an answer from Redis.
    pub silent: Option<(At, At, Option<usize>)>,
}

/// The process of a replica ended, with what it held.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub replica: usize,
    pub at: At,
    /// When it was started again.
    pub back: Option<At>,
}

/// A replica was told to stop.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub replica: usize,
    pub at: At,
    pub ended: At,
    /// When it was started again.
    pub back: Option<At>,
    /// Its exit code; absent: it had to be killed.
    pub code: Option<i32>,
    /// The number of jobs that the log counts as left behind.
    pub left: Option<usize>,
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

    /// Whether it failed because its worker was lost.
    pub fn is_worker_lost(&self) -> bool {
        self.reason == "WORKER_LOST"
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
            owner: job.owner.clone(),
            revision: job.revision,
            state: job.state(),
            attempt: job.attempt,
            completed: job.progress.as_ref().and_then(|progress| progress.completed).unwrap_or_default(),
            cancelled: job.cancel.is_some(),
            lost: job.liveness() == Liveness::Lost,
            reason: match &job.outcome {
                Some(JobOutcome::Failure(failure)) => failure.reason.clone(),
                _ => String::new(),
            },
            lease: job.lease_timeout.map_or(0, |time| time.seconds * 1000 + i64::from(time.nanos) / 1_000_000),
            durable: job.durability() == Durability::Durable,
        }
    }
}
