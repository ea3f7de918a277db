//! Who watches what, and the way of a change from the store to them.

use std::{
    collections::HashMap,
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use indexmap::{IndexMap, map::Entry};
use tokio::sync::Notify;

use super::Conflated;
use crate::{
    domain::{Filter, JobId},
    store::{Announcement, Listener},
};

/// How many jobs a subscription may be behind on until it starts over.
const MAX_BEHIND: usize = 10_000;

/// Hands what a store announces to those who watch it.
#[derive(Default)]
pub struct Hub {
    registry: Mutex<Registry>,
    /// Wakes the dispatcher.
    announced: Notify,
}

#[derive(Default)]
struct Registry {
    by_id: HashMap<JobId, Arc<Topic>>,
    /// Those who watch jobs of any id.
    broad: Arc<Topic>,
    broad_count: usize,
    count: usize,
    last_key: u64,
    /// What was announced of watched jobs since the dispatcher last looked.
    pending: IndexMap<JobId, Conflated>,
}

/// Those who watch the same.
#[derive(Default)]
struct Topic {
    /// Held while handing out; writers never wait for it.
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
}

impl Hub {
    /// Hands out announcements, for ever.
    pub async fn dispatch(&self) {
        loop {
            self.announced.notified().await;
            self.hand_out();
        }
    }

    /// Watches the jobs `ids`, or those of any id if there are none, as far as `filter` can match them in some state.
    pub fn subscribe(self: &Arc<Self>, ids: Vec<JobId>, filter: Filter) -> Subscription {
        let inbox = Arc::new(Inbox { filter, state: Mutex::default(), arrived: Notify::new() });
        let mut guard = self.registry();
        let registry = &mut *guard;
        registry.count += 1;
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
        Subscription { hub: self.clone(), key, ids, inbox }
    }

    /// How many subscriptions there are.
    pub fn watchers(&self) -> usize {
        self.registry().count
    }

    fn hand_out(&self) {
        let (pending, broad) = {
            let mut registry = self.registry();
            let pending: Vec<_> = take(&mut registry.pending)
                .into_iter()
                .map(|(id, changes)| (registry.by_id.get(&id).cloned(), changes))
                .collect();
            (pending, registry.broad.clone())
        };
        for (topic, changes) in pending {
            if let Some(topic) = topic {
                topic.offer(&changes);
            }
            broad.offer(&changes);
        }
    }

    fn unsubscribe(&self, subscription: &Subscription) {
        let mut guard = self.registry();
        let registry = &mut *guard;
        registry.count -= 1;
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
            lock(&registry.broad.inboxes).remove(&subscription.key);
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }
}

impl Listener for Hub {
    fn changed(&self, announcement: Announcement) {
        let mut registry = self.registry();
        let id = &announcement.stored.job.id;
        if registry.broad_count == 0 && !registry.by_id.contains_key(id) {
            return;
        }
        match registry.pending.entry(id.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().push(announcement),
            Entry::Vacant(entry) => _ = entry.insert(Conflated::new(announcement)),
        }
        drop(registry);
        self.announced.notify_one();
    }
}

impl Topic {
    fn offer(&self, changes: &Conflated) {
        for inbox in lock(&self.inboxes).values() {
            inbox.offer(changes);
        }
    }
}

/// What one subscriber has not taken yet.
struct Inbox {
    filter: Filter,
    state: Mutex<InboxState>,
    arrived: Notify,
}

#[derive(Default)]
struct InboxState {
    changes: IndexMap<JobId, Conflated>,
    overflowed: bool,
}

impl Inbox {
    fn offer(&self, changes: &Conflated) {
        if !changes.versions().any(|job| self.filter.matches_identity(job)) {
            return;
        }
        let mut state = lock(&self.state);
        if state.overflowed {
            return;
        }
        match state.changes.entry(changes.latest().id.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().append(changes.clone()),
            Entry::Vacant(entry) => _ = entry.insert(changes.clone()),
        }
        if state.changes.len() > MAX_BEHIND {
            *state = InboxState { overflowed: true, ..InboxState::default() };
        }
        drop(state);
        self.arrived.notify_one();
    }
}

/// A place among those who watch, given up when it is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    key: u64,
    ids: Vec<JobId>,
    inbox: Arc<Inbox>,
}

impl Subscription {
    /// What came since the last call, of each job once, in the order of their first change. `None`: it was too much to
    /// be kept, and the subscriber has to start over; what comes from now on is kept again.
    pub fn take(&self) -> Option<impl Iterator<Item = Conflated> + use<>> {
        let state = take(&mut *lock(&self.inbox.state));
        (!state.overflowed).then(|| state.changes.into_values())
    }

    /// Waits until something may have come since the last [`take`](Self::take).
    pub async fn arrived(&self) {
        self.inbox.arrived.notified().await;
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.unsubscribe(self);
    }
}

/// A lock that outlives a panic under it: what it guards is valid between any two statements.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
