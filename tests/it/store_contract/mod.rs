//! The contract of every store. [`store_contract!`] runs the same cases for each store.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use jobtrack::{
    clock::{Clock, SteeredClock, SystemClock},
    domain::{
        Applied, Change, ChangeContext, Due, Filter, Job, JobId, Limit, ListQuery, NewJob, Order, Removal, State,
        TOMBSTONE_LIFE, Timestamp, Version, View,
    },
    store::{
        CommitEvent, Decided, Decision, Durability, FallbackPolicy, FallbackStore, JobStore, Listener, LocalCache,
        MemoryStore, Page, Presence, RedisStore, Replaced, StoreError, Stored,
        redis::{Options, Target},
    },
};

mod lists;

use self::lists::{
    a_page_ends_where_its_jobs_are_large, a_page_goes_on_where_the_last_one_ended,
    lists_contain_the_jobs_that_the_filter_selects, lists_filter_by_the_present_condition,
    lists_in_both_orders_hold_each_job_that_stays_once, lists_in_both_orders_pass_jobs_of_one_time,
    lists_omit_removed_jobs, lists_run_from_the_newest_or_the_oldest,
};
use crate::support::jobs::{
    apply, at, change_context, failure, heartbeat, id, job, make, plain, retry, start, success,
};
use crate::support::redis::{shared_cluster, shared_redis, shared_sentinel};

/// A store, and its announcements.
pub struct Bench {
    store: Arc<dyn JobStore>,
    heard: Arc<Ear>,
}

/// A listener that records announcements.
#[derive(Default)]
pub struct Ear(Mutex<Vec<CommitEvent>>);

impl Listener for Ear {
    fn on_commit(&self, announcement: CommitEvent) {
        self.0.lock().expect("no test panics here").push(announcement);
    }
}

impl Bench {
    /// Returns a bench for the store that `make` creates.
    pub fn new<S: JobStore>(make: impl FnOnce(Arc<Ear>) -> S) -> Self {
        let heard = Arc::new(Ear::default());
        Self { store: Arc::new(make(heard.clone())), heard }
    }

    /// Returns a bench for a separate part of the Redis at `url`.
    pub async fn redis(url: &str) -> Self {
        let heard = Arc::new(Ear::default());
        let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
        (0..RedisStore::PARTITIONING.count).for_each(|partition| presence.set_serving(partition, true));
        Self { store: Arc::new(open(url, heard.clone(), presence).await), heard }
    }

    /// Returns a bench for the same, with a fallback.
    pub async fn failover(url: &str) -> Self {
        let heard = Arc::new(Ear::default());
        let (clock, partitioning) = (Arc::new(SystemClock), RedisStore::PARTITIONING);
        let presence = Arc::new(Presence::new(partitioning.count));
        let held = LocalCache::new(1000, heard.clone(), clock.clone(), partitioning, presence.clone());
        let held = Arc::new(held);
        let redis = Arc::new(open(url, held.clone(), presence.clone()).await);
        let store = FallbackStore::new(redis, held, presence, clock, FallbackPolicy::Accept);
        Self { store: Arc::new(store), heard }
    }

    async fn put(&self, job: &Job, previous: Option<&Job>) -> Stored {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("the store answers") {
            Replaced::Stored(stored) => stored,
            Replaced::Conflict(current) => panic!("a conflict with {current:?}"),
        }
    }

    /// Stores a new job.
    async fn add(&self, job: Job) -> Job {
        self.put(&job, None).await;
        job
    }

    /// Applies `change` to `job` and stores the result.
    async fn change(&self, job: &Job, change: &Change, seconds: i64) -> Job {
        let next = apply(job, change, seconds);
        self.put(&next, Some(job)).await;
        next
    }

    async fn conflict(&self, job: &Job, previous: Option<&Job>) -> Option<Job> {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("the store answers") {
            Replaced::Stored(stored) => panic!("no conflict: {stored:?} was stored"),
            Replaced::Conflict(current) => current.map(|stored| as_written(&stored)),
        }
    }

    async fn get(&self, name: &str) -> Option<Job> {
        self.store.get(&id(name)).await.expect("the store answers").map(|stored| as_written(&stored))
    }

    async fn page(&self, filter: &Filter, limit: usize, after: Option<&Page>, seconds: i64) -> Page {
        self.page_in(Order::Newest, filter, limit, after, seconds).await
    }

    async fn page_in(&self, order: Order, filter: &Filter, limit: usize, last: Option<&Page>, seconds: i64) -> Page {
        let (filter, after) = (filter.clone(), last.and_then(|page| page.next.clone()));
        let (now, max_bytes, view) = (at(seconds), usize::MAX, View::Full);
        let query = ListQuery { filter, order, limit, max_bytes, after, now, confined: false, view };
        self.store.list(&query).await.expect("the store answers")
    }

    /// Returns the names of all jobs that `filter` selects, page by page.
    async fn list(&self, filter: &Filter, limit: usize) -> Vec<String> {
        self.list_in(Order::Newest, filter, limit).await
    }

    async fn list_in(&self, order: Order, filter: &Filter, limit: usize) -> Vec<String> {
        let mut names = Vec::new();
        let mut last = None;
        loop {
            let page = self.page_in(order, filter, limit, last.as_ref(), 1000).await;
            assert!(page.jobs.len() <= limit);
            names.extend(page.jobs.iter().map(|stored| stored.job.id.to_string()));
            if page.next.is_none() {
                return names;
            }
            last = Some(page);
        }
    }

    fn heard(&self) -> Vec<(String, i64)> {
        let heard = self.heard.0.lock().expect("no test panics here");
        heard.iter().map(|change| (change.stored.job.id.to_string(), change.stored.job.version.revision)).collect()
    }
}

/// Opens a separate part of the Redis at `url`.
async fn open(url: &str, listener: Arc<dyn Listener>, presence: Arc<Presence>) -> RedisStore {
    let options = Options {
        target: Target::parse(url).expect("a valid address"),
        pool_size: 4,
        timeout: Duration::from_secs(2),
        key_prefix: format!("{}:", uuid::Uuid::new_v4().simple()),
        replica_grace: Duration::ZERO,
    };
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    RedisStore::open(options, listener, clock, presence).await.expect("Redis is usable")
}

/// Returns a job without the fields that a primary adds.
fn as_written(stored: &Stored) -> Job {
    assert!(stored.durability == Durability::Volatile || stored.job.is_recorded());
    Job { since: None, heard: None, durable_time: None, ..Job::clone(&stored.job) }
}

async fn new_store_is_empty(bench: Bench) {
    assert_eq!(bench.get("a").await, None);
    assert!(bench.list(&Filter::default(), 10).await.is_empty());
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([0; 5]));
    bench.store.ping().await.expect("the store answers");
}

async fn stored_versions_are_read_back(bench: Bench) {
    // Documents read back are equal to those written: the fields keep their order.
    let metadata = serde_json::from_str(r#"{"z": 1.5, "list": [null, true, "x", {}], "": -0.0, "a": 1e300}"#).ok();
    let labels = [("k".to_owned(), "v".to_owned())].into();
    let new = NewJob { metadata, labels, owner: "o".into(), retention: Some(Duration::ZERO), ..plain() };
    let made = bench.add(make("a", 1, new)).await;
    assert_eq!(bench.get("a").await, Some(made.clone()));
    let done = bench.change(&bench.change(&made, &heartbeat(), 2).await, &failure(), 3).await;
    assert_eq!(bench.get("a").await, Some(done));
}

/// Checks each version of a job that waits, is claimed, fails for another attempt and is to be cancelled.
async fn attempts_are_read_back(bench: Bench) {
    const MINUTE: Duration = Duration::from_secs(60);
    // A lease that seems expired is shown as it runs in the store.
    const FAR: i64 = 4_000_000_000;
    let made = bench.add(make("a", FAR, NewJob { start_timeout: MINUTE, lease_timeout: MINUTE, ..plain() })).await;
    assert_eq!(bench.get("a").await, Some(made.clone()));
    let mut current = made;
    let cancel =
        Change::Cancel { reason: "r".into(), requester: "q".into(), force: false, grace: Duration::from_secs(9) };
    for change in [start("one"), retry(), start("two"), cancel] {
        current = bench.change(&current, &change, FAR + current.version.revision).await;
        assert_eq!(bench.get("a").await, Some(current.clone()), "after {change:?}");
    }
    assert_eq!((current.attempts.len(), current.claim.is_some()), (1, true));
}

async fn write_requires_the_current_version(bench: Bench) {
    let made = job("a", 1);
    assert_eq!(bench.conflict(&apply(&made, &heartbeat(), 2), Some(&made)).await, None, "nothing is there yet");
    bench.add(made.clone()).await;
    let next = apply(&made, &heartbeat(), 2);
    assert_eq!(bench.conflict(&next, None).await, Some(made.clone()));

    let version = made.version;
    let other_stamp = Version { change_id: next.version.change_id, ..version };
    let other_life = Version { incarnation_id: uuid::Uuid::new_v4(), ..version };
    let other_revision = Version { revision: 7, ..version };
    for wrong in [other_stamp, other_life, other_revision, next.version] {
        let wrong = Job { version: wrong, ..made.clone() };
        assert_eq!(bench.conflict(&next, Some(&wrong)).await, Some(made.clone()), "{:?}", wrong.version);
    }
    bench.put(&next, Some(&made)).await;
    let rival = apply(&made, &heartbeat(), 2);
    assert_eq!(bench.conflict(&rival, Some(&made)).await, Some(next.clone()));

    bench.put(&next, Some(&made)).await;
    assert_eq!(bench.get("a").await, Some(next), "the same write again");
}

async fn of_racing_writes_one_wins(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let rivals: Vec<_> = (0..16).map(|_| apply(&made, &heartbeat(), 2)).collect();
    let writes = rivals.iter().map(|rival| bench.store.replace(Arc::new(rival.clone()), Some(&made)));
    let outcomes = futures_util::future::join_all(writes).await;
    let won = outcomes.into_iter().filter_map(|outcome| match outcome.expect("the store answers") {
        Replaced::Stored(stored) => Some(stored.job.version),
        Replaced::Conflict(_) => None,
    });
    let won: Vec<_> = won.collect();
    assert_eq!(won.len(), 1);
    assert_eq!(bench.get("a").await.map(|job| job.version), won.first().copied());
}

async fn counts_follow_the_states(bench: Bench) {
    let a = bench.add(job("a", 1)).await;
    let b = bench.add(job("b", 1)).await;
    let c = bench.add(job("c", 1)).await;
    bench.change(&bench.change(&a, &heartbeat(), 2).await, &success(), 3).await;
    bench.change(&b, &heartbeat(), 2).await;
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([1, 1, 1, 0, 0]));
    bench.change(&c, &Change::Delete { force: true }, 4).await;
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([0, 1, 1, 0, 0]));
}

async fn a_record_is_forgotten_only_at_its_version(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let gone = bench.change(&made, &Change::Delete { force: true }, 2).await;
    bench.store.delete(&made).await.expect("the store answers");
    assert_eq!(bench.get("a").await, Some(gone.clone()));
    bench.store.delete(&gone).await.expect("the store answers");
    assert_eq!(bench.get("a").await, None);
    bench.store.delete(&gone).await.expect("once more changes nothing");
    bench.add(job("a", 3)).await;
}

async fn due_records_come_in_order(bench: Bench) {
    let due = async |seconds, limit| -> (Vec<(JobId, Due)>, Option<Timestamp>) {
        let batch = bench.store.due(at(seconds), limit).await.expect("the store answers");
        (batch.records.into_iter().map(|record| (record.stored.job.id.clone(), record.due)).collect(), batch.next)
    };
    assert_eq!(due(1_000_000, 10).await, (vec![], None));
    for (name, seconds) in [("late", 50), ("soon", 10), ("kept", 5)] {
        let made = bench.add(make(name, 0, NewJob { retention: Some(Duration::from_secs(seconds)), ..plain() })).await;
        bench.change(&made, &success(), if name == "kept" { 30 } else { 1 }).await;
    }
    let gone = bench.add(job("gone", 0)).await;
    bench.change(&gone, &Change::Delete { force: true }, 20).await;
    let forget = at(20) + TOMBSTONE_LIFE;

    assert_eq!(due(10, 10).await, (vec![], Some(at(11))));
    assert_eq!(due(11, 10).await, (vec![(id("soon"), Due::Expire)], Some(at(35))));
    let all = [("soon", Due::Expire), ("kept", Due::Expire), ("late", Due::Expire), ("gone", Due::Forget)];
    let all = all.map(|(name, due)| (id(name), due));
    assert_eq!(due(1_000_000, 10).await, (all.to_vec(), None));
    assert_eq!(due(1_000_000, 2).await.0, all[..2]);
    assert_eq!(due(60, 10).await, (all[..3].to_vec(), Some(forget)));

    let soon = bench.get("soon").await.expect("it is there");
    bench.change(&soon, &Change::Expire, 60).await;
    assert_eq!(due(60, 10).await.0, all[1..3], "what was carried out is no longer due");
}

/// Leases run on the store's own clock, from the last report.
async fn a_lease_runs_from_the_last_report(bench: Bench) {
    const LEASE: Duration = Duration::from_millis(300);
    let now = || SystemClock.now();
    let change_at = |job: &Job, change: &Change| {
        let context = ChangeContext { now: now(), ..change_context(0) };
        match job.apply(change, &context).expect("it can be made") {
            Applied::Changed(next) => *next,
            _ => panic!("{change:?} changes nothing"),
        }
    };
    let made = bench.add(make("a", 0, NewJob { lease_timeout: LEASE, ..plain() })).await;
    let mut running = made;
    let mut reported = now();
    for _ in 0..3 {
        let next = change_at(&running, &heartbeat());
        reported = now();
        bench.put(&next, Some(&running)).await;
        running = next;
    }
    let due = loop {
        let batch = bench.store.due(now(), 10).await.expect("the store answers");
        if let Some(due) = batch.records.into_iter().next() {
            break due;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(now().since(reported) >= LEASE, "it is due before the lease is over");
    assert_eq!((due.due, due.stored.job.version), (Due::LoseWorker, running.version));
    let lost = change_at(&running, &Change::LoseWorker);
    let lost = Arc::new(lost);
    loop {
        // The replicas of a store must show that workers can report to them.
        bench.store.ping().await.expect("the store answers");
        let deadline = running.silence_deadline().expect("it runs under a lease");
        let decision = Decision { deadline, is_reverted: true, is_due: true, now: now() };
        match bench.store.decide(lost.clone(), &running, decision).await.expect("the store answers") {
            Decided::Stored(stored) => break assert_eq!(stored.job.version, lost.version),
            Decided::Deferred => tokio::time::sleep(Duration::from_millis(10)).await,
            Decided::Conflict => panic!("nobody else changes it"),
        }
    }
    assert!(bench.store.due(now(), 10).await.expect("the store answers").records.is_empty());
}

async fn each_commit_is_announced_in_order(bench: Bench) {
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

async fn changes_since_a_position_are_complete_or_absent(bench: Bench) {
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

async fn announcement_has_the_previous_state(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let gone = bench.change(&bench.change(&made, &heartbeat(), 2).await, &success(), 3).await;
    let gone = bench.change(&gone, &Change::Delete { force: false }, 4).await;
    let again = Job::create(gone.id.clone(), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(5));
    bench.put(&again, Some(&gone)).await;
    let heard = bench.heard.0.lock().expect("no test panics here");
    let before: Vec<_> = heard.iter().map(|change| change.previous).collect();
    assert_eq!(before, [None, Some(State::Pending), Some(State::Running), Some(State::Succeeded), None]);
}

/// Runs the contract for a store: `store_contract!(name, make)`, where `make` creates a [`Bench`] of an empty store.
macro_rules! store_contract {
    ($name:ident, $make:expr) => {
        store_contract!($name, $make;
            new_store_is_empty stored_versions_are_read_back attempts_are_read_back write_requires_the_current_version
            of_racing_writes_one_wins lists_run_from_the_newest_or_the_oldest
            lists_in_both_orders_pass_jobs_of_one_time lists_in_both_orders_hold_each_job_that_stays_once
            lists_filter_by_the_present_condition lists_contain_the_jobs_that_the_filter_selects
            a_page_goes_on_where_the_last_one_ended a_page_ends_where_its_jobs_are_large
            lists_omit_removed_jobs counts_follow_the_states
            a_record_is_forgotten_only_at_its_version due_records_come_in_order
            a_lease_runs_from_the_last_report each_commit_is_announced_in_order
            changes_since_a_position_are_complete_or_absent announcement_has_the_previous_state);
    };
    ($name:ident, $make:expr; $($case:ident)+) => {
        mod $name {
            #[allow(unused_imports, reason = "not every store's bench is made of the same things")]
            use super::*;
            $(#[tokio::test]
            async fn $case() {
                super::$case($make).await;
            })+
        }
    };
}

store_contract!(memory, Bench::new(|ear| MemoryStore::new(1000, ear)));
store_contract!(redis, Bench::redis(&shared_redis().await.url()).await);
store_contract!(failover, Bench::failover(&shared_redis().await.url()).await);
store_contract!(sentinel, Bench::redis(&shared_sentinel().await.url()).await);
store_contract!(cluster, Bench::redis(&shared_cluster().await.url()).await);

/// Promises of the bounded store of a single process.
mod memory_bound {
    use super::*;

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
        let told = bench
            .store
            .changed_since(before, before, 10, usize::MAX)
            .await
            .expect("it answers")
            .expect("it can be told");
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
        assert!(
            bench.store.changed_since(0, 0, 10, usize::MAX).await.expect("it answers").is_none(),
            "two left no trace"
        );
    }

    #[tokio::test]
    async fn change_of_a_stored_job_needs_no_eviction() {
        let bench = Bench::new(|ear| MemoryStore::new(1, ear));
        let made = bench.add(job("a", 1)).await;
        let gone = bench.change(&made, &Change::Delete { force: true }, 2).await;
        let again = Job::create(id("a"), plain(), Some(&gone), uuid::Uuid::new_v4(), &change_context(3));
        bench.put(&again, Some(&gone)).await;
    }
}
