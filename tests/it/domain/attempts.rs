//! The rules of attempts in the state machine and in the merge, without a server.

use std::time::Duration;

use jobtrack::domain::{
    Applied, Cancellation, Change, Claim, Completion, Due, Failure, FailureCode, Grace, Job, Liveness, MAX_ATTEMPTS,
    NewJob, Outcome, Rejected, Report, Start, State, merge,
};
use rstest::rstest;
use uuid::Uuid;

use crate::support::jobs::{
    apply, at, cancel, change_context, failure, heartbeat, job, leased, make, percent, plain, retry, start, success,
    takeover, try_apply,
};

const TEN: Duration = Duration::from_secs(10);

fn claimed(claim: Option<Claim>) -> Change {
    Change::Report(Report { claim, ..Report::default() })
}

fn requested(request_id: &str) -> Change {
    Change::Start(Start { request_id: Some(request_id.into()), ..Start::default() })
}

fn numbered(attempt: i32) -> Change {
    Change::Report(Report { attempt: Some(attempt), ..Report::default() })
}

fn failed_with(message: &str) -> Change {
    let outcome =
        Failure { code: FailureCode::UNKNOWN, reason: "AGAIN".into(), message: message.into(), details: None };
    Change::Retry(Completion { outcome, attempt: None, claim: None, expected_revision: None })
}

fn numbers(job: &Job) -> Vec<(i32, bool)> {
    job.past_attempts().map(|attempt| (attempt.number, attempt.failure.is_some())).collect()
}

#[test]
fn claim_names_one_attempt_of_one_creation() {
    let first = apply(&job("a", 0), &start("one"), 1);
    assert_eq!((first.attempt, first.worker.as_str(), first.state), (1, "one", State::Running));
    assert!(first.claim.is_some() && first.start_time == Some(at(1)) && first.report_time == Some(at(1)));
    assert_eq!(apply(&first, &claimed(first.claim), 2).claim, first.claim);
    for unknown in [Claim::parse(""), Claim::parse("no claim"), Claim::parse(&Uuid::new_v4().simple().to_string())] {
        assert_eq!(try_apply(&first, &claimed(Some(unknown)), 2), Err(Rejected::StaleAttempt));
    }
    let text = first.claim.map(|claim| claim.text()).unwrap_or_default();
    assert_eq!(Some(Claim::parse(&text)), first.claim, "it is read as it was written");

    let later = [
        apply(&first, &takeover(), 3),
        apply(&first, &numbered(2), 3),
        apply(&first, &retry(), 3),
        apply(&apply(&first, &retry(), 3), &start("two"), 4),
        // The id was deleted and reused.
        apply(&job("a", 5), &start("one"), 6),
    ];
    for next in later {
        let stale = |change: &Change| try_apply(&next, change, 9) == Err(Rejected::StaleAttempt);
        assert!(stale(&claimed(first.claim)), "{next:?}");
        let end = Completion { outcome: None, attempt: None, claim: first.claim, expected_revision: None };
        assert!(stale(&Change::Complete(end)), "{next:?}");
        assert!(stale(&Change::ConfirmCancel { attempt: None, claim: first.claim, message: None }), "{next:?}");
    }
    // The worker that ended the attempt may repeat the call.
    let end =
        Change::Complete(Completion { outcome: None, attempt: Some(1), claim: first.claim, expected_revision: None });
    assert_eq!(try_apply(&apply(&first, &end, 3), &end, 4), Ok(None));
    let mixed = Report { claim: first.claim, attempt: Some(2), ..Report::default() };
    assert_eq!(try_apply(&first, &Change::Report(mixed), 3), Err(Rejected::StaleAttempt), "it is another attempt's");
}

#[test]
fn request_that_started_the_running_attempt_returns_it() {
    let pending = job("a", 0);
    let first = apply(&pending, &requested("r"), 1);
    assert_eq!(try_apply(&first, &requested("r"), 2), Ok(None));
    assert_eq!(try_apply(&first, &requested("other"), 2), Err(Rejected::AttemptRunning));
    assert_eq!(try_apply(&first, &start("w"), 2), Err(Rejected::AttemptRunning));
    assert_eq!(apply(&pending, &requested("r"), 5).claim, first.claim, "whichever replica it comes to");
    // A late duplicate of the request starts nothing.
    let ended = apply(&first, &retry(), 3);
    assert_eq!(try_apply(&ended, &requested("r"), 4), Err(Rejected::StaleAttempt));
    let second = apply(&ended, &requested("s"), 4);
    assert_eq!((second.attempt, second.claim == first.claim), (2, false));
}

#[rstest]
#[case::lease_holds(false, 5, false, false)]
#[case::lease_ran_out(false, 11, false, true)]
#[case::lease_ran_out_and_the_job_fails_for_it(true, 11, false, false)]
#[case::lease_ran_out_after_a_cancellation(false, 11, true, false)]
fn lost_job_goes_to_the_next_worker_if_nobody_can_have_heard_the_last_one(
    #[case] fail_when_lost: bool,
    #[case] now: i64,
    #[case] cancelled: bool,
    #[case] is_free: bool,
) {
    let mut running = apply(&leased(fail_when_lost), &start("one"), 1);
    if cancelled {
        running = apply(&running, &cancel(false), 2);
    }
    match running.apply(&start("two"), &change_context(now)) {
        Ok(Applied::ChangedIfLost(next)) => {
            assert!(is_free);
            assert_eq!((next.attempt, next.worker.as_str(), next.liveness(at(now))), (2, "two", Liveness::Live));
            assert_eq!(numbers(&next), [(1, false)]);
        }
        refused => assert!(!is_free && refused == Err(Rejected::AttemptRunning), "{refused:?}"),
    }
    assert!(matches!(running.apply(&takeover(), &change_context(now)), Ok(Applied::Changed(_))));
}

#[test]
fn retry_ends_the_attempt_and_the_next_one_starts_progress_again() {
    let half = |attempt| Report { progress: percent(50.0), attempt, sequence: Some(7), ..Report::default() };
    let running = apply(&leased(true), &Change::Report(half(None)), 1);
    let waiting = apply(&running, &retry(), 2);
    assert_eq!((waiting.state, waiting.attempt, waiting.progress.percent), (State::Pending, 1, Some(50.0)));
    assert_eq!(waiting.liveness(at(99)), Liveness::Unspecified, "no lease while nobody works on it");
    assert_eq!((waiting.end_time, &waiting.outcome), (None, &None));
    assert_eq!(waiting.last_failure().map(|failure| failure.reason.as_str()), Some("BROKEN"));
    assert_eq!(numbers(&waiting), [(1, true)]);
    assert_eq!(try_apply(&waiting, &numbered(1), 3), Err(Rejected::StaleAttempt), "this one has ended");

    for begins in [start("w"), heartbeat(), numbered(2)] {
        let next = apply(&waiting, &begins, 3);
        assert_eq!((next.state, next.attempt, next.progress.percent), (State::Running, 2, None), "{begins:?}");
        assert_eq!((next.sequence, next.attempt_start_time, next.start_time), (None, Some(at(3)), Some(at(1))));
        assert!(next.last_failure().is_some() && next.lease.expire_time == Some(at(13)));
    }
    let done = apply(&waiting, &success(), 3);
    assert_eq!((done.attempt, done.state, numbers(&done)), (2, State::Succeeded, vec![(1, true)]));
    // A job may fail before anybody has reported on it.
    let unheard = apply(&job("a", 0), &retry(), 1);
    assert_eq!((unheard.attempt, numbers(&unheard)), (1, vec![(1, true)]));
}

#[test]
fn retry_that_is_repeated_changes_nothing() {
    let running = apply(&job("a", 0), &start("w"), 1);
    let end = |claim, attempt| {
        let Change::Retry(end) = retry() else { unreachable!("it is one") };
        Change::Retry(Completion { claim, attempt, ..end })
    };
    let waiting = apply(&running, &end(running.claim, None), 2);
    for again in [end(running.claim, None), end(None, Some(1)), end(None, None)] {
        assert_eq!(try_apply(&waiting, &again, 3), Ok(None), "{again:?}");
    }
    let next = apply(&waiting, &start("v"), 3);
    assert_eq!(try_apply(&next, &end(running.claim, None), 4), Err(Rejected::StaleAttempt));
    assert_eq!(try_apply(&next, &end(None, Some(1)), 4), Err(Rejected::StaleAttempt));
    let asked = apply(&running, &cancel(false), 2);
    let cancelled = apply(&asked, &end(running.claim, None), 3);
    assert_eq!((cancelled.state, numbers(&cancelled)), (State::Cancelled, vec![(1, true)]), "no other will follow");
    assert_eq!(try_apply(&cancelled, &end(running.claim, None), 4), Ok(None));
}

/// 20 attempts with tracebacks of 16 KB each.
#[test]
fn history_is_bounded_and_keeps_the_last_failure_whole() {
    let traceback = "x".repeat(16 * 1024);
    let mut job = job("a", 0);
    for second in 0..20 {
        job = apply(&apply(&job, &start("w"), second), &failed_with(&traceback), second);
    }
    let lengths: Vec<_> = job
        .past_attempts()
        .map(|attempt| attempt.failure.as_ref().map_or(0, |failure| failure.message.len()))
        .collect();
    assert_eq!(lengths.len(), MAX_ATTEMPTS);
    assert_eq!(lengths.last(), Some(&traceback.len()));
    assert!(lengths.iter().rev().skip(1).all(|length| (1000..=1024).contains(length)), "{lengths:?}");
    assert_eq!(job.past_attempts().next().map(|attempt| attempt.number), Some(5));
    let deleted = apply(&job, &Change::Delete { force: true }, 30);
    assert_eq!((deleted.attempts.len(), deleted.last_failure()), (0, None), "a tombstone has no texts");
}

#[test]
fn highest_attempt_number_does_not_overflow() {
    let last = apply(&job("a", 0), &numbered(i32::MAX), 1);
    let again = apply(&last, &takeover(), 2);
    assert_eq!(again.attempt, i32::MAX);
    assert_ne!(again.claim, None);
    apply(&apply(&last, &retry(), 2), &heartbeat(), 3);
}

#[rstest]
#[case::lost(false)]
#[case::failed(true)]
fn job_that_nobody_starts_is_noticed(#[case] fail_when_lost: bool) {
    let new = NewJob { start_timeout: TEN, fail_when_lost, ..plain() };
    let waiting = make("a", 0, new);
    assert_eq!((waiting.next_due(), waiting.liveness(at(9))), (Some((at(10), Due::LoseWorker)), Liveness::Unspecified));
    assert_eq!(waiting.liveness(at(10)), Liveness::Lost);
    let noticed = apply(&waiting, &Change::LoseWorker, 12);
    if fail_when_lost {
        let Some(Outcome::Failure(failure)) = &noticed.outcome else { panic!("it failed: {noticed:?}") };
        assert_eq!((failure.reason.as_str(), failure.code), ("NOT_STARTED", FailureCode::DEADLINE_EXCEEDED));
        return assert_eq!((noticed.state, noticed.start_time), (State::Failed, None));
    }
    assert_eq!((noticed.state, noticed.liveness(at(0)), noticed.next_due()), (State::Pending, Liveness::Lost, None));
    let started = apply(&noticed, &start("w"), 20);
    assert_eq!((started.state, started.liveness(at(99))), (State::Running, Liveness::Unspecified), "it has no lease");
    let again = apply(&started, &retry(), 30);
    assert_eq!(again.next_due(), Some((at(40), Due::LoseWorker)), "it waits again");
}

#[rstest]
#[case::lost(false)]
#[case::failed(true)]
fn lease_that_runs_out_after_a_cancellation_cancels(#[case] fail_when_lost: bool) {
    let running = apply(&leased(fail_when_lost), &start("w"), 1);
    let asked = apply(&running, &cancel(false), 2);
    assert_eq!(asked.next_due(), Some((at(11), Due::LoseWorker)), "the request renews no lease");
    assert_eq!(apply(&asked, &Change::LoseWorker, 12).state, State::Cancelled);
    if !fail_when_lost {
        let lost = apply(&running, &Change::LoseWorker, 12);
        assert_eq!(lost.next_due(), None);
        let asked = apply(&lost, &cancel(false), 13);
        assert_eq!(asked.next_due(), Some((at(11), Due::LoseWorker)), "it is due at once");
        assert_eq!(apply(&asked, &Change::LoseWorker, 13).state, State::Cancelled);
    }
}

fn cancel_within(seconds: u64) -> Change {
    let (reason, requester) = ("enough".into(), "someone".into());
    Change::Cancel { reason, requester, force: false, grace: Duration::from_secs(seconds) }
}

#[test]
fn grace_ends_a_cancellation_that_the_worker_does_not() {
    let running = apply(&job("a", 0), &start("w"), 1);
    let asked = apply(&running, &cancel_within(10), 2);
    assert_eq!((asked.state, asked.next_due()), (State::Running, Some((at(12), Due::ForceCancel))));
    let reported = apply(&asked, &heartbeat(), 8);
    assert_eq!(reported.next_due(), Some((at(12), Due::ForceCancel)), "reports do not renew it");
    assert_eq!(apply(&reported, &Change::ForceCancel, 12).state, State::Cancelled);
    assert_eq!(try_apply(&asked, &cancel_within(1), 3), Ok(None), "the first request counts");
    // A request without a grace may be followed by one with a grace.
    let open = apply(&running, &cancel(false), 2);
    let limited = apply(&open, &cancel_within(10), 5);
    let Some(Cancellation { request_time, grace, .. }) = limited.cancel.as_deref() else { panic!("it was asked for") };
    assert_eq!((request_time, grace), (&at(2), &Some(Grace { since: at(5), length: TEN })));
    assert_eq!(try_apply(&apply(&asked, &success(), 3), &Change::ForceCancel, 13), Ok(None), "it has ended");
}

/// Merges both ways, and fails unless the results are the same.
fn merged(one: &Job, other: &Job) -> Job {
    let merged = merge(one, other).job;
    assert_eq!(merged, merge(other, one).job);
    merged
}

#[test]
fn one_of_two_independent_claims_wins() {
    let pending = job("a", 0);
    let here = apply(&pending, &start("here"), 1);
    let there = apply(&apply(&pending, &start("there"), 2), &claimed(None), 3);
    let stands = merged(&here, &there);
    assert_eq!((stands.attempt, stands.claim), (1, there.claim));
    assert_eq!(try_apply(&stands, &claimed(here.claim), 4), Err(Rejected::StaleAttempt));
    assert!(try_apply(&stands, &claimed(there.claim), 4).is_ok());
}

#[test]
fn ended_attempt_wins_over_its_reports() {
    let running = apply(&job("a", 0), &start("w"), 1);
    let here = apply(&running, &retry(), 2);
    let there = apply(&running, &heartbeat(), 9);
    let stands = merged(&here, &there);
    assert_eq!((stands.state, numbers(&stands)), (State::Pending, vec![(1, true)]));
    let ended = apply(&running, &failure(), 1);
    assert_eq!(merged(&here, &ended).state, State::Failed, "an end of the job is more");
}

#[test]
fn history_of_both_sides_is_kept() {
    let running = apply(&job("a", 0), &start("w"), 1);
    let here = apply(&running, &retry(), 2);
    let there = apply(&apply(&running, &takeover(), 3), &takeover(), 4);
    let stands = merged(&here, &there);
    assert_eq!((stands.attempt, numbers(&stands)), (3, vec![(1, true), (2, false)]));
    assert!(stands.version.revision > there.version.revision, "it is news to both");
    assert_eq!(merged(&stands, &here), stands, "and settles");
    // Attempts of the version that lost are not shown.
    let mut durable = apply(&running, &success(), 2);
    durable.durable_time = Some(at(2));
    let stands = merged(&durable, &there);
    assert_eq!((stands.state, stands.attempt, numbers(&stands)), (State::Succeeded, 1, vec![]));
}

#[test]
fn cancellation_of_one_side_reaches_a_job_that_waits() {
    let running = apply(&job("a", 0), &start("w"), 1);
    let here = apply(&running, &retry(), 2);
    let there = apply(&running, &cancel(false), 3);
    let stands = merged(&here, &there);
    assert_eq!((stands.state, stands.cancel.is_some()), (State::Pending, true));
    assert_eq!(stands.next_due().map(|(_, due)| due), Some(Due::LoseWorker), "nobody else ends it");
    assert_eq!(apply(&stands, &Change::LoseWorker, 4).state, State::Cancelled);
}
