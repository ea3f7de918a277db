//! The state machine as a table: every state and every change, then each rule by itself.

use std::time::Duration;

use jobtrack::domain::{
    Applied, Change, ChangeContext, Completion, Due, Ignored, Job, Liveness, NewJob, Outcome, Progress, Rejected,
    Removal, Report, Retention, Start, State, TOMBSTONE_LIFE, merge,
};
use rstest::rstest;

use crate::support::jobs::{
    apply, at, cancel, change_context, confirm, document, failure, heartbeat, job, make, plain, retry, start, success,
    try_apply,
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

fn takeover() -> Change {
    Change::Start(Start { takeover: true, ..Start::default() })
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

fn percent(percent: f64) -> Progress {
    Progress { percent: Some(percent), ..Progress::default() }
}

fn counted(completed: i64, total: i64) -> Progress {
    Progress { completed: Some(completed), total: Some(total), ..Progress::default() }
}

fn staged(stage: &str, stage_index: Option<i32>, value: f64) -> Progress {
    Progress { stage: Some(stage.into()), stage_index, ..percent(value) }
}

/// Returns a running job with this progress.
fn running(progress: Progress) -> Job {
    apply(&job("a", 0), &Change::Report(report(progress)), 1)
}

#[rstest]
#[case::higher(percent(50.0), percent(60.0), Some(60.0))]
#[case::equal(percent(50.0), percent(50.0), Some(50.0))]
#[case::lower(percent(50.0), percent(40.0), None)]
#[case::back_to_zero(percent(50.0), percent(0.0), None)]
#[case::nothing(percent(50.0), Progress::default(), Some(50.0))]
#[case::derived(Progress::default(), counted(1, 4), Some(25.0))]
#[case::derived_from_the_stored_total(counted(1, 4), Progress { completed: Some(2), ..Progress::default() }, Some(50.0))]
#[case::completed_fell(counted(3, 4), counted(2, 4), None)]
#[case::completed_fell_though_the_total_grew(counted(3, 4), counted(2, 400), None)]
#[case::total_grew(counted(2, 4), counted(2, 8), Some(25.0))]
#[case::total_grew_and_percent_is_given(counted(2, 4), Progress { percent: Some(10.0), ..counted(2, 8) }, Some(10.0))]
#[case::total_shrank(counted(2, 8), counted(2, 4), Some(50.0))]
#[case::first_total_after_a_percentage(percent(50.0), counted(1, 10), None)]
#[case::more_than_all(counted(1, 4), counted(9, 4), Some(100.0))]
#[case::total_zero(percent(30.0), counted(5, 0), Some(30.0))]
#[case::given_beats_derived(Progress::default(), Progress { percent: Some(7.0), ..counted(1, 2) }, Some(7.0))]
#[case::other_stage_starts_again(staged("a", None, 50.0), staged("b", None, 10.0), Some(10.0))]
#[case::same_stage(staged("a", None, 50.0), staged("a", None, 10.0), None)]
#[case::empty_stage_is_none(staged("a", None, 50.0), staged("", None, 10.0), None)]
#[case::first_stage_that_is_named(percent(50.0), staged("a", None, 10.0), Some(10.0))]
#[case::higher_index(staged("a", Some(1), 50.0), staged("a", Some(2), 10.0), Some(10.0))]
#[case::lower_index(staged("a", Some(2), 50.0), staged("b", Some(1), 60.0), None)]
#[case::equal_indexes_of_other_names(staged("a", Some(1), 50.0), staged("b", Some(1), 10.0), None)]
#[case::index_is_new(staged("a", None, 50.0), staged("b", Some(1), 10.0), Some(10.0))]
#[case::first_index_without_a_name(percent(50.0), Progress { stage_index: Some(1), ..percent(10.0) }, Some(10.0))]
#[case::total_before_the_first_stage(counted(0, 4), Progress { total: None, percent: None, stage: Some("a".into()), ..counted(1, 0) }, Some(25.0))]
fn report_without_a_sequence_is_ordered_by_its_progress(
    #[case] before: Progress,
    #[case] now: Progress,
    #[case] expected: Option<f64>,
) {
    let job = running(before);
    let next = try_apply(&job, &Change::Report(report(now)), 2).expect("a report is allowed");
    assert_eq!(next.map(|next| next.progress.percent), expected.map(Some));
}

#[rstest]
#[case::percent(percent(51.0), true)]
#[case::completed(Progress { completed: Some(1), ..Progress::default() }, true)]
#[case::stage(staged("next", None, 50.0), true)]
#[case::heartbeat(Progress::default(), false)]
#[case::the_same_again(percent(50.0), false)]
#[case::message(Progress { message: Some("still there".into()), ..Progress::default() }, false)]
fn progress_time_is_when_the_work_last_advanced(#[case] now: Progress, #[case] advances: bool) {
    let job = running(percent(50.0));
    assert_eq!((job.progress_time, running(Progress::default()).progress_time), (Some(at(1)), None));
    let next = apply(&job, &Change::Report(report(now)), 2);
    assert_eq!(next.progress_time, Some(at(if advances { 2 } else { 1 })));
    let done = apply(&next, &success(), 3);
    assert_eq!(done.progress_time, Some(at(3)), "the end is all of it");
    let whole = apply(&apply(&job, &Change::Report(report(percent(100.0))), 2), &success(), 3);
    assert_eq!(whole.progress_time, Some(at(2)), "there was no more to do");
    let again = apply(&job, &Change::Report(Report { attempt: Some(2), ..Report::default() }), 2);
    assert_eq!(again.progress_time, None, "the next attempt has not advanced yet");
}

/// A stage that is known by its name alone has no index.
#[test]
fn stage_without_an_index_clears_the_index() {
    let job = running(staged("a", Some(3), 50.0));
    let next = apply(&job, &Change::Report(report(staged("b", None, 10.0))), 2);
    assert_eq!((next.progress.percent, next.progress.stage_index), (Some(10.0), None));
    let next = apply(&next, &Change::Report(report(staged("c", Some(3), 5.0))), 3);
    assert_eq!(next.progress.percent, Some(5.0));
}

/// A report that is known to be outdated does not win over a newer report of another replica.
#[test]
fn an_ignored_report_loses_a_merge_to_a_newer_report() {
    let numbered = |sequence, value| Change::Report(Report { sequence: Some(sequence), ..report(percent(value)) });
    let leased = make("a", 0, NewJob { lease_timeout: Duration::from_secs(60), ..plain() });
    let shared = apply(&leased, &numbered(5, 50.0), 1);
    let here = apply(&shared, &numbered(5, 50.0), 9);
    let there = apply(&shared, &numbered(9, 90.0), 2);
    for (one, other) in [(&here, &there), (&there, &here)] {
        assert_eq!(merge(one, other).job.progress.percent, Some(90.0));
    }
}

/// A worker that only sends ignored reports is alive nevertheless.
#[rstest]
#[case::lease(Duration::from_secs(5), Duration::ZERO, true)]
#[case::limit_on_active_jobs(Duration::ZERO, Duration::from_secs(5), true)]
#[case::neither(Duration::ZERO, Duration::ZERO, false)]
fn an_ignored_report_renews_and_changes_nothing_else(
    #[case] lease_timeout: Duration,
    #[case] active: Duration,
    #[case] renews: bool,
) {
    let retention = Retention { active, ..change_context(0).retention };
    let context = |seconds| ChangeContext { retention, ..change_context(seconds) };
    let first = Report { sequence: Some(2), worker: "w".into(), ..report(percent(50.0)) };
    let pending = make("a", 0, NewJob { lease_timeout, ..plain() });
    let Ok(Applied::Changed(mut job)) = pending.apply(&Change::Report(first), &context(1)) else { panic!("it is new") };
    job.lease.lost = renews;
    for (sequence, expected) in [(Some(2), Ignored::OlderSequence), (None, Ignored::LowerProgress)] {
        let late = Report { sequence, worker: "other".into(), ..report(percent(10.0)) };
        let applied = job.apply(&Change::Report(late), &context(2));
        let Ok(Applied::Ignored { why, renewed }) = applied else { panic!("it is late: {applied:?}") };
        assert_eq!((why, renewed.is_some()), (expected, renews));
        let Some(renewed) = renewed else { continue };
        assert_eq!((renewed.version.revision, renewed.report_time), (job.version.revision + 1, Some(at(2))));
        assert_eq!(renewed.lease.expire_time, (!lease_timeout.is_zero()).then(|| at(7)));
        assert_eq!(renewed.expire_time, (!active.is_zero()).then(|| at(7)));
        assert!(!renewed.lease.lost);
        assert_eq!((renewed.update_time, renewed.progress_time), (job.update_time, job.progress_time));
        assert_eq!((&renewed.progress, &renewed.worker, renewed.sequence), (&job.progress, &job.worker, job.sequence));
    }
}

#[rstest]
#[case::newer(6, Some(10.0))]
#[case::same(5, None)]
#[case::older(4, None)]
fn sequence_takes_precedence_over_progress(#[case] sequence: i64, #[case] expected: Option<f64>) {
    let numbered = |sequence, value| Change::Report(Report { sequence: Some(sequence), ..report(percent(value)) });
    let job = apply(&job("a", 0), &numbered(5, 50.0), 1);
    let next = try_apply(&job, &numbered(sequence, 10.0), 2).expect("a report is allowed");
    assert_eq!(next.and_then(|next| next.progress.percent), expected);
}

#[test]
fn report_keeps_fields_that_it_does_not_set() {
    let details = document(&serde_json::json!({"a": 1}));
    let job = running(Progress {
        unit: Some("rows".into()),
        stage: Some("read".into()),
        details: details.clone(),
        ..counted(1, 2)
    });
    let replaced = document(&serde_json::json!({"b": 2}));
    let next = Progress { message: Some("half".into()), details: replaced.clone(), ..Progress::default() };
    let next = apply(&job, &Change::Report(report(next)), 2);
    assert_eq!(next.progress.unit.as_deref(), Some("rows"));
    assert_eq!((next.progress.stage.as_deref(), next.progress.message.as_deref()), (Some("read"), Some("half")));
    assert_eq!(next.progress.details, replaced, "details are replaced whole");
    assert_eq!((next.progress.completed, next.progress.percent), (Some(1), Some(50.0)));

    let other = Progress { stage: Some("write".into()), ..Progress::default() };
    let next = apply(&next, &Change::Report(report(other)), 3).progress;
    assert_eq!(
        (next.percent, next.completed, next.total),
        (None, None, None),
        "another stage starts its numbers again"
    );
    assert_eq!((next.unit.as_deref(), next.message.as_deref()), (Some("rows"), Some("half")));
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

fn leased(fail_when_lost: bool) -> Job {
    make("a", 0, NewJob { lease_timeout: Duration::from_secs(10), fail_when_lost, ..plain() })
}

#[test]
fn a_lease_runs_from_the_first_report_to_the_end() {
    let pending = leased(false);
    assert_eq!((pending.liveness(at(99)), pending.next_due()), (Liveness::Unspecified, None));
    let running = apply(&pending, &heartbeat(), 1);
    assert_eq!(running.next_due(), Some((at(11), Due::LoseWorker)));
    assert_eq!((running.liveness(at(10)), running.liveness(at(11))), (Liveness::Live, Liveness::Lost));

    let lost = apply(&running, &Change::LoseWorker, 12);
    assert_eq!((lost.version.revision, lost.update_time), (3, running.update_time));
    assert_eq!((lost.liveness(at(0)), lost.next_due()), (Liveness::Lost, None));
    assert_eq!(try_apply(&lost, &Change::LoseWorker, 13), Ok(None), "once");

    let back = apply(&lost, &heartbeat(), 20);
    assert_eq!((back.liveness(at(21)), back.lease.expire_time), (Liveness::Live, Some(at(30))));
    let free = Report { lease_timeout: Some(Duration::ZERO), ..Report::default() };
    assert_eq!(apply(&back, &Change::Report(free), 21).liveness(at(99)), Liveness::Unspecified);
    let done = apply(&lost, &success(), 22);
    assert_eq!((done.liveness(at(99)), done.lease.expire_time), (Liveness::Unspecified, None));
}

#[test]
fn a_lost_worker_may_fail_the_job() {
    let running = apply(&leased(true), &heartbeat(), 1);
    let failed = apply(&running, &Change::LoseWorker, 12);
    let Some(Outcome::Failure(why)) = &failed.outcome else { panic!("{:?}", failed.outcome) };
    assert_eq!((failed.state, why.code.get(), why.reason.as_str()), (Failed, 4, "WORKER_LOST"));
    assert_eq!(failed.end_time, Some(at(12)));
}

#[rstest]
#[case::by_state(None, success(), Some(86_400))]
#[case::by_state_failed(None, failure(), Some(3600))]
#[case::by_state_cancelled(None, cancel(true), Some(60))]
#[case::own(Some(5), success(), Some(5))]
#[case::own_for_ever(Some(0), success(), None)]
fn ended_jobs_expire_after_their_retention(#[case] own: Option<u64>, #[case] end: Change, #[case] kept: Option<i64>) {
    let job = make("a", 0, NewJob { retention: own.map(Duration::from_secs), ..plain() });
    assert_eq!(job.expire_time, None);
    let done = apply(&job, &end, 100);
    assert_eq!(done.expire_time, kept.map(|kept| at(100 + kept)));
    let Some(kept) = kept else { return };
    assert!(done.is_visible(at(99 + kept)) && !done.is_visible(at(100 + kept)));
    let gone = apply(&done, &Change::Expire, 100 + kept);
    assert_eq!(gone.removal, Some(Removal::Expired));
    assert_eq!(gone.next_due(), Some((at(100 + kept) + TOMBSTONE_LIFE, Due::Forget)));
}

#[test]
fn active_jobs_are_kept_from_their_last_change() {
    let mut late = change_context(50);
    late.retention.active = Duration::from_secs(30);
    let running = job("a", 0).apply(&heartbeat(), &late).expect("allowed");
    let Applied::Changed(running) = running else { panic!("a heartbeat is a change") };
    assert_eq!(running.next_due(), Some((at(80), Due::Expire)));
}

#[test]
fn a_tombstone_has_no_documents_and_no_texts() {
    let text = |what: &str| document(&serde_json::json!({ "text": what }));
    let labels: jobtrack::domain::Labels = [("k".to_owned(), "v".to_owned())].into();
    let new = NewJob {
        title: "title".into(),
        owner: "owner".into(),
        labels: labels.clone(),
        metadata: text("metadata"),
        ..plain()
    };
    let progress = Progress {
        stage: Some("stage".into()),
        message: Some("message".into()),
        details: text("details"),
        ..Progress::default()
    };
    let report = Change::Report(Report { progress, worker: "worker".into(), ..Report::default() });
    let retried = apply(&apply(&make("a", 0, new), &report, 1), &retry(), 2);
    let running = apply(&apply(&retried, &report, 3), &cancel(false), 4);
    let failed = apply(&running, &failure(), 5);
    let result = Completion { outcome: text("result"), attempt: None, claim: None, expected_revision: None };
    let done = apply(&running, &Change::Complete(result), 5);
    for job in [&running, &failed, &done] {
        let deleted = apply(job, &Change::Delete { force: true }, 9);
        let expired = job.expired(at(9), change_context(9).change_id);
        let merged = merge(&deleted, job).job;
        for gone in [deleted, expired, merged] {
            let cancel = gone.cancel.as_ref().expect("it was asked for");
            let progress = &gone.progress;
            assert_eq!((&*gone.title, cancel.reason.as_str(), gone.attempts.len()), ("", "", 0));
            assert_eq!((&gone.metadata, &progress.details, &progress.message), (&None, &None, &None));
            match &gone.outcome {
                None => {}
                Some(Outcome::Failure(failure)) => {
                    assert_eq!((failure.message.as_str(), &failure.details), ("", &None));
                }
                Some(Outcome::Result(result)) => panic!("{result:?} is left"),
            }
            // The fields that filters and watchers use are kept.
            assert_eq!((gone.owner.as_str(), &gone.labels, gone.worker.as_str()), ("owner", &labels, "worker"));
            assert_eq!((gone.state, progress.stage.as_deref()), (job.state, Some("stage")));
        }
    }
}

/// The tombstone of an active job loses to a newer report, which then has the reason of the cancellation.
#[test]
fn cancellation_reason_survives_a_losing_tombstone() {
    let asked = apply(&apply(&job("a", 0), &heartbeat(), 1), &cancel(false), 2);
    let expired = asked.expired(at(3), change_context(3).change_id);
    assert_eq!(expired.cancel.as_ref().map(|cancel| cancel.reason.as_str()), Some(""));
    let newer = apply(&asked, &heartbeat(), 4);
    for merged in [merge(&expired, &newer), merge(&newer, &expired)] {
        assert_eq!((merged.job.removal, &merged.job.cancel), (None, &asked.cancel));
    }
}

#[test]
fn recreated_job_continues_the_revisions_of_its_tombstone() {
    let gone = apply(&apply(&job("a", 10), &success(), 20), &Change::Delete { force: false }, 30);
    let again = Job::create(gone.id.clone(), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(5));
    assert_eq!((again.version.revision, again.version.first_revision), (4, 4));
    assert_ne!(again.version.incarnation_id, gone.version.incarnation_id);
    assert!(again.create_time > gone.update_time, "a clock that went back does not reorder incarnations");
}

#[test]
fn time_never_goes_back_within_a_job() {
    let running = apply(&job("a", 100), &heartbeat(), 50);
    assert!(running.update_time > at(100));
}
