//! What other replicas commit: hints, re-reading, and what shows that a hint was lost.
//!
//! Commits are counted in each partition, and a hint says which one it is of. A number that is missing, or a count that
//! is ahead of the hints for a while, shows a loss; so does a new subscription. After a loss, what is watched is read
//! again. Hints that come while a job is being read lead to one more reading of it, however many they are.

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

/// How often the link, the clock and the counts are looked at.
pub(super) const LOOK: Duration = Duration::from_millis(250);

/// How many jobs are read again at a time.
const BATCH: usize = 200;

/// A subscription that lasted this long was a good one.
const SETTLED: Duration = Duration::from_secs(5);

/// The longest pause between attempts to subscribe.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What is known of other replicas' commits.
#[derive(Default)]
pub struct Feed {
    /// Jobs that are to be read again.
    hinted: Mutex<IndexSet<JobId>>,
    arrived: Notify,
    /// The number of the last commit that was heard of, in each partition; `None`: not known.
    heard: Mutex<Counts>,
    /// A subscription was tried at least once.
    tried: watch::Sender<bool>,
    /// The subscription is not to be trusted any more.
    pub(super) distrust: Notify,
    /// The link is to be looked at now.
    pub(super) look: Notify,
    /// Until when a hint of this store's own commits may be the first that it hears of them, in microseconds.
    doubt_until: AtomicI64,
}

impl Feed {
    /// A write to a job had no answer, or nobody waited for it: it may have been carried out, or may be yet.
    pub fn doubt(&self, id: &JobId) {
        self.doubt_until.store(i64::MAX, Relaxed);
        self.read_again([id.clone()]);
    }

    /// Redis answers again: what was sent before comes to light by then, or not at all.
    pub(super) fn doubt_ends(&self, then: Timestamp) {
        _ = self.doubt_until.compare_exchange(i64::MAX, then.as_micros(), Relaxed, Relaxed);
    }

    fn hinted(&self) -> MutexGuard<'_, IndexSet<JobId>> {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn heard(&self) -> MutexGuard<'_, Counts> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes some of what is to be read again, by partition.
    fn take_hinted(&self) -> Option<Vec<Vec<JobId>>> {
        let mut hinted = self.hinted();
        let some = hinted.len().min(BATCH);
        let mut parts = vec![Vec::new(); PARTITIONS];
        for id in hinted.drain(..some) {
            parts[Partition::of(&id).index()].push(id);
        }
        parts.retain(|part| !part.is_empty());
        (!parts.is_empty()).then_some(parts)
    }

    fn read_again(&self, ids: impl IntoIterator<Item = JobId>) {
        self.hinted().extend(ids);
        self.arrived.notify_one();
    }
}

/// The numbers of the last commits, by partition; `None`: it does not answer.
pub(super) type Counts = [Option<i64>; PARTITIONS];

impl RedisStore {
    /// Follows what others commit, and looks after the link, for ever.
    pub async fn run(&self) {
        tokio::join!(
            self.follow(),
            self.read_hinted(),
            self.look_after(),
            self.pool.look_after(),
            self.bulk.look_after(),
            self.pulse.look_after()
        );
    }

    /// Waits until it hears what others commit, if it can: a stream that begins before would soon have to start over.
    pub async fn settle(&self) {
        _ = timeout(SETTLED, self.feed.tried.subscribe().wait_for(|tried| *tried)).await;
    }

    async fn follow(&self) {
        let mut failures = 0;
        for turn in 0.. {
            // What was found out about the subscription before this one.
            _ = self.feed.distrust.notified().now_or_never();
            let started = Instant::now();
            match self.subscribe(turn).await {
                Ok(messages) => {
                    self.listen(messages).await;
                    self.feed.look.notify_one();
                }
                Err(error) => debug!(%error, "no subscription"),
            }
            self.feed.tried.send_replace(true);
            // Each new one has everything read again that is watched.
            failures = if started.elapsed() > SETTLED { 0 } else { failures + 1 };
            let pause = Duration::from_millis(10) * 2_u32.saturating_pow(failures);
            sleep(jitter(pause.min(MAX_PAUSE))).await;
        }
    }

    /// Subscribes. What was committed before counts as missed.
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
            debug!("a message that is no hint");
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

    /// Whether a write of this store without an answer may still come to light.
    fn is_in_doubt(&self) -> bool {
        let until = self.feed.doubt_until.load(Relaxed);
        until > 0 && until > self.clock.now().as_micros()
    }

    /// Hints of the partitions that `lost` holds for may not have come.
    pub(super) fn missed(&self, lost: impl Fn(Partition) -> bool) {
        self.feed.read_again(self.listener.watched().into_iter().filter(|id| lost(Partition::of(id))));
        self.listener.missed();
    }

    async fn read_hinted(&self) {
        loop {
            self.feed.arrived.notified().await;
            while let Some(parts) = self.feed.take_hinted() {
                // What can't be read must not hold up the rest: in a cluster it may be on a node that is lost.
                let failed: Vec<_> = join_all(parts.into_iter().map(|ids| self.announce_all(ids))).await;
                let failed: Vec<_> = failed.into_iter().flatten().collect();
                if !failed.is_empty() {
                    self.feed.hinted().extend(failed);
                    sleep(jitter(LOOK)).await;
                }
            }
        }
    }

    /// Reads jobs and announces them. Returns the ids if they can't be read.
    async fn announce_all(&self, ids: Vec<JobId>) -> Vec<JobId> {
        let Ok(records) = self.read_many(&ids, View::Full).await else { return ids };
        for stored in records.into_iter().filter_map(Record::found) {
            self.announce(stored, None);
        }
        Vec::new()
    }
}
