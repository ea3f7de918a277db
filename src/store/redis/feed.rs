//! The commits that this replica knows of, which it passes on to its listener: its own and those of other replicas.
//!
//! Commits are numbered in each partition, and a notification contains the number of its commit. A missing number, or a
//! count that is ahead of the notifications for a while, shows a loss. After a loss, all watched jobs are read again.

use std::{
    array::from_fn,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use indexmap::IndexSet;
use tokio::sync::{Notify, futures::Notified};

use super::schema::keys::{PARTITIONS, Partition};
use crate::{
    clock::{Clock, SteeredClock},
    domain::{Job, JobId},
    store::{ChangeNotification, CommitEvent, CommitPosition, Listener, Stored},
};

/// Maximum number of jobs of a partition that are read again at a time.
const BATCH: usize = 50;

/// Maximum time for which an unanswered write may still take effect after Redis answers again.
const DOUBT: Duration = Duration::from_secs(600);

/// The numbers of the last commits, by partition; `None` for a partition that does not answer.
pub type Counts = [Option<i64>; PARTITIONS];

/// The state of the notifications of commits.
pub struct Feed {
    listener: Arc<dyn Listener>,
    clock: Arc<SteeredClock>,
    /// Number of commits announced here.
    announced: Mutex<CommitPosition>,
    /// Jobs that must be read again, by partition.
    stale: [StaleJobs; PARTITIONS],
    /// Number of the last known commit in each partition; `None` if it is unknown.
    known_counts: Mutex<Counts>,
    /// Requests a new subscription, which replaces the current one.
    gap_suspected: Notify,
    /// Time in microseconds until which a commit of this replica may become known by its notification only: see
    /// [`doubt`](Self::doubt).
    doubt_until: AtomicI64,
}

/// Jobs of one partition that must be read again.
#[derive(Default)]
pub struct StaleJobs {
    ids: Mutex<IndexSet<JobId>>,
    arrived: Notify,
}

impl StaleJobs {
    fn ids(&self) -> MutexGuard<'_, IndexSet<JobId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns a future that is ready when jobs have been added since this call.
    pub fn arrived(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    /// Takes a batch, which is empty if there are none.
    pub fn take(&self) -> Vec<JobId> {
        let mut ids = self.ids();
        let some = ids.len().min(BATCH);
        ids.drain(..some).collect()
    }

    /// Puts back a batch that could not be read.
    pub fn put_back(&self, batch: Vec<JobId>) {
        self.ids().extend(batch);
    }

    fn add(&self, id: JobId) {
        self.ids().insert(id);
        self.arrived.notify_one();
    }
}

impl Feed {
    /// Creates a feed without commits that reports to `listener`.
    pub fn new(listener: Arc<dyn Listener>, clock: Arc<SteeredClock>) -> Self {
        Self {
            listener,
            clock,
            announced: Mutex::new(0),
            stale: from_fn(|_| StaleJobs::default()),
            known_counts: Mutex::default(),
            gap_suspected: Notify::new(),
            doubt_until: AtomicI64::new(0),
        }
    }

    fn announced(&self) -> MutexGuard<'_, CommitPosition> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.known_counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of commits announced here.
    pub fn position(&self) -> CommitPosition {
        *self.announced()
    }

    /// Announces a version that is in Redis. `replaced` is the version that it replaced, if it is known.
    pub fn announce(&self, stored: Stored, replaced: Option<&Job>) {
        let is_same = |job: &&Job| job.version.incarnation_id == stored.job.version.incarnation_id;
        let (previous, replaced) = (replaced.filter(is_same).map(|job| job.state), replaced.map(|job| job.version));
        let mut announced = self.announced();
        *announced += 1;
        self.listener.on_commit(CommitEvent { stored, position: *announced, previous, replaced });
    }

    /// Returns the jobs of each partition that must be read again.
    pub const fn stale(&self) -> &[StaleJobs; PARTITIONS] {
        &self.stale
    }

    /// Causes jobs to be read again.
    fn read_again(&self, ids: impl IntoIterator<Item = JobId>) {
        for id in ids {
            self.stale[Partition::of(&id).index()].add(id);
        }
    }

    /// Records that a write to a job had no answer, or that its caller did not wait for it: it may have been executed,
    /// or may be executed later.
    pub fn doubt(&self, id: &JobId) {
        self.doubt_until.store(i64::MAX, Relaxed);
        self.read_again([id.clone()]);
    }

    /// Records that Redis answers again: earlier writes take effect soon, or not at all.
    pub fn doubt_ends(&self) {
        let then = self.clock.now() + DOUBT;
        _ = self.doubt_until.compare_exchange(i64::MAX, then.as_micros(), Relaxed, Relaxed);
    }

    /// Returns whether a write of this store without an answer may still take effect.
    pub fn is_in_doubt(&self) -> bool {
        let until = self.doubt_until.load(Relaxed);
        until > 0 && until > self.clock.now().as_micros()
    }

    /// Passes a notification on. The job is read again if the listener needs it.
    pub fn notify(&self, notification: &ChangeNotification<'_>) {
        if self.listener.on_notification(notification) {
            self.read_again([notification.id.clone()]);
        }
    }

    /// Returns the number of the last known commit in each partition.
    pub fn known_counts(&self) -> Counts {
        *self.counts()
    }

    /// Sets the number of the last known commit in each partition.
    pub fn set_counts(&self, counts: Counts) {
        *self.counts() = counts;
    }

    /// Records that commit `number` was notified. Returns whether an earlier notification is missing.
    pub fn count_notified(&self, partition: Partition, number: i64) -> bool {
        let known = &mut self.counts()[partition.index()];
        let is_gap = known.is_none_or(|known| number > known + 1);
        *known = (*known).max(Some(number));
        is_gap
    }

    /// Lowers the known counts to those that Redis has after a loss of data.
    pub fn lower_counts(&self, counts: &Counts) {
        for (known, count) in self.counts().iter_mut().zip(counts) {
            *known = (*known).min(*count).or(*known);
        }
    }

    /// Handles partitions that answer again: notifications of their commits may have been lost in the meantime.
    pub fn catch_up(&self, counts: &Counts) {
        let mut back = Vec::new();
        for (partition, known) in Partition::all().zip(self.counts().iter_mut()) {
            if let (None, Some(count)) = (*known, counts[partition.index()]) {
                *known = Some(count);
                back.push(partition);
            }
        }
        if !back.is_empty() {
            self.recover_gap(|partition| back.contains(&partition));
        }
    }

    /// Handles a gap in the notifications of the partitions for which `has_gap` holds: watched jobs are read again.
    pub fn recover_gap(&self, has_gap: impl Fn(Partition) -> bool) {
        self.read_again(self.listener.watched().into_iter().filter(|id| has_gap(Partition::of(id))));
        self.listener.on_gap();
    }

    /// Requests a new subscription, because notifications may have been lost.
    pub fn suspect_gap(&self) {
        self.gap_suspected.notify_one();
    }

    /// Returns a future that is ready when a new subscription is requested.
    pub fn gap_suspected(&self) -> Notified<'_> {
        self.gap_suspected.notified()
    }
}
