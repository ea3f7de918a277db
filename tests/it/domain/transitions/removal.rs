//! Leases, retention, and tombstones.

use std::time::Duration;

use jobtrack::domain::{
    Applied, Change, Completion, Due, Job, Liveness, NewJob, Outcome, Progress, Removal, Report, State, TOMBSTONE_LIFE,
    merge,
};
use rstest::rstest;

use crate::support::jobs::{
    apply, at, cancel, change_context, document, failure, heartbeat, job, leased, make, plain, retry, success,
    try_apply,
};

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
    assert_eq!((failed.state, why.code.get(), why.reason.as_str()), (State::Failed, 4, "WORKER_LOST"));
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
