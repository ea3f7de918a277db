//! Invariants of every sequence of changes.

use std::time::Duration;

use jobtrack::domain::{Applied, Change, Completion, Job, MAX_ATTEMPTS, NewJob, Progress, Report, Start, State};
use proptest::{collection::vec, option, prelude::*};

use crate::support::jobs::{cancel, change_context, confirm, document, failure, job, make, plain, retry, try_apply};

fn progress() -> impl Strategy<Value = Progress> {
    let stage = (option::weighted(0.2, "[ab]?"), option::weighted(0.2, 0i32..3));
    let parts = (option::of(0.0..=100.0), option::of(0i64..50), option::of(0i64..50), stage);
    parts.prop_map(|(percent, completed, total, (stage, stage_index))| Progress {
        percent,
        completed,
        total,
        stage,
        stage_index,
        ..Progress::default()
    })
}

fn report() -> impl Strategy<Value = Report> {
    let parts = (progress(), option::of(1i64..20), option::of(1i32..4), option::of(1i64..10), option::of(0u64..30));
    parts.prop_map(|(progress, sequence, attempt, expected_revision, lease)| Report {
        progress,
        worker: String::new(),
        sequence,
        attempt,
        claim: None,
        expected_revision,
        lease_timeout: lease.map(Duration::from_secs),
    })
}

fn change() -> impl Strategy<Value = Change> {
    let end = option::of(1i32..4).prop_map(|attempt| {
        Change::Complete(Completion { outcome: None, attempt, claim: None, expected_revision: None })
    });
    prop_oneof![
        8 => report().prop_map(Change::Report),
        1 => end,
        1 => Just(failure()),
        1 => Just(retry()),
        1 => (any::<bool>(), option::of("[ab]")).prop_map(|(takeover, request_id)| {
            Change::Start(Start { takeover, request_id, ..Start::default() })
        }),
        1 => any::<bool>().prop_map(cancel),
        1 => Just(confirm()),
        1 => any::<bool>().prop_map(|force| Change::Delete { force }),
        1 => Just(Change::LoseWorker),
        1 => Just(Change::Expire),
    ]
}

proptest! {
    #[test]
    fn transitions_keep_the_invariants_of_a_job(lease in 0u64..20, changes in vec((change(), 0i64..20), 1..60)) {
        let mut now = 0;
        let mut job = make("a", 0, NewJob { lease_timeout: Duration::from_secs(lease), ..plain() });
        for (change, pause) in changes {
            now += pause;
            let (next, is_ignored) = match job.apply(&change, &change_context(now)) {
                Ok(Applied::Changed(next) | Applied::ChangedIfLost(next)) => (*next, false),
                Ok(Applied::Ignored { renewed: Some(next), .. }) => (*next, true),
                _ => continue,
            };
            prop_assert_eq!(next.version.revision, job.version.revision + 1);
            prop_assert_eq!(next.version.incarnation_id, job.version.incarnation_id);
            let lost = change == Change::LoseWorker && next.state == job.state;
            let as_it_was = next.update_time == job.update_time;
            prop_assert!((lost || is_ignored) == as_it_was && next.update_time >= job.update_time);
            if is_ignored {
                let said = |job: &Job| (job.progress.clone(), job.sequence, job.worker.clone(), job.attempt);
                prop_assert_eq!(said(&next), said(&job));
            }
            prop_assert!(next.attempt >= job.attempt);
            let numbers: Vec<_> = next.past_attempts().map(|attempt| attempt.number).collect();
            prop_assert!(numbers.is_sorted_by(|one, other| one < other) && numbers.len() <= MAX_ATTEMPTS);
            prop_assert!(next.attempt_start_time.is_none() || numbers.last().is_none_or(|last| *last < next.attempt));
            prop_assert!(next.claim.is_none() || next.attempt > 0);
            if let Some(cancel) = &job.cancel {
                let kept = if next.removal.is_some() { cancel.without_reason() } else { (**cancel).clone() };
                prop_assert_eq!(next.cancel.as_deref(), Some(&kept));
            }
            if job.state.is_terminal() {
                prop_assert!(next.removal.is_some() && next.state == job.state);
            }
            prop_assert_eq!(next.end_time.is_some(), next.state.is_terminal());
            prop_assert!(next.state != State::Running || next.start_time.is_some());
            prop_assert!(next.progress.percent.is_none_or(|percent| (0.0..=100.0).contains(&percent)));
            let fell = matches!((job.progress.percent, next.progress.percent), (Some(old), Some(new)) if new < old);
            if let (Change::Report(report), true) = (&change, fell) {
                let stage = |job: &Job| (job.progress.stage.clone(), job.progress.stage_index);
                let starts_again = next.attempt > job.attempt || stage(&next) != stage(&job);
                prop_assert!(
                    starts_again || report.sequence.is_some() || next.progress.total > job.progress.total,
                    "percent fell without cause: {:?} to {:?}", job.progress, next.progress
                );
            }
            job = next;
            if job.removal.is_some() {
                break;
            }
        }
    }

    #[test]
    fn repeated_changes_have_no_effect(changes in vec(change(), 1..30), end in change()) {
        let mut job = job("a", 0);
        for change in changes {
            job = try_apply(&job, &change, 1).ok().flatten().filter(|next| next.removal.is_none()).unwrap_or(job);
        }
        let ends = matches!(end, Change::Complete(_) | Change::Fail(_) | Change::Retry(_) | Change::Cancel { .. } | Change::ConfirmCancel { .. });
        if let (true, Ok(Some(once))) = (ends, try_apply(&job, &end, 2)) {
            prop_assert_eq!(try_apply(&once, &end, 3), Ok(None));
        }
    }

    #[test]
    fn a_job_is_read_from_json_as_it_was_written(lease in 0u64..20, changes in vec(change(), 0..20), number in any::<f64>(), text in "\\PC{0,20}") {
        let number = if number.is_finite() { number } else { 0.0 };
        let metadata = document(&serde_json::json!({ &text: [number, null, true, { "x": &text }] }));
        let labels = [(text.clone(), text.clone())].into();
        let title = text.clone();
        let new = NewJob { lease_timeout: Duration::from_secs(lease), metadata, labels, owner: text, title, ..plain() };
        let mut job = make("a", 0, new);
        for (now, change) in (1..).zip(changes) {
            job = try_apply(&job, &change, now).ok().flatten().unwrap_or(job);
        }
        let json = serde_json::to_string(&job).expect("a job can be written");
        prop_assert_eq!(serde_json::from_str::<Job>(&json).expect("and read"), job);
    }
}
