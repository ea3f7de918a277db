//! Histories that were broken by hand, and correct histories that look broken.

use jobtrack::proto::v1::{Event, job::State, reconciled_job::Outcome};
use tonic::Code;

use super::{
    Act, Answer, Death, Ending, Fault, Heard, History, Shown, Stream, check,
    example::{
        active, alter, alter_audit, at, audit, call, create, deleted, entry, fault, good, heard, job, not_found, shown,
    },
};

/// Fails unless a violation of this rule is found.
#[track_caller]
pub fn assert_violates(rule: &str, history: &History) {
    let found = check(history);
    assert!(found.iter().any(|violation| violation.rule == rule), "not {rule}: {found:?}");
}

/// Fails if any violation is found.
#[track_caller]
pub fn assert_kept(history: &History) {
    assert_eq!(check(history), [].into());
}

#[test]
fn good_histories_are_accepted() {
    assert_kept(&good());
    assert_kept(&active(0));
    assert_kept(&active(1000));
    assert_kept(&deleted());
}

#[test]
fn lost_change_is_reported() {
    for durable in [true, false] {
        let rule = if durable { "G1" } else { "G2" };
        let mut history = active(0);
        alter(&mut history, 2, |shown| shown.durable = durable);
        alter_audit(&mut history, |shown| (shown.revision, shown.completed) = (2, 1));
        history.streams.clear();
        assert_violates(rule, &history);
        let mut told = history.clone();
        told.calls[1].replica = 1;
        told.reported = vec![entry(6000, Outcome::Dropped)];
        assert_kept(&told);
        told.reported[0].outcome = Outcome::Merged;
        assert_violates(rule, &told);
        // The change died with its replica. A change that was stored in Redis is excused only if Redis lost it then.
        history.deaths = vec![Death { replica: 0, at: at(3500), back: None }];
        history.faults = vec![fault(3400, 4000, false)];
        if durable {
            assert_violates(rule, &history);
            history.faults.push(fault(5000, 6000, true));
        }
        assert_kept(&history);
        history.deaths[0].replica = 1;
        assert_violates(rule, &history);
    }
}

#[test]
fn lost_job_or_end_is_reported() {
    let mut history = good();
    audit(&mut history, &not_found());
    assert_violates("G1", &history);
    let mut history = good();
    history.streams.clear();
    alter_audit(&mut history, |shown| (shown.revision, shown.state) = (5, State::Failed));
    assert_violates("G1", &history);
    let mut history = active(0);
    let asked = Shown { cancelled: true, ..shown(3, State::Running, 2) };
    history.calls.insert(3, call("d", 1, Act::Cancel { force: false }, 3500, job(asked)));
    assert_violates("G1", &history);
    alter_audit(&mut history, |shown| shown.cancelled = true);
    assert_kept(&history);
}

#[test]
fn read_that_is_behind_is_reported() {
    for (replica, begun, is_behind) in [(0, 3100, true), (1, 5900, false), (1, 6500, true)] {
        let mut history = active(0);
        history.calls.push(call("d", replica, Act::Get, begun, job(shown(2, State::Running, 1))));
        let found = check(&history);
        assert_eq!(found.iter().any(|violation| violation.rule == "G1"), is_behind, "{replica} at {begun}: {found:?}");
    }
}

#[test]
fn replicas_that_differ_or_do_not_heal_are_reported() {
    let mut history = good();
    let last = history.calls.len() - 1;
    alter(&mut history, last, |shown| shown.revision = 5);
    assert_violates("G2", &history);
    let mut history = good();
    audit(&mut history, &Answer::Refused { code: Code::Unavailable, reason: "STORE_UNAVAILABLE".to_owned() });
    assert_violates("G2", &history);
}

#[test]
fn conflict_without_a_second_side_is_reported() {
    let mut history = good();
    history.reported = vec![entry(6000, Outcome::Conflicted)];
    assert_violates("G2", &history);
    history.calls[1].replica = 1;
    assert_kept(&history);
}

#[test]
fn two_jobs_of_one_request_are_reported() {
    let mut history = good();
    let other = Shown { incarnation: 2, ..shown(1, State::Pending, 0) };
    history.calls.insert(1, call("d", 1, create(), 1100, job(other)));
    assert_violates("G3", &history);
    // Replicas without a connection made the changes, and reported the conflict.
    alter(&mut history, 1, |shown| shown.durable = false);
    assert_violates("G3", &history);
    history.reported = vec![entry(6000, Outcome::Conflicted)];
    assert_kept(&history);
    // The first job had expired, although the second one has ended since.
    let mut history = good();
    let first = Shown { incarnation: 0, durable: false, ..shown(1, State::Pending, 0) };
    history.calls.insert(0, call("d", 0, create(), 100, job(first)));
    history.streams.clear();
    assert_violates("G3", &history);
    history.active_retention = at(500);
    assert_kept(&history);
}

#[test]
fn revisions_that_do_not_rise_are_reported() {
    for revision in [1, 2] {
        let mut history = good();
        let again = heard(2010, Event::Update, shown(revision, State::Running, 1));
        history.streams[0].events.insert(2, again);
        assert_violates("G4", &history);
        let again = &mut history.streams[0].events[2];
        (again.event, again.reset) = (Event::Snapshot, true);
        assert_kept(&history);
    }
    let mut history = good();
    history.streams[0].resumed = Some(2);
    history.streams[0].events.remove(0);
    assert_violates("G4", &history);

    let mut history = good();
    let again = history.streams[0].events[3].clone();
    history.streams[0].events.push(again);
    assert_violates("G4", &history);
    let over = Heard { at: at(4005), event: Event::Bookmark, shown: None, reset: true };
    history.streams[0].events.insert(4, over);
    assert_kept(&history);
    // The stream named the job when it started over.
    let named = &mut history.streams[0].events[3];
    (named.event, named.reset) = (Event::Snapshot, true);
    assert_violates("G4", &history);
}

#[test]
fn durable_end_that_changes_is_reported() {
    for (state, begun) in [(State::Failed, 4005), (State::Running, 7000)] {
        let mut history = good();
        history.calls.insert(4, call("d", 1, Act::Get, begun, job(shown(5, state, 2))));
        assert_violates("G5", &history);
        history.faults = vec![fault(4001, 8000, true)];
        history.reported = vec![entry(8000, Outcome::Conflicted)];
        history.calls[1].replica = 1;
        assert_kept(&history);
        history.faults.clear();
        alter(&mut history, 4, |shown| shown.durable = false);
        assert_kept(&history);
    }
}

#[test]
fn streams_that_begin_or_end_wrongly_are_reported() {
    let mut history = good();
    history.streams[0].events.remove(0);
    assert_violates("G6", &history);
    let mut history = good();
    history.streams[0].events.pop();
    assert_violates("G6", &history);
    history.streams[0].closed = Some((at(4006), Ending::Broken(Code::Unavailable)));
    assert_kept(&history);
    history.streams[0].closed = None;
    assert_violates("G6", &history);
}

#[test]
fn watcher_who_misses_the_newest_is_reported() {
    let mut history = active(0);
    history.streams[0].events.pop();
    assert_violates("G6", &history);
    history.streams[0].resumed = Some(2);
    history.streams[0].events.clear();
    assert_violates("G6", &history);
    history.streams[0].resumed = Some(3);
    assert_kept(&history);
}

#[test]
fn watcher_of_all_jobs_who_misses_what_came_between_two_streams_is_reported() {
    let mut history = active(0);
    let stream = &mut history.streams[0];
    stream.job = None;
    assert_kept(&history);
    let before = history.streams[0].clone();
    history.streams[0].events.clear();
    history.streams[0].known = before.last_of_each();
    assert_kept(&history);
    let older = Stream { events: before.events[..before.events.len() - 1].to_vec(), ..before };
    history.streams[0].known = older.last_of_each();
    assert_violates("G6", &history);
}

#[test]
fn watcher_who_misses_the_deletion_is_reported() {
    let mut history = deleted();
    let stream = &mut history.streams[0];
    (stream.job, stream.closed) = (None, None);
    assert_violates("G6", &history);
    let mut told = history.clone();
    told.streams[0].events.push(heard(5005, Event::Removed, shown(5, State::Succeeded, 2)));
    assert_kept(&told);
    history.streams[0].events.push(Heard { at: at(6000), event: Event::Bookmark, shown: None, reset: true });
    assert_kept(&history);
}

#[test]
fn slow_calls_are_reported() {
    let mut history = good();
    history.calls[2].ended = at(3000 + 1600);
    assert_kept(&history);
    history.faults = vec![fault(2000, 3500, false)];
    assert_violates("G9", &history);
    history.stalls = vec![(at(3100), at(3900))];
    assert_kept(&history);
    let mut history = good();
    history.calls[2].ended = at(3000 + 5600);
    assert_violates("G9", &history);
}

#[test]
fn false_not_found_is_reported() {
    let mut history = good();
    history.calls.insert(3, call("d", 1, Act::Get, 3500, not_found()));
    assert_violates("G10", &history);
    history.faults = vec![fault(3400, 3900, true)];
    assert_kept(&history);
    // The data was restored earlier.
    history.faults = vec![fault(2500, 3400, true)];
    assert_violates("G10", &history);

    // A job that no other client knew, on a replica that can't ask Redis.
    let mut history = good();
    history.calls.insert(0, call("d", 1, Act::Get, 500, not_found()));
    assert_kept(&history);
    history.faults = vec![Fault { silent: Some((at(400), at(900), Some(1))), ..fault(300, 950, false) }];
    assert_violates("G10", &history);
    history.calls[0].replica = 0;
    assert_kept(&history);
}

#[test]
fn job_that_outlives_its_deletion_or_expiry_is_reported() {
    let back = || job(shown(4, State::Succeeded, 2));
    let mut history = deleted();
    audit(&mut history, &back());
    assert_violates("G11", &history);
    let mut history = deleted();
    history.calls.insert(5, call("d", 0, Act::Get, 6000, back()));
    assert_violates("G11", &history);
    history.calls[5].replica = 1;
    assert_kept(&history);
    history.calls[5].replica = 0;
    history.faults = vec![fault(5500, 7000, true)];
    assert_kept(&history);

    let mut history = good();
    let Act::Create(terms) = &mut history.calls[0].act else { panic!("it is not created") };
    terms.retention = 5000;
    assert_violates("G11", &history);
}

#[test]
fn unnoticed_lost_worker_is_reported() {
    let mut history = active(1000);
    alter_audit(&mut history, |shown| shown.lost = false);
    assert_violates("G12", &history);
    let mut history = active(1000);
    history.streams[0].events.pop();
    assert_violates("G12", &history);
    let late = Heard { at: at(15_000), ..active(1000).streams[0].events[3].clone() };
    history.streams[0].events.push(late);
    assert_violates("G12", &history);
    // A watcher that comes later receives the current version.
    history.streams[0].opened = at(14_000);
    assert_kept(&history);
}
