//! Memory limits: what can be evicted is evicted, then calls are rejected.

use std::sync::Arc;

use jobtrack::{
    clock::SystemClock,
    domain::{Change, Completion, Job, Limit, NewJob, Progress, Report},
    proto::v1::{CompleteJobRequest, CreateJobRequest},
    store::{Capacity, JobStore, LocalCache, MemoryStore, Partitioning, Presence, Replaced, StoreError},
};
use serde_json::json;
use tonic::Code;

use crate::support::{
    Server, create, error_info,
    http::Scrape,
    jobs::{apply, document, heartbeat, id, make, plain, success},
    large_document, new_job,
    replicas::read,
    stores::{Deaf, recorded},
};

/// Capacity of the stores in these tests.
const CAPACITY: Capacity = Capacity { jobs: 1000, bytes: 100_000 };

const EXHAUSTED: StoreError = StoreError::Full(Limit::MemoryBytes(CAPACITY.bytes));

/// Returns a job with metadata of this size.
fn sized(name: &str, owner: &str, bytes: usize) -> Job {
    let metadata = document(&json!({ "text": "x".repeat(bytes) }));
    make(name, 1, NewJob { owner: owner.to_owned(), metadata, ..plain() })
}

async fn put(store: &MemoryStore, job: &Job, previous: Option<&Job>) -> Result<(), StoreError> {
    match store.replace(Arc::new(job.clone()), previous).await? {
        Replaced::Stored(_) => Ok(()),
        Replaced::Conflict(there) => panic!("{there:?} is there"),
    }
}

/// Creates a job and completes it.
async fn put_finished(store: &MemoryStore, name: &str, owner: &str, bytes: usize, end: i64) {
    let job = sized(name, owner, bytes);
    put(store, &job, None).await.expect("there is room");
    put(store, &apply(&job, &success(), end), Some(&job)).await.expect("an end needs no room");
}

async fn is_there(store: &MemoryStore, name: &str) -> bool {
    let found = store.get(&id(name)).await.expect("it answers");
    found.is_some_and(|stored| stored.job.removal.is_none())
}

async fn bytes(store: &MemoryStore) -> usize {
    usize::try_from(store.stats().await.expect("it answers").bytes).expect("a size")
}

#[tokio::test]
async fn memory_store_evicts_finished_jobs_and_then_rejects() {
    let store = MemoryStore::new(CAPACITY, Arc::new(Deaf));
    for n in 0..20 {
        put_finished(&store, &format!("finished-{n}"), "", 10_000, 10 + n).await;
        assert!(bytes(&store).await <= CAPACITY.bytes + 1024, "{} bytes", bytes(&store).await);
    }
    assert!(!is_there(&store, "finished-0").await, "the first to end is evicted");
    assert!(is_there(&store, "finished-19").await);

    let mut active = Vec::new();
    let error = loop {
        let job = sized(&format!("active-{}", active.len()), "", 10_000);
        match put(&store, &job, None).await {
            Ok(()) => active.push(job),
            Err(error) => break error,
        }
    };
    assert_eq!(error, EXHAUSTED);
    assert!(active.len() >= 5 && !is_there(&store, "finished-19").await, "{} active jobs", active.len());
    for job in &active {
        assert!(is_there(&store, job.id.as_str()).await, "{} is active", job.id);
    }
    // A heartbeat is always accepted, a large result is not.
    let job = apply(&active[0], &heartbeat(), 50);
    put(&store, &job, Some(&active[0])).await.expect("it makes the job hardly larger");
    let outcome = document(&json!({ "text": "x".repeat(20_000) }));
    let large = Change::Complete(Completion { outcome, attempt: None, claim: None, expected_revision: None });
    assert_eq!(put(&store, &apply(&job, &large, 51), Some(&job)).await, Err(EXHAUSTED));
    put(&store, &apply(&job, &success(), 51), Some(&job)).await.expect("an end without one needs no room");
    put(&store, &sized("next", "", 5000), None).await.expect("it takes the place of the finished job");
}

#[tokio::test]
async fn finished_jobs_of_the_owner_that_has_most_are_evicted_first() {
    let store = MemoryStore::new(Capacity { jobs: 10, ..CAPACITY }, Arc::new(Deaf));
    for n in 0..3 {
        put_finished(&store, &format!("modest-{n}"), "modest", 100, 10 + n).await;
    }
    for n in 0..50 {
        put_finished(&store, &format!("greedy-{n}"), "greedy", 100, 20 + n).await;
    }
    for n in 0..3 {
        assert!(is_there(&store, &format!("modest-{n}")).await, "modest-{n}");
    }
    assert!(is_there(&store, "greedy-49").await && !is_there(&store, "greedy-0").await);
    // Owners with less may have as much.
    for n in 3..6 {
        put_finished(&store, &format!("modest-{n}"), "modest", 100, 80 + n).await;
        assert!(is_there(&store, "modest-0").await, "after modest-{n}");
    }
}

#[tokio::test]
async fn refused_change_evicts_nothing() {
    let store = MemoryStore::new(CAPACITY, Arc::new(Deaf));
    let active = sized("active", "", 60_000);
    put(&store, &active, None).await.expect("there is room");
    for n in 0..3 {
        put_finished(&store, &format!("finished-{n}"), "other", 5000, 10 + n).await;
    }
    let outcome = document(&json!({ "text": "x".repeat(90_000) }));
    let large = Change::Complete(Completion { outcome, attempt: None, claim: None, expected_revision: None });
    assert_eq!(put(&store, &apply(&active, &large, 50), Some(&active)).await, Err(EXHAUSTED));
    assert_eq!(put(&store, &sized("new", "", 90_000), None).await, Err(EXHAUSTED));
    for n in 0..3 {
        assert!(is_there(&store, &format!("finished-{n}")).await, "finished-{n}");
    }
}

#[tokio::test]
async fn many_small_changes_evict_what_they_need() {
    let store = MemoryStore::new(CAPACITY, Arc::new(Deaf));
    let mut active = Vec::new();
    for n in 0..20 {
        let job = sized(&format!("active-{n}"), "", 100);
        put(&store, &job, None).await.expect("there is room");
        active.push(job);
    }
    for n in 0..6 {
        put_finished(&store, &format!("finished-{n}"), "", 10_000, 10 + n).await;
    }
    for step in 1..=4 {
        for job in &mut active {
            let progress = Progress { message: Some("x".repeat(900 * step)), ..Progress::default() };
            let next = apply(job, &Change::Report(Report { progress, ..Report::default() }), 50);
            put(&store, &next, Some(job)).await.expect("a report is accepted");
            *job = next;
            assert!(bytes(&store).await <= CAPACITY.bytes, "{} bytes", bytes(&store).await);
        }
    }
    assert!(!is_there(&store, "finished-0").await);
}

#[test]
fn local_cache_evicts_clean_entries_and_rejects_when_all_are_dirty() {
    let presence = Arc::new(Presence::new(1));
    let clock = Arc::new(SystemClock);
    let cache = LocalCache::new(CAPACITY, Arc::new(Deaf), clock, Partitioning::SINGLE, presence);
    for n in 0..20 {
        cache.learn(&recorded(sized(&format!("clean-{n}"), "", 10_000)));
        assert!(cache.bytes() <= CAPACITY.bytes, "{} bytes", cache.bytes());
    }
    assert!(cache.entry(&id("clean-19")).is_some() && cache.entry(&id("clean-0")).is_none());
    let mut dirty = 0;
    let error = loop {
        match cache.accept(Arc::new(sized(&format!("dirty-{dirty}"), "", 10_000)), None, false) {
            Ok(_) => dirty += 1,
            Err(error) => break error,
        }
        assert!(cache.bytes() <= CAPACITY.bytes, "{} bytes", cache.bytes());
    };
    assert_eq!((error, cache.dirty()), (EXHAUSTED, dirty));
    assert!(dirty >= 5, "{dirty} dirty jobs");
    assert!(cache.entry(&id("clean-19")).is_none(), "clean entries are evicted first");
    // A version that does not fit is not cached, and no dirty entry is evicted for it.
    cache.learn(&recorded(sized("large", "", 50_000)));
    assert!(cache.entry(&id("large")).is_none());
    assert_eq!(cache.dirty(), dirty);
    // Once the primary has the dirty entries, there is room.
    let first = cache.entry(&id("dirty-0")).expect("it is dirty").job;
    cache.mark_synced(&first, &recorded((*first).clone()));
    cache.accept(Arc::new(sized("next", "", 10_000)), None, false).expect("the clean entry is evicted");
    assert_eq!(cache.entry(&id("dirty-0")).map(|entry| entry.dirty), None);
}

#[test]
fn dirty_jobs_of_one_owner_do_not_hide_clean_ones_of_others() {
    let presence = Arc::new(Presence::new(1));
    let capacity = Capacity { jobs: 250, bytes: usize::MAX };
    let cache = LocalCache::new(capacity, Arc::new(Deaf), Arc::new(SystemClock), Partitioning::SINGLE, presence);
    for n in 0..30 {
        cache.learn(&recorded(sized(&format!("active-{n}"), "third", 10)));
    }
    for n in 0..20 {
        cache.learn(&recorded(apply(&sized(&format!("clean-{n}"), "modest", 10), &success(), 2)));
    }
    for n in 0..200 {
        let job = sized(&format!("dirty-{n}"), "greedy", 1000);
        cache.accept(Arc::new(apply(&job, &success(), 3)), None, false).expect("there is room");
    }
    for n in 0..20 {
        cache.accept(Arc::new(sized(&format!("new-{n}"), "", 10)), None, false).expect("a clean job is evicted");
    }
    for n in 0..30 {
        assert!(cache.entry(&id(&format!("active-{n}"))).is_some(), "active-{n} was evicted before finished jobs");
    }
}

#[test]
fn versions_that_replace_each_other_are_counted_once() {
    let presence = Arc::new(Presence::new(1));
    let cache = LocalCache::new(CAPACITY, Arc::new(Deaf), Arc::new(SystemClock), Partitioning::SINGLE, presence);
    let mut job = sized("a", "", 10_000);
    cache.accept(Arc::new(job.clone()), None, false).expect("there is room");
    let before = cache.bytes();
    for n in 2..50 {
        let next = apply(&job, &heartbeat(), n);
        cache.accept(Arc::new(next.clone()), Some(&job), false).expect("there is room");
        job = next;
    }
    assert!(cache.bytes() < before + 1000, "{before} bytes, then {}", cache.bytes());
    cache.forget(&job);
    assert_eq!((cache.bytes(), cache.dirty()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn large_results_fill_the_budget_and_no_more() {
    const BUDGET: u64 = 48 << 20;
    let server = Server::with(&["--max-memory", "64MiB"]).await;
    let mut client = server.client().await;
    for n in 0..60 {
        let job_id = format!("result-{n}");
        create(&mut client, &job_id).await;
        let result = Some(large_document(1_000_000));
        client.complete_job(CompleteJobRequest { job_id, result, ..Default::default() }).await.expect("there is room");
    }
    client.get_job(read("result-59")).await.expect("it is there");
    client.get_job(read("result-0")).await.expect_err("it was evicted");
    let scrape = Scrape::of(server.http).await;
    let held = scrape.count("jobtrack_jobs_held_bytes");
    assert!((BUDGET / 2..=BUDGET).contains(&held), "{held} bytes");
    let mut number = 0;
    let refused = loop {
        let job = CreateJobRequest { metadata: Some(large_document(16_000)), ..new_job(&format!("active-{number}")) };
        match client.create_job(job).await {
            Ok(_) => number += 1,
            Err(status) => break status,
        }
        assert!(number < 4000, "{number} active jobs of 16 KB");
    };
    let info = error_info(&refused);
    assert_eq!((refused.code(), &*info.reason), (Code::ResourceExhausted, "TOO_MANY_BYTES"), "{refused:?}");
    assert_eq!(info.metadata["name"], "max-memory");
    // 3/4 of the budget are for jobs.
    assert_eq!(refused.message(), "the limit of 50331648 bytes, a part of --max-memory, is reached");
    assert!(number > 2000, "{number} active jobs of 16 KB");
    server.stop().await;
}
