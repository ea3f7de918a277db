//! A store that survives outages of its primary.
//!
//! While the primary serves, calls are answered by it or from fresh entries of the local cache. After a failed command
//! the primary is probed, once for all callers; a partition that does not serve counts as unavailable. From then on no
//! caller waits for it, except for the end of a change of the same job that is under way. Jobs in the cache are served
//! and changed, new jobs are accepted, and all answers are marked as volatile. For a job that is not in the cache the
//! answer is "unavailable", never "not found". When a partition accepts a write again, a first round of its dirty
//! entries is pushed, and all of its clean entries are compared once with the records. Then the partition serves, and
//! the remaining dirty entries are pushed in the background. A single write that fails affects only its job.
//!
//! The store is composed of parts that own their state: `LocalCache` the entries, `Pusher` the pushes under way,
//! `Reconciler` the return of partitions, `Reports` the outcomes.

mod busy;
mod cache;
mod changes;
mod entries;
mod partition;
mod push;
mod reconcile;
mod report;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use tokio::sync::watch;

pub use cache::{LocalCache, Route};
pub use entries::FreshnessToken;

use self::{busy::BusyJobs, partition::ComparedHistories, push::Pusher, reconcile::Reconciler, report::Reports};
use super::{
    CacheStats, Decided, Decision, DueBatch, HeldBack, JobStore, Page, PartitionState, Presence, PrimaryStore,
    Replaced, ReplicaStats, Source, StorageMode, StoreError, StoreStats, Stored,
};
use crate::{
    clock::Clock,
    domain::{Job, JobId, ListQuery, Timestamp},
    telemetry::metrics::{Measured, Metrics},
};

/// The handling of changes while the primary is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackPolicy {
    /// Changes are accepted, and merged when the primary is back.
    Accept,
    /// Changes are rejected.
    Reject,
}

/// A store that survives outages of its primary.
pub struct FallbackStore {
    primary: Arc<dyn PrimaryStore>,
    cache: Arc<LocalCache>,
    policy: FallbackPolicy,
    pusher: Arc<Pusher>,
    reconciler: Reconciler,
    reports: Arc<Reports>,
    reads: Reads,
    /// The jobs of which a change is under way: at most one change of each job at a time.
    changes: BusyJobs,
}

/// Number of reads by the source of their answer.
#[derive(Default)]
struct Reads {
    held: AtomicU64,
    primary: AtomicU64,
    failed: AtomicU64,
}

impl FallbackStore {
    /// Creates a store that uses `primary` as long as it serves, and `cache` otherwise. `cache` must be the listener of
    /// `primary`, and both must share `presence`.
    pub fn new(
        primary: Arc<dyn PrimaryStore>,
        cache: Arc<LocalCache>,
        presence: Arc<Presence>,
        clock: Arc<dyn Clock>,
        policy: FallbackPolicy,
    ) -> Self {
        let states = primary.states().borrow().clone();
        // The cache is empty, so nothing has to be compared.
        let histories: Vec<_> = (0..cache.partitions()).map(|partition| primary.history(partition)).collect();
        for (partition, history) in histories.iter().enumerate() {
            cache.begin_pass(partition, *history);
        }
        for (partition, _) in states.iter().enumerate().filter(|(_, state)| **state == PartitionState::Serving) {
            presence.set_serving(partition, true);
            _ = cache.set_available(partition);
        }
        let compared = Arc::new(ComparedHistories::new(histories));
        let reports = Arc::new(Reports::new(clock.clone()));
        let pusher = Pusher::new(primary.clone(), cache.clone(), clock, compared.clone(), reports.clone());
        let pusher = Arc::new(pusher);
        let reconciler =
            Reconciler::new(primary.clone(), cache.clone(), presence, compared, pusher.clone(), reports.clone());
        Self {
            primary,
            cache,
            policy,
            pusher,
            reconciler,
            reports,
            reads: Reads::default(),
            changes: BusyJobs::default(),
        }
    }

    /// Restores partitions of the primary whenever they are unavailable; never returns.
    pub async fn run(&self) {
        self.reconciler.run().await;
    }

    /// Waits until the primary has everything, or until `over` is ready. Returns the ids of the jobs that the primary
    /// still lacks. Must be called when no change is accepted any more, while [`run`](Self::run) continues to push.
    pub async fn flush(&self, over: impl Future<Output = ()>) -> Vec<String> {
        self.reconciler.flush(over).await
    }

    fn held_answer(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        let held = self.cache.get(id);
        let count = if held.is_some() { &self.reads.held } else { &self.reads.failed };
        count.fetch_add(1, Relaxed);
        held.map(Some).ok_or(StoreError::Unavailable)
    }

    /// Requests a health check of the primary after a failed command, without waiting for it.
    fn suspect(&self, id: Option<&JobId>) {
        if let Some(id) = id {
            self.cache.suspect(id);
        }
        self.primary.suspect();
        self.reconciler.apply_states();
    }

    /// Handles a change that the primary did not confirm; `sent`: the primary may have received it.
    fn accept(&self, job: Arc<Job>, previous: Option<&Job>, sent: bool) -> Result<Replaced, StoreError> {
        // A job can't be created over a cached tombstone, because the primary may have a later version under the id.
        let over_tombstone = previous.is_some_and(|previous| previous.removal.is_some()) && job.removal.is_none();
        match self.policy {
            FallbackPolicy::Accept if !over_tombstone => self.cache.accept(job, previous, sent),
            FallbackPolicy::Accept | FallbackPolicy::Reject => Err(StoreError::Unavailable),
        }
    }

    /// Returns a version of the primary with the expiry of its lease as of now.
    fn seen(&self, mut stored: Stored) -> Stored {
        stored.job = self.cache.with_current_lease(&stored.job);
        stored
    }

    /// Returns a page of the primary with the changes that were accepted here for its jobs. Jobs that only this replica
    /// has are not added.
    fn with_accepted(&self, mut page: Page, query: &ListQuery) -> Page {
        for stored in &mut page.jobs {
            if let Some(accepted) = self.cache.accepted(&stored.job.id) {
                *stored = accepted;
            }
        }
        page.jobs.retain(|stored| query.filter.matches(&stored.job, query.now) && stored.job.is_visible(query.now));
        page.partial = true;
        page
    }
}

impl Measured for FallbackStore {
    fn metrics(&self) -> Metrics {
        let mut metrics = self.cache.metrics();
        metrics.extend(self.reports.metrics());
        metrics.extend(self.reconciler.metrics());
        metrics
    }
}

#[async_trait]
impl JobStore for FallbackStore {
    fn get_fresh(&self, id: &JobId) -> Option<Stored> {
        let held = self.cache.get_fresh(id)?;
        self.reads.held.fetch_add(1, Relaxed);
        Some(held)
    }

    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        let Route::Primary(token) = self.cache.route_read(id) else { return self.held_answer(id) };
        self.reads.primary.fetch_add(1, Relaxed);
        match self.primary.get(id).await {
            Ok(Some(stored)) => {
                self.cache.learn(&stored);
                self.cache.mark_fresh(&stored.job, token);
                Ok(Some(self.seen(stored)))
            }
            Ok(None) => Ok(self.handle_missing_record(id, token)),
            Err(StoreError::Unavailable) => {
                self.suspect(Some(id));
                self.held_answer(id)
            }
            Err(error) => Err(error),
        }
    }

    async fn confirm_absence(&self, instead: &Stored) -> Result<(), StoreError> {
        // An answer of the primary shows that the primary could also confirm an absence. A cached answer does not.
        if instead.source == Source::Redis {
            return Ok(());
        }
        let (Route::Primary(_) | Route::Dirty) = self.cache.route_read(&instead.job.id) else {
            return Err(StoreError::Unavailable);
        };
        match self.primary.get(&instead.job.id).await {
            Err(StoreError::Unavailable) => Err(StoreError::Unavailable),
            _ => Ok(()),
        }
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.replace_in_turn(job, previous).await
    }

    async fn decide(&self, job: Arc<Job>, previous: &Job, decision: Decision) -> Result<Decided, StoreError> {
        self.decide_in_turn(job, previous, decision).await
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        if !self.cache.is_listable() {
            return Ok(self.cache.list(query));
        }
        match self.primary.list(query).await {
            Ok(page) if self.cache.dirty() > 0 => Ok(self.with_accepted(page, query)),
            Ok(page) => Ok(Page { partial: self.cache.is_any_unavailable(), ..page }),
            Err(StoreError::Unavailable) => {
                _ = self.primary.ping().await;
                self.reconciler.apply_states();
                if self.cache.is_listable() {
                    return Err(StoreError::Unavailable);
                }
                Ok(self.cache.list(query))
            }
            Err(error) => Err(error),
        }
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        if self.cache.is_listable() {
            match self.primary.count_of_owner(owner).await {
                Err(StoreError::Unavailable) => self.suspect(None),
                counted => return counted,
            }
        }
        Ok(self.cache.count_of_owner(owner))
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        if let Route::Primary(_) = self.cache.route_read(&job.id) {
            self.primary.delete(job).await?;
        }
        self.cache.forget(job);
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        if !self.cache.is_any_readable() {
            return Ok(self.cache.due(now, limit));
        }
        let mut batch = self.primary.due(now, limit).await?;
        if self.cache.dirty() > 0 || self.cache.is_any_unavailable() {
            let held = self.cache.due(now, limit);
            batch.records.retain(|record| matches!(self.cache.route_write(&record.stored.job), Route::Primary(_)));
            batch.records.extend(held.records);
            batch.next = batch.next.into_iter().chain(held.next).min();
        }
        Ok(batch)
    }

    async fn ping(&self) -> Result<(), StoreError> {
        self.primary.ping().await
    }

    async fn stats(&self) -> Result<StoreStats, StoreError> {
        let primary = self.primary.stats().await?;
        let load = |count: &AtomicU64| count.load(Relaxed);
        let cache = CacheStats {
            hits: load(&self.reads.held),
            misses: load(&self.reads.primary),
            errors: load(&self.reads.failed),
        };
        Ok(StoreStats {
            counts: if self.cache.is_any_unavailable() { Some(self.cache.counts()) } else { primary.counts },
            held: self.cache.count() as u64,
            bytes: self.cache.bytes() as u64,
            cache: Some(cache),
            dirty: self.cache.dirty() as u64,
            last_reconciliation: self.reports.summary(),
            ..primary
        })
    }

    async fn registration(&self) -> (Vec<ReplicaStats>, Option<HeldBack>) {
        self.primary.registration().await
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.cache.mode()
    }

    fn epoch(&self) -> u64 {
        self.primary.epoch()
    }

    fn position(&self) -> u64 {
        self.cache.position()
    }
}
