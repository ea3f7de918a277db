//! A sharded map of jobs, and their subscribers.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use jobtrack::proto::v1::{Event, Job, WatchJobResponse};
use tokio::sync::broadcast;

const SHARDS: u64 = 64;

/// Maximum number of events that a slow subscriber may be behind before it misses some.
const BACKLOG: usize = 256;

/// The events of a job.
pub type Events = broadcast::Receiver<Arc<WatchJobResponse>>;

type Shard = RwLock<HashMap<String, Entry>>;

struct Entry {
    job: Job,
    watchers: Option<broadcast::Sender<Arc<WatchJobResponse>>>,
}

/// All jobs.
pub struct Map {
    hasher: RandomState,
    shards: Vec<Shard>,
}

impl Map {
    pub fn new() -> Self {
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| Shard::default()).collect() }
    }

    fn shard(&self, id: &str) -> &Shard {
        let shard = usize::try_from(self.hasher.hash_one(id) % SHARDS).expect("it is small");
        &self.shards[shard]
    }

    fn read(&self, id: &str) -> RwLockReadGuard<'_, HashMap<String, Entry>> {
        self.shard(id).read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self, id: &str) -> RwLockWriteGuard<'_, HashMap<String, Entry>> {
        self.shard(id).write().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn get(&self, id: &str) -> Option<Job> {
        self.read(id).get(id).map(|entry| entry.job.clone())
    }

    /// Replaces the current version, and sends the new one to the subscribers.
    pub fn put(&self, job: Job) {
        let mut shard = self.write(&job.id);
        let Some(entry) = shard.get_mut(&job.id) else {
            shard.insert(job.id.clone(), Entry { job, watchers: None });
            return;
        };
        if let Some(watchers) = &entry.watchers {
            _ = watchers.send(Arc::new(event(Event::Update, job.clone())));
        }
        entry.job = job;
    }

    /// Returns the current job, and its changes from then on.
    pub fn watch(&self, id: &str) -> Option<(Arc<WatchJobResponse>, Events)> {
        let mut shard = self.write(id);
        let entry = shard.get_mut(id)?;
        let watchers = entry.watchers.get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
        Some((Arc::new(event(Event::Snapshot, entry.job.clone())), watchers.subscribe()))
    }
}

/// Returns an event with a token as long as a real resume token.
fn event(event: Event, job: Job) -> WatchJobResponse {
    let resume_token = format!("{:>024x}", job.revision);
    WatchJobResponse { event: event.into(), job: Some(job), resume_token, ..WatchJobResponse::default() }
}
