//! Delivery of committed versions from the store to the subscribers that watch them.

use std::{
    collections::HashMap,
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use indexmap::{IndexMap, map::Entry};
use tokio::{sync::Notify, task::yield_now};

use super::{CoalescedChanges, inbox::Inbox};
use crate::{
    domain::{Filter, JobId},
    store::{ChangeNotification, CommitEvent, CommitPosition, Listener},
    telemetry::metrics::{Counter, Measured, Metrics, counter},
};

/// Number of deliveries after which the dispatcher yields to other tasks.
const DELIVERIES_PER_TURN: usize = 1000;

/// Delivers the versions that a store commits to the subscribers that watch them.
pub struct Hub {
    registry: Mutex<Registry>,
    /// Wakes the dispatcher.
    pending_added: Notify,
    skipped: Counter,
}

impl Default for Hub {
    fn default() -> Self {
        let skipped = counter(
            "jobtrack_watch_revisions_skipped_total",
            "Revisions that were not sent to a watcher, because a newer one was sent instead.",
        );
        Self { registry: Mutex::default(), pending_added: Notify::new(), skipped }
    }
}

#[derive(Default)]
struct Registry {
    by_id: HashMap<JobId, Arc<Topic>>,
    /// Subscribers of jobs of any id.
    broad: Arc<Topic>,
    /// Number of inboxes in `broad`, so that a commit need not take the lock of that topic.
    broad_count: usize,
    watchers: usize,
    last_key: u64,
    /// Changes of watched jobs that the dispatcher has not taken yet.
    pending: IndexMap<JobId, CoalescedChanges>,
    /// The dispatcher has taken pending changes, and has not delivered all of them yet.
    dispatching: bool,
    /// Position of the last commit.
    committed: CommitPosition,
    /// All commits up to this position were delivered.
    delivered: CommitPosition,
}

/// The inboxes of the subscribers of one job, or of jobs of any id.
#[derive(Default)]
struct Topic {
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
}

impl Topic {
    /// Delivers changes to all inboxes, and returns the number of inboxes.
    fn deliver(&self, changes: &CoalescedChanges) -> usize {
        // Releases the lock before the delivery: a task that subscribes or unsubscribes waits for this lock while it
        // holds the lock of the registry, and writers wait for that one.
        let inboxes: Vec<_> = lock(&self.inboxes).values().cloned().collect();
        for inbox in &inboxes {
            inbox.push(changes);
        }
        inboxes.len()
    }
}

impl Hub {
    /// Delivers changes as they are committed. Never returns.
    pub async fn dispatch(&self) {
        loop {
            self.pending_added.notified().await;
            self.deliver_pending().await;
        }
    }

    /// Subscribes to the jobs `ids`, or to jobs of any id if `ids` is empty. Jobs that `filter` can never match,
    /// whatever their state, are left out.
    pub fn subscribe(self: &Arc<Self>, ids: Vec<JobId>, filter: Filter) -> Subscription {
        let inbox = Arc::new(Inbox::new(filter));
        let mut guard = self.registry();
        let registry = &mut *guard;
        registry.last_key += 1;
        let key = registry.last_key;
        for id in &ids {
            lock(&registry.by_id.entry(id.clone()).or_default().inboxes).insert(key, inbox.clone());
        }
        if ids.is_empty() {
            registry.broad_count += 1;
            lock(&registry.broad.inboxes).insert(key, inbox.clone());
        }
        drop(guard);
        Subscription { hub: self.clone(), key, ids, inbox, is_watcher: false }
    }

    /// Returns the number of open watches.
    pub fn watchers(&self) -> usize {
        self.registry().watchers
    }

    async fn deliver_pending(&self) {
        let (pending, broad, committed) = {
            let mut registry = self.registry();
            registry.dispatching = true;
            let pending: Vec<_> = take(&mut registry.pending)
                .into_iter()
                .map(|(id, changes)| (registry.by_id.get(&id).cloned(), changes))
                .collect();
            (pending, registry.broad.clone(), registry.committed)
        };
        let mut deliveries = 0;
        for (topic, changes) in pending {
            deliveries += topic.map_or(0, |topic| topic.deliver(&changes)) + broad.deliver(&changes);
            if deliveries >= DELIVERIES_PER_TURN {
                deliveries = 0;
                yield_now().await;
            }
        }
        let mut registry = self.registry();
        debug_assert!(registry.delivered <= committed, "positions rise");
        registry.dispatching = false;
        registry.delivered = committed;
    }

    /// Returns the position up to which all commits that concern a subscriber are in its inbox.
    fn delivered_until(&self) -> CommitPosition {
        let registry = self.registry();
        let is_idle = registry.pending.is_empty() && !registry.dispatching;
        if is_idle { registry.committed } else { registry.delivered }
    }

    fn unsubscribe(&self, subscription: &Subscription) {
        let mut guard = self.registry();
        let registry = &mut *guard;
        registry.watchers -= usize::from(subscription.is_watcher);
        for id in &subscription.ids {
            let Some(topic) = registry.by_id.get(id) else { continue };
            let mut inboxes = lock(&topic.inboxes);
            inboxes.remove(&subscription.key);
            if inboxes.is_empty() {
                drop(inboxes);
                registry.by_id.remove(id);
            }
        }
        if subscription.ids.is_empty() {
            registry.broad_count -= 1;
            let mut inboxes = lock(&registry.broad.inboxes);
            inboxes.remove(&subscription.key);
            debug_assert_eq!(inboxes.len(), registry.broad_count);
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }
}

impl Listener for Hub {
    fn on_commit(&self, event: CommitEvent) {
        let mut registry = self.registry();
        debug_assert!(event.position > registry.committed, "commits are announced in their order");
        registry.committed = event.position;
        let id = &event.stored.job.id;
        // A pending change is replaced even if its last subscriber has left: it must not be delivered as the newest
        // version to a subscriber that comes after this commit.
        let is_pending = registry.pending.contains_key(id);
        if registry.broad_count == 0 && !is_pending && !registry.by_id.contains_key(id) {
            return;
        }
        match registry.pending.entry(id.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().push(event),
            Entry::Vacant(entry) => _ = entry.insert(CoalescedChanges::new(event)),
        }
        drop(registry);
        self.pending_added.notify_one();
    }

    fn on_notification(&self, notification: &ChangeNotification<'_>) -> bool {
        let ChangeNotification { id, kind, owner, .. } = *notification;
        let registry = self.registry();
        if registry.by_id.contains_key(id) || registry.pending.contains_key(id) {
            return true;
        }
        lock(&registry.broad.inboxes).values().any(|inbox| inbox.accepts(id, kind, owner))
    }

    fn watched(&self) -> Vec<JobId> {
        self.registry().by_id.keys().cloned().collect()
    }

    fn on_gap(&self) {
        let broad = self.registry().broad.clone();
        lock(&broad.inboxes).values().for_each(|inbox| inbox.overflow());
    }
}

impl Measured for Hub {
    fn metrics(&self) -> Metrics {
        vec![Box::new(self.skipped.clone())]
    }
}

/// The subscription of one stream; ends when it is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    key: u64,
    ids: Vec<JobId>,
    inbox: Arc<Inbox>,
    is_watcher: bool,
}

impl Subscription {
    /// Counts the subscription among the open streams.
    pub fn as_watcher(mut self) -> Self {
        self.hub.registry().watchers += 1;
        self.is_watcher = true;
        self
    }

    /// Returns a position up to which all commits that concern this subscriber were taken, or are returned by the next
    /// [`take`](Self::take).
    pub fn delivered_until(&self) -> CommitPosition {
        self.hub.delivered_until()
    }

    /// Takes the changes since the last call, of each job once, in the order of their first change. Returns `None` if
    /// there were too many and the store has to be read; later changes are kept again.
    pub fn take(&self) -> Option<impl Iterator<Item = CoalescedChanges> + use<>> {
        self.inbox.take()
    }

    /// Counts revisions that were not sent to this subscriber.
    pub fn count_skipped(&self, revisions: i64) {
        if revisions > 0 {
            self.hub.skipped.inc_by(revisions.cast_unsigned());
        }
    }

    /// Waits until there is something to [`take`](Self::take). Only one task may wait at a time.
    pub async fn arrived(&self) {
        self.inbox.arrived().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self);
    }
}

/// Takes a lock, even if it is poisoned: its data is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
