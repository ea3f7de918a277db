//! Reports: their order, and the fields that they set.

use std::time::Duration;

use jobtrack::domain::{Applied, Change, ChangeContext, Ignored, NewJob, Progress, Report, Retention, merge};
use rstest::rstest;

use super::{report, running};
use crate::support::jobs::{apply, at, change_context, document, job, make, percent, plain, success, try_apply};

fn counted(completed: i64, total: i64) -> Progress {
    Progress { completed: Some(completed), total: Some(total), ..Progress::default() }
}

fn staged(stage: &str, stage_index: Option<i32>, value: f64) -> Progress {
    Progress { stage: Some(stage.into()), stage_index, ..percent(value) }
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
