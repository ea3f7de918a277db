//! Histories in which an id, a stop, a return, a loss or a rejection was handled wrongly, broken by hand: G14 to G18.

use jobtrack::proto::v1::{Event, job::State, reconciled_job::Outcome};
use tonic::Code;

use super::{
    Act, Answer, Call, Death, Fault, History, Shown, Stop, Terms,
    broken::{accepts, objects},
    check,
    example::{
        active, alter, alter_audit, at, audit, call, deleted, entry, fault, good, heard, job, not_found, report, shown,
    },
};

/// Returns a creation of the same id by another client, which may see only its own jobs.
fn taken(begun: u64) -> Call {
    let terms = Terms { owner: "thief".to_owned(), request: "t".to_owned(), ..Terms::default() };
    let answer = job(Shown { life: 2, owner: "thief".to_owned(), durable: false, ..shown(1, State::Pending, 0) });
    Call { limited_to: "thief".to_owned(), ..call("thief", 1, Act::Create(terms), begun, answer) }
}

fn withdrawn(begun: u64) -> Call {
    Call { limited_to: "thief".to_owned(), ..call("thief", 1, Act::Delete, begun, Answer::Done) }
}

#[test]
fn a_recorded_job_that_gives_way_is_objected_to() {
    for begun in [500, 3500] {
        let mut history = active(0);
        history.streams.clear();
        history.calls.insert(3, taken(begun));
        history.ledger = vec![entry(6000, Outcome::Conflicted)];
        accepts(&history);
        let usurped = |shown: &mut Shown| {
            (shown.life, shown.state, shown.completed) = (2, State::Pending, 0);
            shown.owner = "thief".to_owned();
        };
        let mut changed = history.clone();
        alter_audit(&mut changed, usurped);
        objects("G14", &changed);
        alter_audit(&mut history, |shown| shown.owner = "thief".to_owned());
        objects("G14", &history);
        // Excused: Redis had lost the job, or it was deleted.
        changed.faults = vec![fault(3000, 6000, true)];
        accepts(&changed);
        changed.faults.clear();
        changed.calls.insert(3, call("d", 0, Act::Delete, 3400, Answer::Done));
        assert!(!check(&changed).iter().any(|violation| violation.rule == "G14"));
        changed.calls[3].limited_to = "thief".to_owned();
        objects("G14", &changed);
    }
}

#[test]
fn a_creation_that_gave_way_unnoticed_is_objected_to() {
    let mut history = good();
    history.calls.insert(3, taken(3500));
    objects("G14", &history);
    let mut told = history.clone();
    told.ledger = vec![entry(6000, Outcome::Dropped)];
    accepts(&told);
    // Excused: the creation was withdrawn, or died with its replica.
    let mut gone = history.clone();
    gone.calls.insert(4, withdrawn(3600));
    accepts(&gone);
    history.deaths = vec![Death { replica: 1, at: at(3700), back: Some(at(3800)) }];
    accepts(&history);
}

#[test]
fn a_watcher_who_is_not_told_that_its_job_gave_way_is_objected_to() {
    let mut history = active(0);
    history.calls.insert(3, taken(500));
    history.ledger = vec![entry(6000, Outcome::Conflicted)];
    alter_audit(&mut history, |shown| (shown.owner, shown.life) = ("thief".to_owned(), 2));
    history.streams[0].job = None;
    let silent = |history: &History| check(history).iter().any(|violation| violation.what.contains("was not told"));
    assert!(silent(&history));
    objects("G14", &history);
    history.streams[0].events.push(heard(6000, Event::Removed, shown(3, State::Running, 2)));
    assert!(!silent(&history));
}

/// Returns a history in which replica 0 stopped after a report that only it knew of.
fn stopped(code: Option<i32>, left: Option<usize>) -> History {
    let mut history = active(0);
    history.streams.clear();
    alter(&mut history, 2, |shown| shown.durable = false);
    let silent = Some((at(2900), at(5000), None));
    history.faults = vec![Fault { silent, ..fault(2900, 9000, false) }];
    history.stops = vec![Stop { replica: 0, at: at(3100), ended: at(4000), back: Some(at(4500)), code, left }];
    if code != Some(0) {
        history.deaths = vec![Death { replica: 0, at: at(4000), back: Some(at(4500)) }];
    }
    history
}

#[test]
fn a_stop_that_loses_what_it_says_is_stored_is_objected_to() {
    let mut history = stopped(Some(0), None);
    accepts(&history);
    alter_audit(&mut history, |shown| (shown.revision, shown.completed) = (2, 1));
    objects("G15", &history);
    history.ledger = vec![entry(6000, Outcome::Conflicted)];
    history.calls[1].replica = 1;
    accepts(&history);
}

#[test]
fn a_stop_that_does_not_count_what_is_left_is_objected_to() {
    let lose = |history: &mut History| {
        alter_audit(history, |shown| (shown.revision, shown.completed) = (2, 1));
    };
    objects("G15", &stopped(Some(1), None));
    objects("G15", &stopped(None, Some(1)));
    let mut history = stopped(Some(1), Some(0));
    accepts(&history);
    lose(&mut history);
    objects("G15", &history);
    history.stops[0].left = Some(1);
    accepts(&history);
    // Redis would have taken the change.
    history.faults[0].silent = Some((at(2900), at(3000), None));
    objects("G15", &history);
    history.faults[0].silent = Some((at(2900), at(5000), None));
    history.stops[0].ended = at(40_000);
    objects("G9", &history);
}

#[test]
fn a_replica_that_does_not_return_is_objected_to() {
    let mut history = good();
    history.replicas = 1;
    let silent = Some((at(1500), at(2000), None));
    history.faults = vec![Fault { mended: Some(at(2000)), silent, ..fault(1500, 30_000, false) }];
    accepts(&history);
    history.calls.truncate(1);
    for number in 0..30 {
        let answer = job(Shown { durable: false, ..shown(number + 2, State::Running, number) });
        let begun = 2100 + 1000 * u64::try_from(number).expect("not negative");
        history.calls.push(call("c", 0, report(number), begun, answer));
    }
    (history.streams, history.quiet) = (Vec::new(), None);
    // The limit depends on the number of accepted changes; without attempts there is nothing to conclude.
    assert!(check(&history).is_empty(), "15 calls within 15 s are too few: {:?}", check(&history));
    let mut busy = history.clone();
    busy.calls.extend(history.calls[1..].iter().cloned());
    objects("G16", &busy);
    alter(&mut busy, 10, |shown| shown.durable = true);
    accepts(&busy);
    alter(&mut busy, 10, |shown| shown.durable = false);
    busy.forgotten = at(1600);
    accepts(&busy);
}

#[test]
fn a_replica_that_denies_what_it_holds_is_objected_to() {
    let mut history = active(0);
    history.streams.clear();
    history.faults = vec![fault(2500, 8000, true)];
    history.calls.insert(3, call("d", 0, Act::Get, 3500, not_found()));
    objects("G17", &history);
    history.calls[3].replica = 1;
    accepts(&history);
    history.calls.insert(2, call("d", 1, Act::Get, 2200, job(shown(2, State::Running, 1))));
    objects("G17", &history);
    history.deaths = vec![Death { replica: 1, at: at(2300), back: Some(at(2400)) }];
    accepts(&history);
    accepts(&deleted());
}

#[test]
fn a_job_that_is_held_and_not_brought_back_is_objected_to() {
    let mut history = good();
    history.streams.clear();
    history.faults = vec![fault(4500, 8000, true)];
    history.deaths = vec![Death { replica: 0, at: at(4600), back: Some(at(4700)) }];
    audit(&mut history, &not_found());
    accepts(&history);
    history.calls.insert(4, call("d", 1, Act::Get, 4400, job(shown(4, State::Succeeded, 2))));
    objects("G17", &history);
}

#[test]
fn a_refusal_without_a_reason_is_objected_to() {
    let refused = |code, reason: &str| Answer::Refused { code, reason: reason.to_owned() };
    let mut history = active(0);
    history.calls.insert(3, call("d", 0, Act::Oversized, 3500, refused(Code::ResourceExhausted, "MESSAGE_TOO_LARGE")));
    accepts(&history);
    for code in [Code::ResourceExhausted, Code::Unavailable, Code::Internal] {
        history.calls[3].answer = refused(code, "");
        objects("G18", &history);
    }
    // Excused: the replica was down, so the client made the error itself.
    history.deaths = vec![Death { replica: 0, at: at(3400), back: Some(at(3600)) }];
    accepts(&history);
    history.calls[3].answer = refused(Code::ResourceExhausted, "");
    objects("G18", &history);
}

#[test]
fn a_refusal_that_takes_long_is_objected_to() {
    let mut history = active(0);
    let full = Answer::Refused { code: Code::ResourceExhausted, reason: "MEMORY_FULL".to_owned() };
    history.calls.insert(3, call("d", 0, report(3), 3500, full));
    accepts(&history);
    history.calls[3].ended = at(3500 + 5600);
    objects("G18", &history);
}
