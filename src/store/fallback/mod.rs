//! A store of record, and what this replica holds for the time when it is away.
//!
//! While the store of record serves, it answers, and what is held is as good where it is followed. When it fails a
//! command and a ping it counts as away: from then on no caller waits for it, what is held here is served and changed,
//! new jobs are accepted, and all of it is marked volatile. What is not held can't be told, and is never said not to
//! exist. A prober tries the store of record; when it takes a write again, everything that is held is reconciled with it
//! before it serves. A write that fails alone concerns its job alone.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::{sync::watch, time::timeout};

mod cache;
mod entries;
mod reconcile;
mod report;

pub use cache::LocalCache;

use self::{reconcile::ReconcileMetrics, report::ReconcileLog};
use super::{
    CacheStats, CommitEvent, DueBatch, JobStore, Page, Replaced, Source, StorageMode, StoreError, StoreStats, Stored,
};
use crate::{
    clock::Clock,
    domain::{Job, JobId, ListQuery, Timestamp},
    telemetry::metrics::{Measured, Metrics},
};

/// What happens to changes while the store of record is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FallbackPolicy {
    /// They are accepted, and merged when it is back.
    Accept,
    /// They are refused.
    Reject,
}

/// How long a change waits for a reconciliation that is about to end, so that it does.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// A store that survives the absence of another.
pub struct FallbackStore {
    pub(super) primary: Arc<dyn JobStore>,
    pub(super) held: Arc<LocalCache>,
    pub(super) clock: Arc<dyn Clock>,
    fallback: FallbackPolicy,
    /// A reconciliation is about to end.
    pub(super) closing: watch::Sender<bool>,
    ledger: Mutex<ReconcileLog>,
    /// The data set that was reconciled with last.
    reconciled: Mutex<DataSet>,
    reads: Reads,
    pub(super) metrics: ReconcileMetrics,
}

/// A data set of the store of record, and how much of it is known to be lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataSet {
    epoch: u64,
    losses: u64,
}

impl DataSet {
    fn of(store: &dyn JobStore) -> Self {
        Self { epoch: store.epoch(), losses: store.losses() }
    }
}

/// How often reads were answered from where.
#[derive(Default)]
struct Reads {
    held: AtomicU64,
    primary: AtomicU64,
    failed: AtomicU64,
}

impl FallbackStore {
    /// `primary` as long as it serves, else what is `held`, which must be what `primary` announces to.
    pub fn new(
        primary: Arc<dyn JobStore>,
        held: Arc<LocalCache>,
        clock: Arc<dyn Clock>,
        fallback: FallbackPolicy,
    ) -> Self {
        if *primary.mode().borrow() != StorageMode::Degraded {
            held.come_back();
        }
        Self {
            reconciled: Mutex::new(DataSet::of(&*primary)),
            primary,
            held,
            clock,
            fallback,
            closing: watch::Sender::new(false),
            ledger: Mutex::default(),
            reads: Reads::default(),
            metrics: ReconcileMetrics::default(),
        }
    }

    /// The data set that is there.
    pub(super) fn data_set(&self) -> DataSet {
        DataSet::of(&*self.primary)
    }

    /// The data set that was reconciled with last.
    pub(super) fn reconciled(&self) -> MutexGuard<'_, DataSet> {
        self.reconciled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, ReconcileLog> {
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn held_answer(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        let held = self.held.get(id);
        let count = if held.is_some() { &self.reads.held } else { &self.reads.failed };
        count.fetch_add(1, Relaxed);
        held.map(Some).ok_or(StoreError::Unavailable)
    }

    /// A page of the store of record with what was accepted here of its jobs; others that were are not in it.
    fn with_accepted(&self, mut page: Page, query: &ListQuery) -> Page {
        for stored in &mut page.jobs {
            if let Some(accepted) = self.held.accepted(&stored.job.id) {
                *stored = accepted;
            }
        }
        page.jobs.retain(|stored| query.filter.matches(&stored.job) && stored.job.is_visible(query.now));
        page.partial = true;
        page
    }

    /// What becomes of a change that the store of record does not take. Where it can be read all the same, it is asked
    /// before a job is made under an id of which nothing is known here.
    async fn accept_unless_there(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        if previous.is_none() && self.held.is_readable(&job.id) && self.held.entry(&job.id).is_none() {
            match self.primary.get(&job.id).await {
                Ok(Some(there)) => {
                    self.held.learn(&there, None);
                    let is_ours = there.job.version == job.version;
                    return Ok(if is_ours { Replaced::Stored(there) } else { Replaced::Conflict(Some(there)) });
                }
                Err(error @ StoreError::Corrupt(_)) => return Err(error),
                Ok(None) | Err(_) => {}
            }
        }
        self.accept(job, previous)
    }

    /// What becomes of a change that the store of record can't take.
    fn accept(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        match self.fallback {
            FallbackPolicy::Accept => self.held.accept(job, previous),
            FallbackPolicy::Reject => Err(StoreError::Unavailable),
        }
    }

    /// Takes note that the store of record is away, unless it only failed a single command: one late answer says little.
    async fn see_whether_it_serves(&self) {
        if self.primary.ping().await == Err(StoreError::Unavailable) {
            self.held.go_away(false);
        }
    }

    /// Waits for the end of a reconciliation that is about to end, if a change of `id` depends on it.
    async fn last_moment(&self, id: &JobId) {
        if self.held.is_away() || !self.held.is_readable(id) {
            let mut closing = self.closing.subscribe();
            if *closing.borrow_and_update() {
                _ = timeout(LAST_MOMENT, closing.wait_for(|closing| !closing)).await;
            }
        }
    }
}

impl Measured for FallbackStore {
    fn metrics(&self) -> Metrics {
        let mut metrics = self.held.metrics();
        metrics.extend(self.metrics.metrics());
        metrics
    }
}

#[async_trait]
impl JobStore for FallbackStore {
    fn recent(&self, id: &JobId) -> Option<Stored> {
        let held = self.held.recent(id)?;
        self.reads.held.fetch_add(1, Relaxed);
        Some(held)
    }

    async fn get(&self, id: &JobId) -> Result<Option<Stored>, StoreError> {
        if !self.held.is_readable(id) {
            return self.held_answer(id);
        }
        self.reads.primary.fetch_add(1, Relaxed);
        let following = self.held.following(id);
        match self.primary.get(id).await {
            Ok(found) => {
                if let Some(stored) = &found {
                    self.held.learn(stored, None);
                    self.held.follow(&stored.job, following);
                }
                Ok(found)
            }
            Err(StoreError::Unavailable) => {
                self.see_whether_it_serves().await;
                self.held_answer(id)
            }
            Err(error) => Err(error),
        }
    }

    async fn absence(&self, instead: &Stored) -> Result<(), StoreError> {
        // What is held says nothing of whether the store of record answers for what is not.
        if instead.source == Source::Redis {
            return Ok(());
        }
        if !self.held.is_listable() {
            return Err(StoreError::Unavailable);
        }
        match self.primary.get(&instead.job.id).await {
            Err(StoreError::Unavailable) => Err(StoreError::Unavailable),
            _ => Ok(()),
        }
    }

    async fn replace(&self, job: Arc<Job>, previous: Option<&Job>) -> Result<Replaced, StoreError> {
        self.last_moment(&job.id).await;
        // What ends or removes a job makes room where the store of record is full.
        let makes_room = job.removal.is_some() || job.state.is_terminal();
        if !self.held.is_readable(&job.id) || (self.held.is_away() && !makes_room) {
            return self.accept_unless_there(job, previous).await;
        }
        let following = self.held.following(&job.id);
        match self.primary.replace(job.clone(), previous).await {
            Ok(Replaced::Stored(stored)) => {
                self.held.follow(&stored.job, following);
                Ok(Replaced::Stored(stored))
            }
            Ok(Replaced::Conflict(there)) => {
                if let Some(there) = &there {
                    self.held.learn(there, None);
                }
                Ok(Replaced::Conflict(there))
            }
            // Whether it was carried out will be seen when the two are reconciled.
            Err(StoreError::Unavailable) => {
                self.see_whether_it_serves().await;
                self.accept_unless_there(job, previous).await
            }
            Err(StoreError::ReadOnly) => {
                self.held.go_away(true);
                self.accept_unless_there(job, previous).await
            }
            outcome => outcome,
        }
    }

    async fn list(&self, query: &ListQuery) -> Result<Page, StoreError> {
        if !self.held.is_listable() {
            return Ok(self.held.list(query));
        }
        match self.primary.list(query).await {
            Ok(page) if self.held.dirty() > 0 => Ok(self.with_accepted(page, query)),
            Ok(page) => Ok(Page { partial: self.held.is_away(), ..page }),
            Err(StoreError::Unavailable) => {
                self.see_whether_it_serves().await;
                if self.held.is_away() { Ok(self.held.list(query)) } else { Err(StoreError::Unavailable) }
            }
            Err(error) => Err(error),
        }
    }

    async fn count_of_owner(&self, owner: &str) -> Result<u64, StoreError> {
        if self.held.is_listable() {
            match self.primary.count_of_owner(owner).await {
                Err(StoreError::Unavailable) => self.see_whether_it_serves().await,
                counted => return counted,
            }
        }
        Ok(self.held.count_of_owner(owner))
    }

    async fn delete(&self, job: &Job) -> Result<(), StoreError> {
        if self.held.is_readable(&job.id) {
            self.primary.delete(job).await?;
        }
        self.held.forget(job);
        Ok(())
    }

    async fn due(&self, now: Timestamp, limit: usize) -> Result<DueBatch, StoreError> {
        if !self.held.is_listable() {
            return Ok(self.held.due(now, limit));
        }
        let mut batch = self.primary.due(now, limit).await?;
        if self.held.dirty() > 0 {
            let held = self.held.due(now, limit);
            batch.records.retain(|record| self.held.is_readable(&record.stored.job.id));
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
        let away = self.held.is_away();
        let load = |count: &AtomicU64| count.load(Relaxed);
        let cache = CacheStats {
            hits: load(&self.reads.held),
            misses: load(&self.reads.primary),
            errors: load(&self.reads.failed),
        };
        Ok(StoreStats {
            counts: if away { Some(self.held.counts()) } else { primary.counts },
            held: self.held.count() as u64,
            cache: Some(cache),
            dirty: self.held.dirty() as u64,
            last_reconciliation: self.ledger().summary(),
            ..primary
        })
    }

    fn mode(&self) -> watch::Receiver<StorageMode> {
        self.held.mode()
    }

    fn epoch(&self) -> u64 {
        self.primary.epoch()
    }

    fn position(&self) -> u64 {
        self.held.position()
    }

    async fn changed_since(&self, _: u64, _: u64, _: usize) -> Result<Option<Vec<CommitEvent>>, StoreError> {
        // Positions count what this process has announced, and it keeps none of it.
        Ok(None)
    }
}
