//! Promises of the bounded store of a single process.

use std::sync::Arc;

use jobtrack::{
    domain::{Change, Filter, Job, Limit, Removal},
    store::{MemoryStore, StoreError},
};

use super::Bench;
use crate::support::jobs::{change_context, heartbeat, id, job, plain, success};

async fn full(bench: &Bench, name: &str) -> bool {
    let outcome = bench.store.replace(Arc::new(job(name, 100)), None).await;
    matches!(outcome, Err(StoreError::Full(Limit::MemoryJobs(3))))
}

#[tokio::test]
async fn active_jobs_are_never_evicted() {
    let bench = Bench::new(|ear| MemoryStore::new(3, ear));
    for name in ["a", "b", "c"] {
        let made = bench.add(job(name, 1)).await;
        bench.change(&made, &heartbeat(), 2).await;
    }
    assert!(full(&bench, "d").await);
    assert_eq!(bench.get("d").await, None);
    assert_eq!(bench.list(&Filter::default(), 10).await.len(), 3);
}

#[tokio::test]
async fn jobs_that_ended_first_are_evicted_and_leave_tombstones() {
    let bench = Bench::new(|ear| MemoryStore::new(3, ear));
    for (name, ended) in [("first", Some(5)), ("last", Some(9)), ("active", None)] {
        let made = bench.add(job(name, 1)).await;
        if let Some(ended) = ended {
            bench.change(&made, &success(), ended).await;
        }
    }
    let before = bench.store.position();
    for gave_way in ["first", "last"] {
        assert!(!full(&bench, &format!("after {gave_way}").replace(' ', "-")).await);
        let trace = bench.get(gave_way).await.expect("its tombstone is there");
        assert_eq!((trace.removal, trace.version.revision), (Some(Removal::Expired), 3));
    }
    assert!(full(&bench, "more").await);
    assert_eq!(bench.list(&Filter::default(), 10).await, ["after-last", "after-first", "active"]);

    let heard = bench.heard.0.lock().expect("no test panics here").clone();
    let removed = heard.iter().filter(|change| change.position > before && change.stored.job.removal.is_some());
    let removed: Vec<_> = removed.map(|change| change.stored.job.id.to_string()).collect();
    assert_eq!(removed, ["first", "last"], "watchers receive each eviction");
    let told =
        bench.store.changed_since(before, before, 10, usize::MAX).await.expect("it answers").expect("it can be told");
    assert_eq!(told.len(), 4);
}

#[tokio::test]
async fn there_are_at_most_as_many_tombstones_as_jobs() {
    let bench = Bench::new(|ear| MemoryStore::new(3, ear));
    for n in 0..5 {
        let made = bench.add(job(&format!("j{n}"), n)).await;
        bench.change(&made, &Change::Delete { force: true }, 10 + n).await;
    }
    let mut traces = Vec::new();
    for n in 0..5 {
        traces.push(bench.get(&format!("j{n}")).await.is_some());
    }
    assert_eq!(traces, [false, false, true, true, true]);
    assert!(bench.store.changed_since(0, 0, 10, usize::MAX).await.expect("it answers").is_none(), "two left no trace");
}

#[tokio::test]
async fn change_of_a_stored_job_needs_no_eviction() {
    let bench = Bench::new(|ear| MemoryStore::new(1, ear));
    let made = bench.add(job("a", 1)).await;
    let gone = bench.change(&made, &Change::Delete { force: true }, 2).await;
    let again = Job::create(id("a"), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(3));
    bench.put(&again, Some(&gone)).await;
}
