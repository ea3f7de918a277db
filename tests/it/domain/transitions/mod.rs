//! The state machine as a table: every state and every change, then each rule by itself.

mod removal;
mod reports;

use std::time::Duration;

use jobtrack::domain::{Change, Completion, Job, Outcome, Progress, Rejected, Removal, Report, State};
use rstest::rstest;

use crate::support::jobs::{
    apply, at, cancel, confirm, document, failure, heartbeat, job, percent, retry, start, success, takeover, try_apply,
};

/// The expected result of a change.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Then {
    /// The job is in this state, one revision later.
    Is(State),
    /// The job is unchanged.
    Same,
    /// The job is a tombstone.
    Gone(Removal),
    /// The change is rejected.
    No(Rejected),
}
use Rejected::{Active, AttemptRunning as Runs, CancelNotRequested, Finished};
use State::{Cancelled, Failed, Pending, Running, Succeeded};
use Then::{Gone, Is, No, Same};

const DELETED: Then = Gone(Removal::Deleted);

/// Returns jobs in each condition, in the order of the table's columns.
fn conditions() -> [Job; 7] {
    let pending = job("a", 0);
    let running = apply(&pending, &heartbeat(), 1);
    let retried = apply(&running, &retry(), 2);
    let asked = apply(&running, &cancel(false), 2);
    let succeeded = apply(&running, &success(), 2);
    let failed = apply(&running, &failure(), 2);
    let cancelled = apply(&running, &cancel(true), 2);
    [pending, running, asked, retried, succeeded, failed, cancelled]
}

fn delete(force: bool) -> Change {
    Change::Delete { force }
}

#[rstest]
//                                   pending          running          cancel asked   retried        succeeded      failed         cancelled
#[case::start(start("w"),           [Is(Running),     No(Runs),        No(Runs),      Is(Running),   No(Finished),  No(Finished),  No(Finished)])]
#[case::takeover(takeover(),        [Is(Running),     Is(Running),     Is(Running),   Is(Running),   No(Finished),  No(Finished),  No(Finished)])]
#[case::report(heartbeat(),         [Is(Running),     Is(Running),     Is(Running),   Is(Running),   No(Finished),  No(Finished),  No(Finished)])]
#[case::complete(success(),         [Is(Succeeded),   Is(Succeeded),   Is(Succeeded), Is(Succeeded), Same,          No(Finished),  No(Finished)])]
#[case::fail(failure(),             [Is(Failed),      Is(Failed),      Is(Failed),    Is(Failed),    No(Finished),  Same,          No(Finished)])]
#[case::retry(retry(),              [Is(Pending),     Is(Pending),     Is(Cancelled), Same,          No(Finished),  No(Finished),  No(Finished)])]
#[case::cancel(cancel(false),       [Is(Cancelled),   Is(Running),     Same,          Is(Cancelled), No(Finished),  No(Finished),  Same])]
#[case::force(cancel(true),         [Is(Cancelled),   Is(Cancelled),   Is(Cancelled), Is(Cancelled), No(Finished),  No(Finished),  Same])]
#[case::confirm(confirm(), [No(CancelNotRequested), No(CancelNotRequested), Is(Cancelled), No(CancelNotRequested), No(Finished), No(Finished), Same])]
#[case::delete(delete(false),       [No(Active),      No(Active),      No(Active),    No(Active),    DELETED,       DELETED,       DELETED])]
#[case::force_delete(delete(true),  [DELETED,         DELETED,         DELETED,       DELETED,       DELETED,       DELETED,       DELETED])]
#[case::lose_worker(Change::LoseWorker, [Same,        Same,            Same,          Same,          Same,          Same,          Same])]
#[case::force_cancel(Change::ForceCancel, [Same,      Same,            Same,          Same,          Same,          Same,          Same])]
#[case::expire(Change::Expire,      [Same,            Same,            Same,          Same,          Same,          Same,          Same])]
fn every_change_in_every_state(#[case] change: Change, #[case] expected: [Then; 7]) {
    for (job, expected) in conditions().iter().zip(expected) {
        let found = match try_apply(job, &change, 10) {
            Err(reason) => No(reason),
            Ok(None) => Same,
            Ok(Some(next)) => {
                assert_eq!(next.version.revision, job.version.revision + 1);
                assert_eq!(next.version.incarnation_id, job.version.incarnation_id);
                assert_ne!(next.version.change_id, job.version.change_id);
                assert_eq!(next.update_time, at(10));
                next.removal.map_or(Is(next.state), Gone)
            }
        };
        assert_eq!(found, expected, "{:?} with {:?}", job.state, job.cancel.is_some());
        let mut gone = job.clone();
        gone.removal = Some(Removal::Deleted);
        assert_eq!(try_apply(&gone, &change, 10), Ok(None), "a tombstone takes no change");
    }
}

fn report(progress: Progress) -> Report {
    Report { progress, ..Report::default() }
}

/// Returns a running job with this progress.
fn running(progress: Progress) -> Job {
    apply(&job("a", 0), &Change::Report(report(progress)), 1)
}

#[test]
fn higher_attempt_starts_over_and_shuts_out_the_previous_one() {
    let attempt = |attempt, progress| {
        Change::Report(Report {
            attempt: Some(attempt),
            sequence: Some(1),
            worker: format!("w{attempt}"),
            ..report(progress)
        })
    };
    let first = apply(&job("a", 0), &attempt(1, percent(80.0)), 1);
    let second = apply(&first, &attempt(3, Progress { stage: Some("again".into()), ..Progress::default() }), 2);
    assert_eq!((second.attempt, second.worker.as_str()), (3, "w3"));
    assert_eq!(second.progress, Progress { stage: Some("again".into()), ..Progress::default() });
    assert_eq!(second.start_time, first.start_time);
    assert_eq!(try_apply(&second, &attempt(2, percent(90.0)), 3), Err(Rejected::StaleAttempt));

    let late = |change: &Change| try_apply(&second, change, 3);
    let end = Completion { outcome: None, attempt: Some(2), claim: None, expected_revision: None };
    assert_eq!(late(&Change::Complete(end.clone())), Err(Rejected::StaleAttempt));
    assert_eq!(
        late(&Change::ConfirmCancel { attempt: Some(1), claim: None, message: None }),
        Err(Rejected::StaleAttempt)
    );
    let done = apply(&second, &Change::Complete(Completion { attempt: Some(7), ..end.clone() }), 4);
    assert_eq!((done.attempt, done.progress.percent), (7, Some(100.0)));
    assert_eq!(try_apply(&done, &Change::Complete(end), 5), Err(Rejected::StaleAttempt), "the attempt comes first");
}

#[test]
fn first_report_or_end_begins_attempt_one() {
    assert_eq!(job("a", 0).attempt, 0);
    assert_eq!(running(percent(1.0)).attempt, 1);
    for end in [success(), failure()] {
        let done = apply(&job("a", 0), &end, 5);
        assert_eq!((done.attempt, done.start_time), (1, Some(at(5))));
    }
    let cancelled = apply(&job("a", 0), &cancel(true), 5);
    assert_eq!((cancelled.attempt, cancelled.start_time), (0, None));
}

#[test]
fn checks_have_a_fixed_order() {
    let done = apply(&apply(&job("a", 0), &heartbeat(), 1), &failure(), 2);
    let end = Completion { outcome: None, attempt: Some(1), claim: None, expected_revision: Some(99) };
    assert_eq!(try_apply(&done, &Change::Complete(end.clone()), 3), Err(Finished), "the state before the revision");
    let active = running(percent(1.0));
    assert_eq!(try_apply(&active, &Change::Complete(end.clone()), 3), Err(Rejected::RevisionMismatch));
    assert!(apply(&active, &Change::Complete(Completion { expected_revision: Some(2), ..end }), 3).state == Succeeded);
    let unexpected = Report { expected_revision: Some(99), sequence: Some(1), ..Report::default() };
    assert_eq!(try_apply(&active, &Change::Report(unexpected), 3), Err(Rejected::RevisionMismatch));
}

#[test]
fn the_first_request_to_cancel_is_kept() {
    let asked = apply(&running(percent(1.0)), &cancel(false), 5);
    assert_eq!(asked.state, Running);
    let other =
        Change::Cancel { reason: "other".into(), requester: "other".into(), force: true, grace: Duration::ZERO };
    let stopped = apply(&asked, &other, 6);
    assert_eq!((stopped.state, &stopped.cancel), (Cancelled, &asked.cancel));
    let done = apply(&asked, &success(), 6);
    assert_eq!((done.state, &done.cancel), (Succeeded, &asked.cancel));
    let confirm = Change::ConfirmCancel { attempt: None, claim: None, message: Some("stopped".into()) };
    let confirmed = apply(&asked, &confirm, 6);
    assert_eq!(confirmed.progress.message.as_deref(), Some("stopped"));
}

#[test]
fn outcomes_are_stored() {
    let result = document(&serde_json::json!({"url": "x"}));
    let end = Completion { outcome: result.clone(), attempt: None, claim: None, expected_revision: None };
    let done = apply(&job("a", 0), &Change::Complete(end), 1);
    assert_eq!(done.outcome, result.map(Outcome::Result));
    assert_eq!(done.end_time, Some(at(1)));
    assert!(matches!(apply(&job("a", 0), &failure(), 1).outcome, Some(Outcome::Failure(_))));
}
