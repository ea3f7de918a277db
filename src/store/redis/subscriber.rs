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
        codec::{Message, Received},
        keys::{PARTITIONS, Partition},
    },
};
use crate::{
    clock::Clock,
    domain::{JobId, Timestamp, View},
    store::{ChangeNotification, Record, jitter},
};

/// Interval between checks of the connection, the clock and the counts of commits.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// Maximum number of jobs of a partition that are read again at a time.
const BATCH: usize = 50;

/// Minimum duration of a subscription that resets the pause between attempts; also the maximum wait for the first
/// attempt.
const SETTLED: Duration = Duration::from_secs(5);

/// Maximum pause between attempts to subscribe.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// The state of the notifications of commits.
#[derive(Default)]
pub struct Feed {
    /// Jobs that must be read again, by partition.
    hinted: [Hinted; PARTITIONS],
    /// Number of the last known commit in each partition; `None` if it is unknown.
    heard: Mutex<Counts>,
    /// At least one subscription was attempted.
    tried: watch::Sender<bool>,
    /// Requests a new subscription in place of the current one.
    pub(super) distrust: Notify,
    /// Requests a check now.
    pub(super) look: Notify,
    /// Time until when the notification of an own commit may be the first sign of it, in microseconds: see
    /// [`doubt`](Self::doubt).
    doubt_until: AtomicI64,
}

/// Jobs of one partition that must be read again.
#[derive(Default)]
struct Hinted {
    ids: Mutex<IndexSet<JobId>>,
    arrived: Notify,
}

impl Hinted {
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

    /// Records that Redis answers again: earlier writes come to light by `then`, or not at all.
    pub(super) fn doubt_ends(&self, then: Timestamp) {
        _ = self.doubt_until.compare_exchange(i64::MAX, then.as_micros(), Relaxed, Relaxed);
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Counts> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self, ids: impl IntoIterator<Item = JobId>) {
        for id in ids {
            let hinted = &self.hinted[Partition::of(&id).index()];
            hinted.ids().insert(id);
            hinted.arrived.notify_one();
        }
    }
}

/// The numbers of the last commits, by partition; `None` for a partition that does not answer.
pub(super) type Counts = [Option<i64>; PARTITIONS];

impl RedisStore {
    /// Follows the commits of other replicas, and maintains the connections; never returns.
    pub async fn run(&self) {
        tokio::join!(
            self.follow(),
            join_all(self.feed.hinted.iter().map(|hinted| self.read_hinted(hinted))),
            self.look_after(),
            self.check_later(),
            self.pool.look_after(),
            self.bulk.look_after(),
            self.pulse.look_after()
        );
    }

    /// Waits until notifications arrive, if possible: a stream that begins earlier would soon have to start over.
    pub async fn settle(&self) {
        _ = timeout(SETTLED, self.feed.tried.subscribe().wait_for(|tried| *tried)).await;
    }

    async fn follow(&self) {
        let mut failures = 0;
        for turn in 0.. {
            // Discards a request that concerned the former subscription.
            _ = self.feed.distrust.notified().now_or_never();
            let started = Instant::now();
            match self.subscribe(turn).await {
                Ok(messages) => {
                    self.listen(messages).await;
                    self.feed.look.notify_one();
                }
                Err(error) => debug!(%error, "subscribing to notifications failed"),
            }
            self.feed.tried.send_replace(true);
            // Each new subscription causes all watched jobs to be read again, so attempts become rarer.
            failures = if started.elapsed() > SETTLED { 0 } else { failures + 1 };
            let pause = Duration::from_millis(10) * 2_u32.saturating_pow(failures);
            sleep(jitter(pause.min(MAX_PAUSE))).await;
        }
    }

    /// Subscribes. Earlier commits count as missed.
    async fn subscribe(&self, turn: usize) -> RedisResult<PubSub> {
        let channels: Vec<_> = Partition::all().map(|partition| self.keys.changes(partition)).collect();
        let messages = self.connector.subscribe(&channels, turn).await?;
        let heard = *self.feed.heard();
        let counts = self.commits().await;
        self.look_for_losses(&heard, &counts);
        *self.feed.heard() = counts;
        self.missed(|_| true);
        self.feed.tried.send_replace(true);
        Ok(messages)
    }

    async fn listen(&self, mut messages: PubSub) {
        let mut messages = messages.on_message();
        loop {
            tokio::select! {
                message = messages.next() => match message {
                    Some(message) => self.hear(&message),
                    None => return,
                },
                () = self.feed.distrust.notified() => return,
            }
        }
    }

    fn hear(&self, message: &Msg) {
        let Some(partition) = self.keys.partition_of_channel(message.get_channel_name()) else { return };
        let Some(Received { number, by, message }) = Received::parse(message.get_payload_bytes()) else {
            debug!("a message that is no notification");
            return;
        };
        let lost = {
            let heard = &mut self.feed.heard()[partition.index()];
            let lost = heard.is_none_or(|heard| number > heard + 1);
            *heard = (*heard).max(Some(number));
            lost
        };
        if lost {
            self.missed(|other| other == partition);
        }
        let own = by == self.by;
        if own && !self.is_in_doubt() {
            return;
        }
        let Some(hint) = Message::decode(message) else { return };
        let Some(id) = JobId::parse(&hint.id) else { return };
        let hint = ChangeNotification { id: &id, revision: hint.rev, kind: &hint.kind, owner: &hint.owner, own };
        if self.listener.hinted(&hint) {
            self.feed.read_again([id]);
        }
    }

    /// Returns whether a write of this store without an answer may still come to light.
    fn is_in_doubt(&self) -> bool {
        let until = self.feed.doubt_until.load(Relaxed);
        until > 0 && until > self.clock.now().as_micros()
    }

    /// Handles a loss of notifications in the partitions for which `lost` holds.
    pub(super) fn missed(&self, lost: impl Fn(Partition) -> bool) {
        self.feed.read_again(self.listener.watched().into_iter().filter(|id| lost(Partition::of(id))));
        self.listener.missed();
    }

    /// Reads and announces the jobs of one partition that must be read again; never returns. Each partition has its
    /// own loop: in a cluster the node of one may be lost, and the others must not wait for it.
    async fn read_hinted(&self, hinted: &Hinted) {
        loop {
            let arrived = hinted.arrived.notified();
            let ids = hinted.take();
            if ids.is_empty() {
                arrived.await;
                continue;
            }
            let Ok(records) = self.read_many(&ids, View::Full).await else {
                hinted.ids().extend(ids);
                sleep(jitter(LOOK)).await;
                continue;
            };
            for stored in records.into_iter().filter_map(Record::found) {
                self.announce(stored, None);
            }
        }
    }
}
