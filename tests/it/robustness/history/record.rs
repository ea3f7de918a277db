//! The record of what clients saw, and of the faults during that time.

use std::{collections::BTreeMap, time::Duration};

use jobtrack::proto::v1::{
    self, Durability, Event, Liveness,
    job::{Outcome as JobOutcome, State},
    reconciled_job::Outcome,
};
use prost_types::Timestamp;
use tonic::Code;

use crate::support::watching::is_terminal;

/// A point in time, as the duration since the history began.
pub type At = Duration;

/// Client that reads every job at the end, when all is quiet. Other answers are compared with its answers.
pub const AUDITOR: &str = "auditor";

/// All calls, streams and faults. The calls of a client are in the order of their ends.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// Number of replicas.
    pub replicas: usize,
    /// Time within which a replica promises to return after a fault.
    pub grace: At,
    /// Retention of an active job after its last change; zero: unlimited.
    pub active_retention: At,
    pub calls: Vec<Call>,
    pub streams: Vec<Stream>,
    pub faults: Vec<Fault>,
    pub deaths: Vec<Death>,
    pub stops: Vec<Stop>,
    pub reported: Vec<Entry>,
    /// Times at which the machine was too busy to run this very test.
    pub stalls: Vec<(At, At)>,
    /// Time since which everything has been healed, nothing was changed, and all notifications have arrived.
    pub quiet: Option<At>,
    /// Time before which calls have been forgotten.
    pub forgotten: At,
}

/// A call and its answer.
#[derive(Clone, Debug)]
pub struct Call {
    pub client: String,
    /// The only owner whose jobs the client may see; empty: it may see all.
    pub limited_to: String,
    pub replica: usize,
    pub job: String,
    pub act: Act,
    pub begun: At,
    pub ended: At,
    pub answer: Answer,
}

/// The request of a call.
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

/// The parameters of a creation. Times are in milliseconds; 0: none.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Terms {
    pub owner: String,
    pub request: String,
    pub lease: i64,
    pub fail_when_lost: bool,
    pub retention: i64,
}

/// The outcome of a call.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// The job; `applied`: this call changed it, as far as the answer shows.
    Job { shown: Shown, applied: bool },
    /// OK, without further data.
    Done,
    /// An error; without a reason if the server did not create it.
    Refused { code: Code, reason: String },
}

/// A job as it was shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub id: String,
    /// Time of creation in microseconds, which distinguishes two jobs of one id.
    pub incarnation: i64,
    pub owner: String,
    pub revision: i64,
    pub state: State,
    pub attempt: i32,
    /// The sequence of the last report.
    pub completed: i64,
    /// A client requested its cancellation.
    pub cancelled: bool,
    pub lost: bool,
    /// Reason of its failure; empty: it has not failed.
    pub reason: String,
    /// Length of its lease in milliseconds; 0: none.
    pub lease: i64,
    pub durable: bool,
}

/// A stream, from its opening to its end.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Name of the watcher, which continues with another stream if this one breaks.
    pub watcher: String,
    pub face: Face,
    pub replica: usize,
    /// The job; `None`: all jobs of the owner that the watcher is named after.
    pub job: Option<String>,
    pub opened: At,
    /// Revision after which the stream was to continue.
    pub resumed: Option<i64>,
    /// The last event of each job before a stream of all jobs was resumed.
    pub known: Vec<Heard>,
    pub events: Vec<Heard>,
    pub closed: Option<(At, Ending)>,
}

impl Stream {
    /// Returns the last event of each job that a stream which resumes behind this one need not repeat.
    pub fn last_of_each(&self) -> Vec<Heard> {
        let mut known = self.known.clone();
        for heard in &self.events {
            match &heard.shown {
                Some(shown) => {
                    known.retain(|before| before.shown.as_ref().is_none_or(|before| before.id != shown.id));
                    known.push(heard.clone());
                }
                // The stream has started over: it no longer contains jobs that it has not named since.
                None if heard.reset => known.retain(|before| before.reset),
                None => {}
            }
        }
        known
    }
}

/// The form in which a stream is watched.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Face {
    /// A stream of gRPC.
    Grpc,
    /// Server-sent events.
    Events,
}

/// The end of a stream.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Ending {
    /// The server ended it with OK.
    Ok,
    /// The connection or the server broke it.
    Broken(Code),
    /// Its watcher cancelled it.
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

/// A fault, until all servers have reported that they are whole again.
#[derive(Clone, Debug)]
pub struct Fault {
    pub name: &'static str,
    pub from: At,
    /// Time of the repair, from which replicas may return. `None`: it was not repaired, or nothing was broken.
    pub mended: Option<At>,
    /// End of the fault; `None`: it is not over.
    pub until: Option<At>,
    /// Redis lost its data, or a part of it.
    pub lossy: bool,
    /// Time in which Redis answered nothing, and the only affected replica, if not all were affected.
    pub silent: Option<(At, At, Option<usize>)>,
}

/// The end of a replica's process, with the loss of its memory.
#[derive(Clone, Copy, Debug)]
pub struct Death {
    pub replica: usize,
    pub at: At,
    /// Time when it was started again.
    pub back: Option<At>,
}

/// A graceful stop of a replica.
#[derive(Clone, Copy, Debug)]
pub struct Stop {
    pub replica: usize,
    pub at: At,
    pub ended: At,
    /// Time when it was started again.
    pub back: Option<At>,
    /// Exit code; absent: it had to be killed.
    pub code: Option<i32>,
    /// Number of jobs that the log counts as left behind.
    pub left: Option<usize>,
}

/// The outcome of a job in a replica's report of reconciliation, and the time when it was first read.
#[derive(Clone, Debug)]
pub struct Entry {
    pub replica: usize,
    pub at: At,
    pub job: String,
    pub outcome: Outcome,
}

impl History {
    /// Gives each incarnation one creation time. The clock of a replica that starts while Redis is unavailable may be
    /// off by a step; when it is set, the times of everything that the replica accepted before are shifted by as much.
    pub fn unify_incarnations(&mut self) {
        let in_calls = self.calls.iter_mut().filter_map(|call| match &mut call.answer {
            Answer::Job { shown, .. } => Some(shown),
            Answer::Done | Answer::Refused { .. } => None,
        });
        let events = self.streams.iter_mut().flat_map(|stream| &mut stream.events);
        let mut incarnations: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        for shown in in_calls.chain(events.filter_map(|heard| heard.shown.as_mut())) {
            let incarnations = incarnations.entry(shown.id.clone()).or_default();
            match incarnations.iter().find(|incarnation| is_moved(**incarnation, shown.incarnation)) {
                Some(incarnation) => shown.incarnation = *incarnation,
                None if incarnations.contains(&shown.incarnation) => {}
                None => incarnations.push(shown.incarnation),
            }
        }
    }
}

/// Returns whether two creation times differ by steps of an hour, give or take a second.
fn is_moved(one: i64, other: i64) -> bool {
    const SECOND: u64 = 1_000_000;
    const STEP: u64 = 3600 * SECOND;
    let apart = one.abs_diff(other);
    let rest = apart % STEP;
    apart > STEP / 2 && rest.min(STEP - rest) < SECOND
}

impl Shown {
    pub fn is_end(&self) -> bool {
        is_terminal(self.state)
    }

    /// Returns whether it failed because its worker was lost.
    pub fn is_worker_lost(&self) -> bool {
        self.reason == "WORKER_LOST"
    }

    /// Returns whether both show the same job, whatever its durability.
    pub fn is_same(&self, other: &Self) -> bool {
        let essence = |shown: &Self| (shown.incarnation, shown.revision, shown.state, shown.attempt, shown.completed);
        essence(self) == essence(other)
    }
}

impl From<&v1::Job> for Shown {
    fn from(job: &v1::Job) -> Self {
        let micros = |time: Timestamp| time.seconds * 1_000_000 + i64::from(time.nanos) / 1000;
        Self {
            id: job.id.clone(),
            incarnation: job.create_time.map_or(0, micros),
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
