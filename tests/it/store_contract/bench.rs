//! A store under test, and its announcements.

use std::sync::{Arc, Mutex};

use jobtrack::{
    clock::SystemClock,
    domain::{Change, Filter, Job, ListQuery, Order, View},
    store::{
        CommitEvent, Durability, FallbackPolicy, FallbackStore, JobStore, Listener, LocalCache, Page, Presence,
        RedisStore, Replaced, Stored,
    },
};

use crate::support::{
    jobs::{apply, at, id},
    stores::{open_redis, redis_options},
};

/// A store, and its announcements.
pub struct Bench {
    pub store: Arc<dyn JobStore>,
    pub heard: Arc<Ear>,
}

/// A listener that records announcements.
#[derive(Default)]
pub struct Ear(pub Mutex<Vec<CommitEvent>>);

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

    pub async fn put(&self, job: &Job, previous: Option<&Job>) -> Stored {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("the store answers") {
            Replaced::Stored(stored) => stored,
            Replaced::Conflict(current) => panic!("a conflict with {current:?}"),
        }
    }

    /// Stores a new job.
    pub async fn add(&self, job: Job) -> Job {
        self.put(&job, None).await;
        job
    }

    /// Applies `change` to `job` and stores the result.
    pub async fn change(&self, job: &Job, change: &Change, seconds: i64) -> Job {
        let next = apply(job, change, seconds);
        self.put(&next, Some(job)).await;
        next
    }

    pub async fn conflict(&self, job: &Job, previous: Option<&Job>) -> Option<Job> {
        match self.store.replace(Arc::new(job.clone()), previous).await.expect("the store answers") {
            Replaced::Stored(stored) => panic!("no conflict: {stored:?} was stored"),
            Replaced::Conflict(current) => current.map(|stored| as_written(&stored)),
        }
    }

    pub async fn get(&self, name: &str) -> Option<Job> {
        self.store.get(&id(name)).await.expect("the store answers").map(|stored| as_written(&stored))
    }

    pub async fn page(&self, filter: &Filter, limit: usize, after: Option<&Page>, seconds: i64) -> Page {
        self.page_in(Order::Newest, filter, limit, after, seconds).await
    }

    pub async fn page_in(
        &self,
        order: Order,
        filter: &Filter,
        limit: usize,
        last: Option<&Page>,
        seconds: i64,
    ) -> Page {
        let (filter, after) = (filter.clone(), last.and_then(|page| page.next.clone()));
        let (now, max_bytes, view) = (at(seconds), usize::MAX, View::Full);
        let query = ListQuery { filter, order, limit, max_bytes, after, now, confined: false, view };
        self.store.list(&query).await.expect("the store answers")
    }

    /// Returns the names of all jobs that `filter` selects, page by page.
    pub async fn list(&self, filter: &Filter, limit: usize) -> Vec<String> {
        self.list_in(Order::Newest, filter, limit).await
    }

    pub async fn list_in(&self, order: Order, filter: &Filter, limit: usize) -> Vec<String> {
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

    pub fn heard(&self) -> Vec<(String, i64)> {
        let heard = self.heard.0.lock().expect("no test panics here");
        heard.iter().map(|change| (change.stored.job.id.to_string(), change.stored.job.version.revision)).collect()
    }
}

/// Opens a separate part of the Redis at `url`.
async fn open(url: &str, listener: Arc<dyn Listener>, presence: Arc<Presence>) -> RedisStore {
    open_redis(redis_options(url, &uuid::Uuid::new_v4().simple().to_string()), listener, presence).await
}

/// Returns a job without the fields that a primary adds.
fn as_written(stored: &Stored) -> Job {
    assert!(stored.durability == Durability::Volatile || stored.job.is_recorded());
    Job { since: None, heard: None, durable_time: None, branch: None, ..Job::clone(&stored.job) }
}
