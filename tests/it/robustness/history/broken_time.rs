//! Histories with wrong time-driven decisions, broken by hand: G13.

use jobtrack::proto::v1::{Event, job::State};
use tonic::Code;

use super::{
    Act, Answer, Death, Fault, History, Shown, Terms,
    broken::{assert_kept, assert_violates},
    example::{at, audit, call, complete, fault, heard, job, not_found, report, shown},
};

/// Length of the lease in milliseconds.
const LEASE: i64 = 1000;

/// Time between two reports in milliseconds.
const PACE: u64 = 400;

fn finished() -> Answer {
    Answer::Refused { code: Code::FailedPrecondition, reason: "JOB_FINISHED".to_owned() }
}

fn unavailable() -> Answer {
    Answer::Refused { code: Code::Unavailable, reason: "STORE_UNAVAILABLE".to_owned() }
}

fn running(revision: i64) -> Shown {
    Shown { lease: LEASE, ..shown(revision, State::Running, revision - 1) }
}

fn lost(revision: i64) -> Shown {
    Shown { reason: "WORKER_LOST".to_owned(), ..shown(revision, State::Failed, revision - 2) }
}

fn create() -> Act {
    Act::Create(Terms { request: "r".to_owned(), lease: LEASE, fail_when_lost: true, ..Terms::default() })
}

/// Returns the history of a job whose worker reports at a steady pace from 2000 to 4000, and whose next report finds it
/// failed because its worker counts as lost.
fn failed() -> History {
    let mut history = History { replicas: 2, grace: at(5000), quiet: Some(at(20_000)), ..History::default() };
    let created = Shown { lease: LEASE, ..shown(1, State::Pending, 0) };
    history.calls.push(call("c", 0, create(), 1000, job(created)));
    for number in 1..=6 {
        let begun = 2000 + PACE * (number - 1);
        let sequence = i64::try_from(number).expect("few");
        history.calls.push(call("c", 0, report(sequence), begun, job(running(sequence + 1))));
    }
    history.calls.push(call("c", 0, report(7), 4400, finished()));
    audit(&mut history, &job(lost(8)));
    history
}

#[test]
fn loss_of_a_worker_that_is_heard_is_reported() {
    assert_violates("G13", &failed());
    // The worker was silent for as long as its lease.
    for silent in [3, 6] {
        let mut history = failed();
        history.calls.drain(silent..=silent + 1);
        history.calls.push(call("d", 0, Act::Get, 4700, job(lost(8))));
        assert_kept(&history);
    }
    // A watcher saw the failure.
    let mut history = failed();
    history.calls.remove(7);
    assert_kept(&history);
    let mut watched = super::example::good().streams;
    watched[0].events = vec![heard(3900, Event::Snapshot, lost(8))];
    history.streams = watched;
    assert_violates("G13", &history);
}

#[test]
fn loss_of_a_worker_that_a_returning_replica_heard_is_reported() {
    let mut history = failed();
    for call in &mut history.calls[4..=6] {
        let Answer::Job { shown, .. } = &mut call.answer else { panic!("a job") };
        shown.durable = false;
    }
    // The replica was cut off, and returned within the grace.
    history.faults = vec![fault(3100, 6000, false)];
    assert_violates("G13", &history);
    history.faults[0].until = Some(at(3100 + 5001));
    assert_kept(&history);
    // Redis was unavailable to all replicas, and all returned within the grace.
    let silent = Some((at(3100), at(6000), None));
    history.faults[0] = Fault { mended: Some(at(6000)), silent, ..fault(3100, 10_000, false) };
    assert_violates("G13", &history);
    // The replica died with the reports that it had received.
    history.deaths = vec![Death { replica: 0, at: at(4050), back: Some(at(4200)) }];
    assert_kept(&history);
}

#[test]
fn loss_of_a_worker_that_nobody_could_hear_is_reported() {
    let mut history = failed();
    for call in &mut history.calls[3..=6] {
        call.answer = unavailable();
    }
    assert_kept(&history);
    let silent = Some((at(2700), at(4100), None));
    history.faults = vec![Fault { mended: Some(at(4100)), silent, ..fault(2700, 6000, false) }];
    assert_violates("G13", &history);
    // One replica did not run, another did.
    history.faults = vec![fault(2700, 6000, false)];
    history.deaths = vec![Death { replica: 0, at: at(2700), back: Some(at(4100)) }];
    assert_kept(&history);
    history.deaths.push(Death { replica: 1, at: at(2600), back: Some(at(4200)) });
    assert_violates("G13", &history);
}

#[test]
fn loss_of_a_worker_that_had_completed_its_job_is_reported() {
    let mut history = failed();
    let done = Shown { lease: LEASE, durable: false, ..shown(8, State::Succeeded, 6) };
    history.calls[7] = call("c", 0, complete(), 4400, job(done));
    history.faults = vec![fault(4300, 6000, false)];
    assert_violates("G13", &history);
}

#[test]
fn expiry_of_a_job_whose_worker_is_heard_is_reported() {
    let mut history = failed();
    history.calls[7].answer = not_found();
    audit(&mut history, &not_found());
    history.active_retention = at(1000);
    assert_violates("G13", &history);
    history.calls.drain(5..=6);
    assert_kept(&history);
    // The job was deleted.
    history = failed();
    history.active_retention = at(1000);
    history.calls[7].answer = not_found();
    history.calls.insert(7, call("d", 0, Act::Delete, 4350, Answer::Done));
    audit(&mut history, &not_found());
    assert_kept(&history);
}

#[test]
fn worker_that_is_gone_and_not_noticed_is_reported() {
    let mut history = failed();
    history.calls.remove(7);
    audit(&mut history, &job(Shown { lost: true, ..running(7) }));
    assert_violates("G13", &history);
    // A job that does not fail with its worker is only marked as lost.
    let plain = Terms { request: "r".to_owned(), lease: LEASE, ..Terms::default() };
    let mut soft = history.clone();
    soft.calls[0].act = Act::Create(plain);
    assert_kept(&soft);
    // After a disturbance there is more time.
    history.faults = vec![fault(5000, 8000, false)];
    assert_kept(&history);
    history.faults = vec![fault(5000, 6000, false)];
    assert_violates("G13", &history);
    // The checker allows a replica that was killed just before the maximum time of being cut off.
    history.faults = vec![fault(3000, 4000, false)];
    assert_violates("G13", &history);
    history.grace = at(20_000);
    assert_kept(&history);
}
