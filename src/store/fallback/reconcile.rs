//! Reconciliation: when a partition of the primary is available again, the cache is compared with it once before the
//! partition serves.
//!
//! Clean entries are compared, too: the primary may have come back empty, older, or changed by others. Their versions
//! are compared first, and records are read only where the versions differ. An interrupted pass continues where it
//! stopped, as long as the history of the data is the same. Of the dirty entries, up to [`ROUND_ENTRIES_MAX`] are pushed before the
//! partition serves, and the others afterwards, in the background.

use std::{
    future::pending,
    mem::replace,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, TryStreamExt, future::join_all, stream};
use tokio::{
    select,
    sync::watch,
    time::{sleep, timeout},
};
use tracing::{debug, info};

use super::{cache::LocalCache, entries::CacheEntry, partition::ComparedHistories, push::Pusher, report::Reports};
use crate::{
    store::{PartitionState, Presence, PrimaryStore, StoreError, jitter},
    telemetry::metrics::{Histogram, Measured, Metrics, histogram},
};

/// Maximum number of entries pushed together.
const BATCH_ENTRIES: usize = 100;

/// Maximum number of versions compared together.
const COMPARED_MAX: usize = 500;

/// Maximum number of dirty entries pushed in one round.
const ROUND_ENTRIES_MAX: usize = 1000;

/// Maximum number of batches of a partition that are pushed at a time.
const CONCURRENT_BATCHES_MAX: usize = 2;

/// Interval between removals of expired entries.
const TIDY_INTERVAL: Duration = Duration::from_secs(10);

/// Minimum pause between attempts to reach the primary.
const PAUSE_MIN: Duration = Duration::from_millis(50);

/// Maximum pause between attempts to reach the primary.
const PAUSE_MAX: Duration = Duration::from_millis(500);

/// Interval between checks whether everything is pushed, during a stop.
const FLUSH_POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Maximum time to deregister this replica from the primary, during a stop.
const LEAVE_TIMEOUT: Duration = Duration::from_millis(500);

/// Compares the cache with the primary, and pushes to it.
pub struct Reconciler {
    primary: Arc<dyn PrimaryStore>,
    cache: Arc<LocalCache>,
    presence: Arc<Presence>,
    compared: Arc<ComparedHistories>,
    pusher: Arc<Pusher>,
    reports: Arc<Reports>,
    seconds: Histogram,
}

impl Reconciler {
    /// Creates a reconciler of `cache` with `primary`.
    pub fn new(
        primary: Arc<dyn PrimaryStore>,
        cache: Arc<LocalCache>,
        presence: Arc<Presence>,
        compared: Arc<ComparedHistories>,
        pusher: Arc<Pusher>,
        reports: Arc<Reports>,
    ) -> Self {
        let seconds = histogram(
            "jobtrack_reconciliation_seconds",
            "Time from when a partition of Redis accepted writes again until calls were served from it.",
            &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
        );
        Self { primary, cache, presence, compared, pusher, reports, seconds }
    }

    /// Restores partitions of the primary whenever they are unavailable; never returns.
    pub async fn run(&self) {
        let restore = join_all((0..self.cache.partitions()).map(|partition| self.restore(partition)));
        tokio::join!(self.follow_states(), restore, self.tidy());
    }

    /// Waits until the primary has everything, or until `over` is ready. Returns the ids of the jobs that the primary
    /// still lacks. Must be called when no change is accepted any more, while [`run`](Self::run) continues to push.
    pub async fn flush(&self, over: impl Future<Output = ()>) -> Vec<String> {
        let all = async {
            while self.cache.dirty() > 0 {
                sleep(FLUSH_POLL_INTERVAL).await;
            }
        };
        tokio::select! {
            () = all => {}
            () = over => {}
        }
        let synced = (0..self.cache.partitions()).filter(|partition| !self.cache.needs_sync(*partition));
        let leaving = synced.map(|partition| {
            // Prevents a later beat from adding this replica again.
            self.presence.set_serving(partition, false);
            self.primary.leave(partition)
        });
        _ = timeout(LEAVE_TIMEOUT, join_all(leaving)).await;
        let left = (0..self.cache.partitions()).flat_map(|partition| self.cache.first_dirty(partition, usize::MAX));
        left.map(|entry| entry.job.id.to_string()).collect()
    }

    async fn tidy(&self) {
        loop {
            sleep(TIDY_INTERVAL).await;
            self.cache.tidy().await;
        }
    }

    /// Applies changes of the partitions' states and histories to the cache, even while there are no calls.
    async fn follow_states(&self) {
        let mut states = self.primary.states();
        loop {
            states.mark_unchanged();
            self.apply_states();
            if states.changed().await.is_err() {
                return;
            }
        }
    }

    /// Applies the states of the partitions to the cache.
    pub fn apply_states(&self) {
        let states = self.primary.states().borrow().clone();
        for (partition, state) in states.into_iter().enumerate() {
            let is_other = || !self.compared.of(partition).is_continued_by(&self.primary.history(partition));
            match state {
                PartitionState::Serving if !is_other() => {}
                PartitionState::Serving | PartitionState::Unavailable => self.cache.set_unavailable(partition, false),
                PartitionState::ReadOnly => self.cache.set_unavailable(partition, true),
            }
        }
    }

    /// Restores a partition whenever it is unavailable, and pushes its dirty entries; never returns.
    async fn restore(&self, partition: usize) {
        let mut states = self.primary.states();
        loop {
            self.cache.sync_needed(partition).await;
            let mut pause = PAUSE_MIN;
            while self.cache.needs_sync(partition) {
                select! {
                    () = sleep(pause / 2 + jitter(pause / 2)) => {}
                    () = begins_to_serve(&mut states, partition) => {}
                }
                pause = (pause * 2).min(PAUSE_MAX);
                let outcome = if self.cache.is_unavailable(partition) {
                    self.try_restore(partition).await
                } else {
                    self.reports.reported(self.push_dirty(partition)).await
                };
                match outcome {
                    Ok(()) => pause = PAUSE_MIN,
                    Err(error) => debug!(%error, partition, "reconciling with Redis failed and will be tried again"),
                }
            }
            if !self.cache.is_any_unavailable() && self.cache.dirty() == 0 {
                self.reports.end_interrupted();
            }
        }
    }

    /// Compares the entries of a partition with the primary, if the partition accepts writes again, and marks the
    /// partition as available.
    async fn try_restore(&self, partition: usize) -> Result<(), StoreError> {
        if self.cache.is_all_unavailable() {
            self.primary.expect_restart(true);
        }
        match self.primary.probe(partition).await {
            PartitionState::Serving => {}
            PartitionState::ReadOnly => {
                self.cache.set_unavailable(partition, true);
                self.cache.set_lineage(partition, self.primary.history(partition).lineage);
                return Err(StoreError::ReadOnly);
            }
            PartitionState::Unavailable => return Err(StoreError::Unavailable),
        }
        let started = Instant::now();
        let history = self.primary.history(partition);
        let compare_all = async {
            let slots = self.cache.begin_pass(partition, history);
            self.push_dirty(partition).await?;
            self.compare_clean(partition, slots).await
        };
        self.reports.reported(compare_all).await?;
        let now = self.primary.history(partition);
        if !history.is_continued_by(&now) {
            return Err(StoreError::Unavailable);
        }
        self.compared.set(partition, now);
        self.begin_serving(partition).await?;
        self.primary.expect_restart(false);
        self.seconds.observe(started.elapsed().as_secs_f64());
        if !self.cache.is_any_unavailable() {
            self.reports.write_log();
            info!("Redis is available again; remaining changes are pushed in the background");
        }
        Ok(())
    }

    /// Sends two beats to show that this replica serves from a partition: the first says that it does, and the second
    /// that the primary has everything that the replica acknowledged before the first.
    async fn begin_serving(&self, partition: usize) -> Result<(), StoreError> {
        self.presence.set_serving(partition, true);
        for _ in 0..2 {
            if let Err(error) = self.primary.beat(partition).await {
                self.presence.set_serving(partition, false);
                return Err(error);
            }
        }
        if !self.cache.set_available(partition) {
            return Err(StoreError::Unavailable);
        }
        // The partition may have become unavailable again in the meantime.
        self.apply_states();
        Ok(())
    }

    /// Pushes up to [`ROUND_ENTRIES_MAX`] dirty entries of a partition, once.
    async fn push_dirty(&self, partition: usize) -> Result<(), StoreError> {
        let entries = self.cache.first_dirty(partition, ROUND_ENTRIES_MAX);
        if entries.is_empty() {
            return Ok(());
        }
        self.push_all(entries).await
    }

    /// Compares the clean entries of a partition with its records.
    async fn compare_clean(&self, partition: usize, slots: usize) -> Result<(), StoreError> {
        let mut slot = slots;
        while let Some((entries, rest)) = self.cache.uncompared(partition, slot, COMPARED_MAX) {
            slot = rest;
            let ids: Vec<_> = entries.iter().map(|entry| entry.job.id.clone()).collect();
            let versions = if ids.is_empty() { Vec::new() } else { self.primary.versions(&ids).await? };
            let (same, other): (Vec<_>, Vec<_>) =
                entries.into_iter().zip(versions).partition(|(entry, there)| Some(entry.job.version) == *there);
            let same: Vec<_> = same.into_iter().map(|(entry, _)| entry.job).collect();
            self.cache.confirm(partition, &same);
            self.push_all(other.into_iter().map(|(entry, _)| entry).collect()).await?;
        }
        Ok(())
    }

    async fn push_all(&self, entries: Vec<CacheEntry>) -> Result<(), StoreError> {
        let batches = stream::iter(entries).chunks(BATCH_ENTRIES).map(|batch| self.pusher.push(batch));
        batches.buffer_unordered(CONCURRENT_BATCHES_MAX).try_for_each(async |()| Ok(())).await
    }
}

/// Waits until the state of a partition changes to serving.
async fn begins_to_serve(states: &mut watch::Receiver<Vec<PartitionState>>, partition: usize) {
    let mut before = states.borrow_and_update()[partition];
    while states.changed().await.is_ok() {
        let state = states.borrow_and_update()[partition];
        if replace(&mut before, state) != PartitionState::Serving && state == PartitionState::Serving {
            return;
        }
    }
    // The primary was dropped, so no state will change any more.
    pending::<()>().await;
}

impl Measured for Reconciler {
    fn metrics(&self) -> Metrics {
        vec![Box::new(self.seconds.clone())]
    }
}
