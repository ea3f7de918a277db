//! A sharded map of jobs, and who watches them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};

use jobtrack::proto::v1::{Event, Job, WatchJobResponse};
use tokio::sync::broadcast;

const SHARDS: u64 = 64;

/// How many events a slow subscriber may be behind before it misses some.
const BACKLOG: usize = 256;

/// What subscribers of a job are sent.
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

    /// Puts a version in the place of the one before, and tells those who watch.
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

    /// The job as it is, and its changes from then on.
    pub fn watch(&self, id: &str) -> Option<(Arc<WatchJobResponse>, Events)> {
        let mut shard = self.write(id);
        let entry = shard.get_mut(id)?;
        let watchers = entry.watchers.get_or_insert_with(|| broadcast::Sender::new(BACKLOG));
        Some((Arc::new(event(Event::Snapshot, entry.job.clone())), watchers.subscribe()))
    }
}

/// An event with a token as long as one that would resume the stream.
fn event(event: Event, job: Job) -> WatchJobResponse {
    let resume_token = format!("{:>024x}", job.revision);
    WatchJobResponse { event: event.into(), job: Some(job), resume_token, ..WatchJobResponse::default() }
}
