//! Histories with errors concerning ids, stops, returns, losses or rejections, broken by hand: G14 to G18.

use jobtrack::proto::v1::{Event, job::State, reconciled_job::Outcome};
use tonic::Code;

use super::{
    Act, Answer, Call, Death, Fault, History, Shown, Stop, Terms,
    broken::{assert_kept, assert_violates},
    check,
    example::{
        active, alter, alter_audit, at, audit, call, deleted, entry, fault, good, heard, job, not_found, report, shown,
    },
};

/// Returns a creation of the same id by another client that can see only its own jobs.
fn taken(begun: u64) -> Call {
    let terms = Terms { owner: "thief".to_owned(), request: "t".to_owned(), ..Terms::default() };
    let answer =
        job(Shown { incarnation: 2, owner: "thief".to_owned(), durable: false, ..shown(1, State::Pending, 0) });
    Call { limited_to: "thief".to_owned(), ..call("thief", 1, Act::Create(terms), begun, answer) }
}

fn withdrawn(begun: u64) -> Call {
    Call { limited_to: "thief".to_owned(), ..call("thief", 1, Act::Delete, begun, Answer::Done) }
}

#[test]
fn recorded_job_that_loses_is_reported() {
    for begun in [500, 3500] {
        let mut history = active(0);
        history.streams.clear();
        history.calls.insert(3, taken(begun));
        history.reported = vec![entry(6000, Outcome::Conflicted)];
        assert_kept(&history);
        let usurped = |shown: &mut Shown| {
            (shown.incarnation, shown.state, shown.completed) = (2, State::Pending, 0);
            shown.owner = "thief".to_owned();
        };
        let mut changed = history.clone();
        alter_audit(&mut changed, usurped);
        assert_violates("G14", &changed);
        alter_audit(&mut history, |shown| shown.owner = "thief".to_owned());
        assert_violates("G14", &history);
        // Excused: Redis had lost the job, or it was deleted.
        changed.faults = vec![fault(3000, 6000, true)];
        assert_kept(&changed);
        changed.faults.clear();
        changed.calls.insert(3, call("d", 0, Act::Delete, 3400, Answer::Done));
        assert!(!check(&changed).iter().any(|violation| violation.rule == "G14"));
        changed.calls[3].limited_to = "thief".to_owned();
        assert_violates("G14", &changed);
    }
}

#[test]
fn unreported_losing_creation_is_reported() {
    let mut history = good();
    history.calls.insert(3, taken(3500));
    assert_violates("G14", &history);
    let mut told = history.clone();
    told.reported = vec![entry(6000, Outcome::Dropped)];
    assert_kept(&told);
    // Excused: the creation was withdrawn, or died with its replica.
    let mut gone = history.clone();
    gone.calls.insert(4, withdrawn(3600));
    assert_kept(&gone);
    history.deaths = vec![Death { replica: 1, at: at(3700), back: Some(at(3800)) }];
    assert_kept(&history);
}

#[test]
fn watcher_not_told_that_its_job_lost_is_reported() {
    let mut history = active(0);
    history.calls.insert(3, taken(500));
    history.reported = vec![entry(6000, Outcome::Conflicted)];
    alter_audit(&mut history, |shown| (shown.owner, shown.incarnation) = ("thief".to_owned(), 2));
    history.streams[0].job = None;
    let silent = |history: &History| check(history).iter().any(|violation| violation.what.contains("was not told"));
    assert!(silent(&history));
    assert_violates("G14", &history);
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
fn stop_that_loses_stored_changes_is_reported() {
    let mut history = stopped(Some(0), None);
    assert_kept(&history);
    alter_audit(&mut history, |shown| (shown.revision, shown.completed) = (2, 1));
    assert_violates("G15", &history);
    history.reported = vec![entry(6000, Outcome::Conflicted)];
    history.calls[1].replica = 1;
    assert_kept(&history);
}

#[test]
fn stop_that_does_not_count_unstored_jobs_is_reported() {
    let lose = |history: &mut History| {
        alter_audit(history, |shown| (shown.revision, shown.completed) = (2, 1));
    };
    assert_violates("G15", &stopped(Some(1), None));
    assert_violates("G15", &stopped(None, Some(1)));
    let mut history = stopped(Some(1), Some(0));
    assert_kept(&history);
    lose(&mut history);
    assert_violates("G15", &history);
    history.stops[0].left = Some(1);
    assert_kept(&history);
    // Redis would have accepted the change.
    history.faults[0].silent = Some((at(2900), at(3000), None));
    assert_violates("G15", &history);
    history.faults[0].silent = Some((at(2900), at(5000), None));
    history.stops[0].ended = at(40_000);
    assert_violates("G9", &history);
}

#[test]
fn replica_that_does_not_return_is_reported() {
    let mut history = good();
    history.replicas = 1;
    let silent = Some((at(1500), at(2000), None));
    history.faults = vec![Fault { mended: Some(at(2000)), silent, ..fault(1500, 30_000, false) }];
    assert_kept(&history);
    history.calls.truncate(1);
    for number in 0..30 {
        let answer = job(Shown { durable: false, ..shown(number + 2, State::Running, number) });
        let begun = 2100 + 1000 * u64::try_from(number).expect("not negative");
        history.calls.push(call("c", 0, report(number), begun, answer));
    }
    (history.streams, history.quiet) = (Vec::new(), None);
    // The limit depends on the number of accepted changes; without attempted changes no conclusion is possible.
    assert!(check(&history).is_empty(), "15 calls within 15 s are too few: {:?}", check(&history));
    let mut busy = history.clone();
    busy.calls.extend(history.calls[1..].iter().cloned());
    assert_violates("G16", &busy);
    alter(&mut busy, 10, |shown| shown.durable = true);
    assert_kept(&busy);
    alter(&mut busy, 10, |shown| shown.durable = false);
    busy.forgotten = at(1600);
    assert_kept(&busy);
}

#[test]
fn replica_that_denies_a_cached_job_is_reported() {
    let mut history = active(0);
    history.streams.clear();
    history.faults = vec![fault(2500, 8000, true)];
    history.calls.insert(3, call("d", 0, Act::Get, 3500, not_found()));
    assert_violates("G17", &history);
    history.calls[3].replica = 1;
    assert_kept(&history);
    history.calls.insert(2, call("d", 1, Act::Get, 2200, job(shown(2, State::Running, 1))));
    assert_violates("G17", &history);
    history.deaths = vec![Death { replica: 1, at: at(2300), back: Some(at(2400)) }];
    assert_kept(&history);
    assert_kept(&deleted());
}

#[test]
fn cached_job_that_is_not_restored_is_reported() {
    let mut history = good();
    history.streams.clear();
    history.faults = vec![fault(4500, 8000, true)];
    history.deaths = vec![Death { replica: 0, at: at(4600), back: Some(at(4700)) }];
    audit(&mut history, &not_found());
    assert_kept(&history);
    history.calls.insert(4, call("d", 1, Act::Get, 4400, job(shown(4, State::Succeeded, 2))));
    assert_violates("G17", &history);
}

#[test]
fn refusal_without_a_reason_is_reported() {
    let refused = |code, reason: &str| Answer::Refused { code, reason: reason.to_owned() };
    let mut history = active(0);
    history.calls.insert(3, call("d", 0, Act::Oversized, 3500, refused(Code::ResourceExhausted, "MESSAGE_TOO_LARGE")));
    assert_kept(&history);
    for code in [Code::ResourceExhausted, Code::Unavailable, Code::Internal] {
        history.calls[3].answer = refused(code, "");
        assert_violates("G18", &history);
    }
    // Excused: the replica was down, so the client made the error itself.
    history.deaths = vec![Death { replica: 0, at: at(3400), back: Some(at(3600)) }];
    assert_kept(&history);
    history.calls[3].answer = refused(Code::ResourceExhausted, "");
    assert_violates("G18", &history);
}

#[test]
fn refusal_that_takes_long_is_reported() {
    let mut history = active(0);
    let full = Answer::Refused { code: Code::ResourceExhausted, reason: "MEMORY_FULL".to_owned() };
    history.calls.insert(3, call("d", 0, report(3), 3500, full));
    assert_kept(&history);
    history.calls[3].ended = at(3500 + 5600);
    assert_violates("G18", &history);
}
