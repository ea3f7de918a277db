//! Who watches what, and the way of a change from the store to them.

use std::{
    collections::HashMap,
    future::poll_fn,
    mem::take,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use indexmap::{IndexMap, map::Entry};
use tokio::{sync::Notify, task::yield_now};

use super::Conflated;
use crate::{
    domain::{Filter, JobId},
    store::{ChangeNotification, CommitEvent, Listener},
    telemetry::metrics::{Counter, Measured, Metrics, counter},
};

/// How many jobs a subscription keeps changes of; behind by more, it has to ask the store.
const MAX_BEHIND: usize = 10_000;

/// Maximum size of the changes of several jobs that a subscription keeps, in bytes: what is deleted meanwhile occupies
/// memory for it alone. Jobs without documents come to their number first.
const MAX_BEHIND_BYTES: usize = 64 * 1024 * 1024;

/// After how many offers the dispatcher gives others their turn.
const TURN: usize = 1000;

/// Hands what a store announces to those who watch it.
pub struct Hub {
    registry: Mutex<Registry>,
    /// Wakes the dispatcher.
    announced: Notify,
    skipped: Counter,
}

impl Default for Hub {
    fn default() -> Self {
        let skipped = counter(
            "jobtrack_watch_revisions_skipped_total",
            "Revisions that watchers were not sent, as a newer one had overtaken them.",
        );
        Self { registry: Mutex::default(), announced: Notify::new(), skipped }
    }
}

#[derive(Default)]
struct Registry {
    by_id: HashMap<JobId, Arc<Topic>>,
    /// Those who watch jobs of any id.
    broad: Arc<Topic>,
    broad_count: usize,
    watchers: usize,
    last_key: u64,
    /// What was announced of watched jobs since the dispatcher last looked.
    pending: IndexMap<JobId, Conflated>,
    /// The dispatcher has taken what was pending, and not handed out all of it yet.
    handing_out: bool,
    /// The place of the last commit that was announced.
    announced: u64,
    /// All that was announced up to here has been handed out.
    handed_out: u64,
}

/// Those who watch the same.
#[derive(Default)]
struct Topic {
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
}

impl Hub {
    /// Hands out announcements, for ever.
    pub async fn dispatch(&self) {
        loop {
            self.announced.notified().await;
            self.hand_out().await;
        }
    }

    /// Watches the jobs `ids`, or those of any id if there are none, as far as `filter` can match them in some condition.
    pub fn subscribe(self: &Arc<Self>, ids: Vec<JobId>, filter: Filter) -> Subscription {
        let inbox = Arc::new(Inbox { filter, state: Mutex::default() });
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

    /// How many streams are open.
    pub fn watchers(&self) -> usize {
        self.registry().watchers
    }

    async fn hand_out(&self) {
        let (pending, broad, announced) = {
            let mut registry = self.registry();
            registry.handing_out = true;
            let pending: Vec<_> = take(&mut registry.pending)
                .into_iter()
                .map(|(id, changes)| (registry.by_id.get(&id).cloned(), changes))
                .collect();
            (pending, registry.broad.clone(), registry.announced)
        };
        let mut offers = 0;
        for (topic, changes) in pending {
            offers += topic.map_or(0, |topic| topic.offer(&changes)) + broad.offer(&changes);
            if offers >= TURN {
                offers = 0;
                yield_now().await;
            }
        }
        let mut registry = self.registry();
        registry.handing_out = false;
        registry.handed_out = announced;
    }

    /// All commits up to here that concern a subscriber have reached its inbox.
    fn reached(&self) -> u64 {
        let registry = self.registry();
        let idle = registry.pending.is_empty() && !registry.handing_out;
        if idle { registry.announced } else { registry.handed_out }
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
            lock(&registry.broad.inboxes).remove(&subscription.key);
        }
    }

    fn registry(&self) -> MutexGuard<'_, Registry> {
        lock(&self.registry)
    }
}

impl Listener for Hub {
    fn changed(&self, announcement: CommitEvent) {
        let mut registry = self.registry();
        registry.announced = announcement.position;
        let id = &announcement.stored.job.id;
        // What is pending must not be handed out as the newest after it has become old.
        let pending = registry.pending.contains_key(id);
        if registry.broad_count == 0 && !pending && !registry.by_id.contains_key(id) {
            return;
        }
        match registry.pending.entry(id.clone()) {
            Entry::Occupied(mut entry) => entry.get_mut().push(announcement),
            Entry::Vacant(entry) => _ = entry.insert(Conflated::new(announcement)),
        }
        drop(registry);
        self.announced.notify_one();
    }

    fn hinted(&self, hint: &ChangeNotification<'_>) -> bool {
        let registry = self.registry();
        if registry.by_id.contains_key(hint.id) || registry.pending.contains_key(hint.id) {
            return true;
        }
        lock(&registry.broad.inboxes).values().any(|inbox| inbox.filter.matches_names(hint.id, hint.kind, hint.owner))
    }

    fn watched(&self) -> Vec<JobId> {
        self.registry().by_id.keys().cloned().collect()
    }

    fn missed(&self) {
        let broad = self.registry().broad.clone();
        lock(&broad.inboxes).values().for_each(|inbox| inbox.overflow());
    }
}

impl Measured for Hub {
    fn metrics(&self) -> Metrics {
        vec![Box::new(self.skipped.clone())]
    }
}

impl Topic {
    /// Returns to how many.
    fn offer(&self, changes: &Conflated) -> usize {
        // The lock is not held while handing out: writers wait for those who come and go, who wait for it.
        let inboxes: Vec<_> = lock(&self.inboxes).values().cloned().collect();
        for inbox in &inboxes {
            inbox.offer(changes);
        }
        inboxes.len()
    }
}

/// What one subscriber has not taken yet.
struct Inbox {
    filter: Filter,
    state: Mutex<InboxState>,
}

#[derive(Default)]
struct InboxState {
    changes: Waiting,
    overflowed: bool,
    /// The subscriber, if it waits.
    waker: Option<Waker>,
}

/// Changes of each job once, in the order of their first change. Mostly there is one job.
#[derive(Default)]
struct Waiting {
    first: Option<Conflated>,
    others: IndexMap<JobId, Conflated>,
    /// Size of the others.
    bytes: usize,
}

impl Waiting {
    fn push(&mut self, changes: &Conflated) {
        let id = &changes.latest().id;
        match &mut self.first {
            None => self.first = Some(changes.clone()),
            Some(first) if first.latest().id == *id => first.append(changes.clone()),
            Some(_) => match self.others.entry(id.clone()) {
                Entry::Occupied(mut entry) => {
                    self.bytes -= entry.get().size();
                    entry.get_mut().append(changes.clone());
                    self.bytes += entry.get().size();
                }
                Entry::Vacant(entry) => {
                    self.bytes += changes.size();
                    entry.insert(changes.clone());
                }
            },
        }
    }

    fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    /// Whether it is more than a subscription keeps.
    fn is_too_much(&self) -> bool {
        self.len() > MAX_BEHIND || self.bytes > MAX_BEHIND_BYTES
    }

    fn into_values(self) -> impl Iterator<Item = Conflated> {
        self.first.into_iter().chain(self.others.into_values())
    }
}

impl InboxState {
    /// From now on nothing is kept: the store has to be asked.
    fn overflow(&mut self) {
        self.changes = Waiting::default();
        self.overflowed = true;
    }

    fn is_empty(&self) -> bool {
        self.changes.len() == 0 && !self.overflowed
    }
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
        state.changes.push(changes);
        if state.changes.is_too_much() {
            state.overflow();
        }
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Something is not here that should be: the store has to be asked.
    fn overflow(&self) {
        let mut state = lock(&self.state);
        state.overflow();
        let waker = state.waker.take();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }
}

/// A place among those who watch, given up when it is dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    key: u64,
    ids: Vec<JobId>,
    inbox: Arc<Inbox>,
    is_watcher: bool,
}

impl Subscription {
    /// The same, counted among the open streams.
    pub fn as_watcher(mut self) -> Self {
        self.hub.registry().watchers += 1;
        self.is_watcher = true;
        self
    }

    /// All commits up to here that concern this subscriber are in what was taken, or in what the next
    /// [`take`](Self::take) gives.
    pub fn reached(&self) -> u64 {
        self.hub.reached()
    }

    /// What came since the last call, of each job once, in the order of their first change. `None`: it was too much to
    /// be kept, and the store has to be asked; what comes from now on is kept again.
    pub fn take(&self) -> Option<impl Iterator<Item = Conflated> + use<>> {
        let mut state = lock(&self.inbox.state);
        let (changes, overflowed) = (take(&mut state.changes), take(&mut state.overflowed));
        drop(state);
        (!overflowed).then(|| changes.into_values())
    }

    /// So many revisions were passed over in what this subscriber is sent.
    pub fn skip(&self, revisions: i64) {
        if revisions > 0 {
            self.hub.skipped.inc_by(revisions.cast_unsigned());
        }
    }

    /// Waits until something has come since the last [`take`](Self::take). Only one may wait.
    pub async fn arrived(&self) {
        poll_fn(|context| {
            let mut state = lock(&self.inbox.state);
            if !state.is_empty() {
                return Poll::Ready(());
            }
            match &mut state.waker {
                Some(waker) => waker.clone_from(context.waker()),
                waker => *waker = Some(context.waker().clone()),
            }
            Poll::Pending
        })
        .await;
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
