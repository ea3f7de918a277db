//! The subscription to the commits of other replicas: receiving notifications, and reading the jobs again.
//!
//! A new subscription counts as a loss of notifications. Notifications of a job that arrive while it is being read
//! cause one more read, however many they are.

use std::{sync::Arc, time::Duration};

use futures_util::{FutureExt, StreamExt, future::join_all};
use redis::{Msg, RedisResult, aio::PubSub};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tracing::debug;

use super::{
    client::Client,
    feed::{Feed, StaleJobs},
    probe::{PROBE_INTERVAL, Prober},
    read::Reader,
    schema::{
        codec::{NotificationContent, ReceivedNotification},
        keys::Partition,
    },
};
use crate::{
    domain::{JobId, View},
    store::{ChangeNotification, Record, jitter},
};

/// Minimum duration of a subscription that resets the pause between attempts; also the maximum wait for the first
/// attempt.
const STABLE_TIME: Duration = Duration::from_secs(5);

/// Maximum pause between attempts to subscribe.
const PAUSE_MAX: Duration = Duration::from_secs(1);

/// Receives the commits of other replicas.
pub struct Subscriber {
    client: Arc<Client>,
    feed: Arc<Feed>,
    prober: Arc<Prober>,
    reader: Arc<Reader>,
    /// At least one subscription was attempted.
    tried: watch::Sender<bool>,
}

impl Subscriber {
    /// Creates a subscriber that passes notifications to `feed`, reads the changed jobs with `reader`, and announces
    /// them through `feed`.
    pub fn new(client: Arc<Client>, feed: Arc<Feed>, prober: Arc<Prober>, reader: Arc<Reader>) -> Self {
        Self { client, feed, prober, reader, tried: watch::Sender::new(false) }
    }

    /// Receives notifications, and reads the jobs again. Never returns.
    pub async fn run(&self) {
        tokio::join!(self.subscribe_loop(), join_all(self.feed.stale().iter().map(|stale| self.read_stale(stale))));
    }

    /// Waits until the first attempt to subscribe has ended, at most [`STABLE_TIME`]: a stream that begins before the
    /// subscription would soon have to start over.
    pub async fn wait_until_subscribed(&self) {
        _ = timeout(STABLE_TIME, self.tried.subscribe().wait_for(|tried| *tried)).await;
    }

    async fn subscribe_loop(&self) {
        let mut failures = 0;
        for turn in 0.. {
            // Discards a request for a new subscription that concerned the former one.
            _ = self.feed.gap_suspected().now_or_never();
            let started = Instant::now();
            match self.subscribe(turn).await {
                Ok(messages) => {
                    self.listen(messages).await;
                    self.prober.request();
                }
                Err(error) => debug!(%error, "subscribing to notifications failed"),
            }
            self.tried.send_replace(true);
            // Each new subscription causes all watched jobs to be read again, so attempts become rarer.
            failures = if started.elapsed() > STABLE_TIME { 0 } else { failures + 1 };
            let pause = Duration::from_millis(10) * 2_u32.saturating_pow(failures);
            sleep(jitter(pause.min(PAUSE_MAX))).await;
        }
    }

    /// Subscribes. The notifications of earlier commits count as lost.
    async fn subscribe(&self, turn: usize) -> RedisResult<PubSub> {
        let channels: Vec<_> = Partition::all().map(|partition| self.client.keys().changes(partition)).collect();
        let messages = self.client.connector().subscribe(&channels, turn).await?;
        let before = self.prober.known();
        let counts = self.prober.commits().await;
        self.prober.detect_losses(&before, &counts);
        self.feed.set_counts(counts);
        self.feed.recover_gap(|_| true);
        self.tried.send_replace(true);
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
                () = self.feed.gap_suspected() => return,
            }
        }
    }

    fn receive(&self, message: &Msg) {
        for notification in ReceivedNotification::parse_all(message.get_payload_bytes()) {
            if let Some(notification) = notification {
                self.receive_one(&notification);
            } else {
                debug!("ignored a line that is not a notification");
            }
        }
    }

    fn receive_one(&self, &ReceivedNotification { number, partition, by, message }: &ReceivedNotification<'_>) {
        if self.feed.count_notified(partition, number) {
            self.feed.recover_gap(|other| other == partition);
        }
        let own = by == self.client.process();
        if own && !self.feed.is_in_doubt() {
            return;
        }
        let Some(NotificationContent { id, rev, kind, owner, .. }) = NotificationContent::decode(message) else {
            return;
        };
        let Some(id) = JobId::parse(&id) else { return };
        self.feed.notify(&ChangeNotification { id: &id, revision: rev, kind: &kind, owner: &owner, own });
    }

    /// Reads and announces the jobs of one partition that must be read again; never returns. Each partition has its
    /// own loop: in a cluster the node of one may be lost, and the others must not wait for it.
    async fn read_stale(&self, stale: &StaleJobs) {
        loop {
            let arrived = stale.arrived();
            let ids = stale.take();
            if ids.is_empty() {
                arrived.await;
                continue;
            }
            let Ok(records) = self.reader.read_many(&ids, View::Full).await else {
                stale.put_back(ids);
                sleep(jitter(PROBE_INTERVAL)).await;
                continue;
            };
            for stored in records.into_iter().filter_map(Record::found) {
                self.feed.announce(stored, None);
            }
        }
    }
}
