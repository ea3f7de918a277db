//! Announcements of commits, in order and complete.

use jobtrack::{
    domain::{Change, Job, State},
    store::CommitEvent,
};

use super::Bench;
use crate::support::jobs::{change_context, heartbeat, job, plain, success};

pub async fn each_commit_is_announced_in_order(bench: Bench) {
    let a = bench.add(job("a", 1)).await;
    let b = bench.add(job("b", 1)).await;
    bench.conflict(&job("a", 1), None).await;
    let a = bench.change(&a, &heartbeat(), 2).await;
    bench.change(&b, &success(), 2).await;
    bench.change(&a, &Change::Delete { force: true }, 3).await;
    let expected = [("a", 1), ("b", 1), ("a", 2), ("b", 2), ("a", 3)];
    assert_eq!(bench.heard(), expected.map(|(name, revision)| (name.to_owned(), revision)));
    let heard = bench.heard.0.lock().expect("no test panics here");
    assert!(heard.is_sorted_by(|one, next| one.position < next.position));
    assert!(heard.iter().all(|change| change.position <= bench.store.position()));
    assert!(heard.last().is_some_and(|change| change.stored.job.removal.is_some()));
}

type Told = Option<Vec<(String, i64, Option<State>)>>;

pub async fn changes_since_a_position_are_complete_or_absent(bench: Bench) {
    let since = async |since, after, limit| -> Told {
        let changes = bench.store.changed_since(since, after, limit, usize::MAX).await.expect("the store answers")?;
        let brief = |change: &CommitEvent| {
            let job = &change.stored.job;
            (job.id.to_string(), job.version.revision, change.previous)
        };
        Some(changes.iter().map(brief).collect())
    };
    let is = |told: Told, expected: &[(&str, i64, Option<State>)]| {
        let expected = expected.iter().map(|(name, revision, state)| ((*name).to_owned(), *revision, *state)).collect();
        assert!(told.is_none() || told.as_ref() == Some(&expected), "{told:?} is not {expected:?}");
    };
    let start = bench.store.position();
    let a = bench.add(job("a", 1)).await;
    let middle = bench.store.position();
    let b = bench.add(job("b", 1)).await;
    let a = bench.change(&a, &heartbeat(), 2).await;
    let late = bench.store.position();
    is(since(start, start, 10).await, &[("b", 1, None), ("a", 2, None)]);
    is(since(middle, middle, 10).await, &[("b", 1, None), ("a", 2, Some(State::Pending))]);
    is(since(middle, middle, 1).await, &[("b", 1, None)]);
    is(since(late, late, 10).await, &[]);
    assert_eq!(since(late + 1, late + 1, 10).await, None, "the future");

    bench.change(&a, &success(), 3).await;
    let gone = bench.change(&b, &Change::Delete { force: true }, 3).await;
    let [was_running, was_pending] = [State::Running, State::Pending].map(Some);
    is(since(late, late, 10).await, &[("a", 3, was_running), ("b", 2, was_pending)]);
    is(since(late, late + 1, 10).await, &[("b", 2, was_pending)]);
    let again = Job::create(gone.id.clone(), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(4));
    bench.put(&again, Some(&gone)).await;
    let both_lives = [("a", 3, was_running), ("b", 2, was_pending), ("b", 3, None)];
    is(since(late, late, 10).await, &both_lives);

    let gone = bench.change(&again, &Change::Delete { force: true }, 5).await;
    bench.store.delete(&gone).await.expect("the store answers");
    assert_eq!(since(late, late, 10).await, None, "a deletion that left no trace");
}

pub async fn announcement_has_the_previous_state(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let gone = bench.change(&bench.change(&made, &heartbeat(), 2).await, &success(), 3).await;
    let gone = bench.change(&gone, &Change::Delete { force: false }, 4).await;
    let again = Job::create(gone.id.clone(), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(5));
    bench.put(&again, Some(&gone)).await;
    let heard = bench.heard.0.lock().expect("no test panics here");
    let before: Vec<_> = heard.iter().map(|change| change.previous).collect();
    assert_eq!(before, [None, Some(State::Pending), Some(State::Running), Some(State::Succeeded), None]);
}
