//! Notifications of the commits of other replicas: receiving them, reading the jobs again, and detecting losses.
//!
//! Commits are numbered in each partition, and a notification contains the number of its commit. A missing number, or a
//! count that is ahead of the notifications for a while, shows a loss; a new subscription counts as one. After a loss,
//! all watched jobs are read again. Notifications of a job that arrive while it is being read cause one more read,
//! however many they are.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use indexmap::IndexSet;
use redis::{Msg, RedisResult, aio::PubSub};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    RedisStore,
    schema::{
        codec::{Message, ReceivedNotification},
        keys::{PARTITIONS, Partition},
    },
};
use crate::{
    clock::Clock,
    domain::{JobId, Timestamp, View},
    store::{ChangeNotification, Record, jitter},
};

/// Interval between probes of the connection, the clock and the counts of commits.
pub(super) const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Maximum number of jobs of a partition that are read again at a time.
const BATCH: usize = 50;

/// Minimum duration of a subscription that resets the pause between attempts; also the maximum wait for the first
/// attempt.
const STABLE_TIME: Duration = Duration::from_secs(5);

/// Maximum pause between attempts to subscribe.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// The state of the notifications of commits.
#[derive(Default)]
pub struct Feed {
    /// Jobs that must be read again, by partition.
    stale: [StaleJobs; PARTITIONS],
    /// Number of the last known commit in each partition; `None` if it is unknown.
    known_counts: Mutex<Counts>,
    /// At least one subscription was attempted.
    tried: watch::Sender<bool>,
    /// Requests a new subscription, which replaces the current one.
    pub(super) gap_suspected: Notify,
    /// Requests a probe now.
    pub(super) probe_requested: Notify,
    /// Time until when the notification of an own commit may be the first sign of it, in microseconds: see
    /// [`doubt`](Self::doubt).
    doubt_until: AtomicI64,
}

/// Jobs of one partition that must be read again.
#[derive(Default)]
struct StaleJobs {
    ids: Mutex<IndexSet<JobId>>,
    arrived: Notify,
}

impl StaleJobs {
    fn ids(&self) -> MutexGuard<'_, IndexSet<JobId>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a batch, which is empty if there are none.
    fn take(&self) -> Vec<JobId> {
        let mut ids = self.ids();
        let some = ids.len().min(BATCH);
        ids.drain(..some).collect()
    }
}

impl Feed {
    /// Records that a write to a job had no answer, or that its caller did not wait for it: it may have been executed,
    /// or may be later.
    pub fn doubt(&self, id: &JobId) {
        self.doubt_until.store(i64::MAX, Relaxed);
        self.read_again([id.clone()]);
    }

    /// Records that Redis answers again: earlier writes take effect by `then`, or not at all.
    pub(super) fn doubt_ends(&self, then: Timestamp) {
        _ = self.doubt_until.compare_exchange(i64::MAX, then.as_micros(), Relaxed, Relaxed);
    }

    /// Returns the number of the last known commit in each partition.
    pub(super) fn known_counts(&self) -> MutexGuard<'_, Counts> {
        self.known_counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self, ids: impl IntoIterator<Item = JobId>) {
        for id in ids {
            let stale = &self.stale[Partition::of(&id).index()];
            stale.ids().insert(id);
            stale.arrived.notify_one();
        }
    }
}

/// The numbers of the last commits, by partition; `None` for a partition that does not answer.
pub(super) type Counts = [Option<i64>; PARTITIONS];

impl RedisStore {
    /// Runs the subscription to the commits of other replicas, the monitor, and the maintenance of connections. Never
    /// returns.
    pub async fn run(&self) {
        tokio::join!(
            self.subscribe_loop(),
            join_all(self.feed.stale.iter().map(|stale| self.read_stale(stale))),
            self.monitor_loop(),
            self.check_later(),
            self.pool.maintain(),
            self.bulk.maintain(),
            self.pulse.maintain()
        );
    }

    /// Waits until notifications arrive, if possible: a stream that begins earlier would soon have to start over.
    pub async fn wait_until_subscribed(&self) {
        _ = timeout(STABLE_TIME, self.feed.tried.subscribe().wait_for(|tried| *tried)).await;
    }

    async fn subscribe_loop(&self) {
        let mut failures = 0;
        for turn in 0.. {
            // Discards a request that concerned the former subscription.
            _ = self.feed.gap_suspected.notified().now_or_never();
            let started = Instant::now();
            match self.subscribe(turn).await {
                Ok(messages) => {
                    self.listen(messages).await;
                    self.feed.probe_requested.notify_one();
                }
                Err(error) => debug!(%error, "subscribing to notifications failed"),
            }
            self.feed.tried.send_replace(true);
            // Each new subscription causes all watched jobs to be read again, so attempts become rarer.
            failures = if started.elapsed() > STABLE_TIME { 0 } else { failures + 1 };
            let pause = Duration::from_millis(10) * 2_u32.saturating_pow(failures);
            sleep(jitter(pause.min(PAUSE_MAX))).await;
        }
    }

    /// Subscribes. The notifications of earlier commits count as lost.
    async fn subscribe(&self, turn: usize) -> RedisResult<PubSub> {
        let channels: Vec<_> = Partition::all().map(|partition| self.keys.changes(partition)).collect();
        let messages = self.connector.subscribe(&channels, turn).await?;
        let before = *self.feed.known_counts();
        let counts = self.commits().await;
        self.detect_losses(&before, &counts);
        *self.feed.known_counts() = counts;
        self.recover_gap(|_| true);
        self.feed.tried.send_replace(true);
        Ok(messages)
    }

    async fn listen(&self, mut messages: PubSub) {
        let mut messages = messages.on_message();
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.receive(&message),
                    None => return,
                },
                () = self.feed.gap_suspected.notified() => return,
            }
        }
    }

    fn receive(&self, message: &Msg) {
        let Some(partition) = self.keys.partition_of_channel(message.get_channel_name()) else { return };
        let Some(ReceivedNotification { number, by, message }) =
            ReceivedNotification::parse(message.get_payload_bytes())
        else {
            debug!("ignored a message that is not a notification");
            return;
        };
        let is_gap = {
            let known = &mut self.feed.known_counts()[partition.index()];
            let is_gap = known.is_none_or(|known| number > known + 1);
            *known = (*known).max(Some(number));
            is_gap
        };
        if is_gap {
            self.recover_gap(|other| other == partition);
        }
        let own = by == self.by;
        if own && !self.is_in_doubt() {
            return;
        }
        let Some(Message { id, rev, kind, owner, .. }) = Message::decode(message) else { return };
        let Some(id) = JobId::parse(&id) else { return };
        let notification = ChangeNotification { id: &id, revision: rev, kind: &kind, owner: &owner, own };
        if self.listener.on_notification(&notification) {
            self.feed.read_again([id]);
        }
    }

    /// Returns whether a write of this store without an answer may still take effect.
    fn is_in_doubt(&self) -> bool {
        let until = self.feed.doubt_until.load(Relaxed);
        until > 0 && until > self.clock.now().as_micros()
    }

    /// Handles a gap in the notifications of the partitions for which `has_gap` holds: watched jobs are read again.
    pub(super) fn recover_gap(&self, has_gap: impl Fn(Partition) -> bool) {
        self.feed.read_again(self.listener.watched().into_iter().filter(|id| has_gap(Partition::of(id))));
        self.listener.on_gap();
    }

    /// Reads and announces the jobs of one partition that must be read again; never returns. Each partition has its
    /// own loop: in a cluster the node of one may be lost, and the others must not wait for it.
    async fn read_stale(&self, stale: &StaleJobs) {
        loop {
            let arrived = stale.arrived.notified();
            let ids = stale.take();
            if ids.is_empty() {
                arrived.await;
                continue;
            }
            let Ok(records) = self.read_many(&ids, View::Full).await else {
                stale.ids().extend(ids);
                sleep(jitter(PROBE_INTERVAL)).await;
                continue;
            };
            for stored in records.into_iter().filter_map(Record::found) {
                self.announce(stored, None);
            }
        }
    }
}
