//! Correct histories, and functions to break them.

use std::time::Duration;

use jobtrack::proto::v1::{Event, job::State, reconciled_job::Outcome};
use tonic::Code;

use super::{AUDITOR, Act, Answer, At, Call, Ending, Entry, Face, Fault, Heard, History, Shown, Stream, Terms};

const JOB: &str = "a";

/// Time of the auditor's calls, in milliseconds.
pub const QUIET: u64 = 20_000;

pub fn at(millis: u64) -> At {
    Duration::from_millis(millis)
}

pub fn shown(revision: i64, state: State, completed: i64) -> Shown {
    let attempt = i32::from(revision > 1);
    let (id, incarnation, owner, reason, lease) = (JOB.to_owned(), 1, String::new(), String::new(), 0);
    let (cancelled, lost, durable) = (false, false, true);
    Shown { id, incarnation, owner, revision, state, attempt, completed, cancelled, lost, reason, lease, durable }
}

pub fn job(shown: Shown) -> Answer {
    Answer::Job { shown, applied: true }
}

pub fn not_found() -> Answer {
    Answer::Refused { code: Code::NotFound, reason: "JOB_NOT_FOUND".to_owned() }
}

/// Returns a call of 10 ms.
pub fn call(client: &str, replica: usize, act: Act, begun: u64, answer: Answer) -> Call {
    let (client, limited_to, job) = (client.to_owned(), String::new(), JOB.to_owned());
    Call { client, limited_to, replica, job, act, begun: at(begun), ended: at(begun + 10), answer }
}

pub fn create() -> Act {
    Act::Create(Terms { request: "r".to_owned(), ..Terms::default() })
}

pub fn report(sequence: i64) -> Act {
    Act::Report { sequence, attempt: 1 }
}

pub fn complete() -> Act {
    Act::Complete { attempt: 1 }
}

pub fn heard(millis: u64, event: Event, shown: Shown) -> Heard {
    Heard { at: at(millis), event, shown: Some(shown), reset: false }
}

pub fn fault(from: u64, until: u64, lossy: bool) -> Fault {
    Fault { name: "fault", from: at(from), mended: None, until: Some(at(until)), lossy, silent: None }
}

pub fn entry(millis: u64, outcome: Outcome) -> Entry {
    Entry { replica: 0, at: at(millis), job: JOB.to_owned(), outcome }
}

/// Sets the answer to the auditor on both replicas.
pub fn audit(history: &mut History, answer: &Answer) {
    history.calls.retain(|call| call.client != AUDITOR);
    for replica in [0, 1] {
        history.calls.push(call(AUDITOR, replica, Act::Get, QUIET, answer.clone()));
    }
}

/// Returns the history of a job that was created, reported on twice and completed, and watched to its end.
pub fn good() -> History {
    let versions = [
        shown(1, State::Pending, 0),
        shown(2, State::Running, 1),
        shown(3, State::Running, 2),
        shown(4, State::Succeeded, 2),
    ];
    let [first, second, third, last] = versions.clone();
    let calls = vec![
        call("c", 0, create(), 1000, job(first.clone())),
        call("c", 0, report(1), 2000, job(second.clone())),
        call("c", 0, report(2), 3000, job(third.clone())),
        call("c", 0, complete(), 4000, job(last.clone())),
    ];
    let events = vec![
        heard(1500, Event::Snapshot, first),
        heard(2005, Event::Update, second),
        heard(3005, Event::Update, third),
        heard(4005, Event::Update, last.clone()),
    ];
    let stream = Stream {
        watcher: "w".to_owned(),
        face: Face::Grpc,
        replica: 1,
        job: Some(JOB.to_owned()),
        opened: at(1500),
        resumed: None,
        known: Vec::new(),
        events,
        closed: Some((at(4006), Ending::Ok)),
    };
    let (replicas, grace) = (2, at(5000));
    let streams = vec![stream];
    let mut history = History { replicas, grace, calls, streams, quiet: Some(at(QUIET)), ..History::default() };
    audit(&mut history, &job(last));
    history
}

/// Returns the history of the same job before its end: its worker is lost if `lease` is set, and a client still
/// watches.
pub fn active(lease: i64) -> History {
    let mut history = good();
    history.calls.remove(3);
    let stream = &mut history.streams[0];
    stream.events.pop();
    stream.closed = None;
    let leased = |shown: &mut Shown| shown.lease = lease;
    stream.events.iter_mut().filter_map(|heard| heard.shown.as_mut()).for_each(leased);
    let mut last = shown(3, State::Running, 2);
    leased(&mut last);
    if lease > 0 {
        (last.revision, last.lost) = (4, true);
        stream.events.push(heard(5000, Event::Update, last.clone()));
    }
    audit(&mut history, &job(last));
    for call in &mut history.calls {
        if let Answer::Job { shown, .. } = &mut call.answer {
            leased(shown);
        }
    }
    history
}

/// Returns the history of the same job, deleted after its end on replica 0.
pub fn deleted() -> History {
    let mut history = good();
    history.calls.insert(4, call("c", 0, Act::Delete, 5000, Answer::Done));
    audit(&mut history, &not_found());
    history
}

/// Changes the job that call `number` showed.
pub fn alter(history: &mut History, number: usize, change: impl Fn(&mut Shown)) {
    let Answer::Job { shown, .. } = &mut history.calls[number].answer else { panic!("no job in call {number}") };
    change(shown);
}

/// Changes the job that the auditor is shown.
pub fn alter_audit(history: &mut History, change: impl Fn(&mut Shown) + Copy) {
    let count = history.calls.len();
    (count - 2..count).for_each(|number| alter(history, number, change));
}
