//! What other replicas commit: hints, re-reading, and what shows that a hint was lost.
//!
//! Commits are counted in each partition, and a hint says which one it is of. A number that is missing, or a count that
//! is ahead of the hints for a while, shows a loss; so does a new subscription. After a loss, what is watched is read
//! again. Hints that come while a job is being read lead to one more reading of it, however many they are.

use std::{
    collections::VecDeque,
    mem::take,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{StreamExt, future::try_join_all};
use indexmap::IndexSet;
use redis::{Msg, RedisResult, Value, aio::PubSub, cmd, pipe};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    RedisStore,
    codec::Message,
    connect::jitter,
    keys::{EPOCH, PARTITIONS, Partition},
    list::read,
    pool::Fault,
    sentinel::Address,
};
use crate::{
    clock::Clock,
    domain::{JobId, TOMBSTONE_LIFE, Timestamp},
    store::{Hint, StorageMode},
};

/// How often the link, the clock and the counts are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// For how many looks a hint may be on its way.
const PATIENCE: usize = 2;

/// How many jobs are read again at a time.
const BATCH: usize = 200;

/// The longest pause between attempts to subscribe.
const MAX_PAUSE: Duration = Duration::from_secs(1);

/// What is known of other replicas' commits.
#[derive(Default)]
pub struct Feed {
    /// Jobs that are to be read again.
    hinted: Mutex<IndexSet<JobId>>,
    arrived: Notify,
    /// The number of the last commit that was heard of, in each partition.
    heard: Mutex<[i64; PARTITIONS]>,
    /// The subscription is not to be trusted any more.
    distrust: Notify,
    /// Until when a hint of this store's own commits may be the first that it hears of them, in microseconds.
    doubt_until: AtomicI64,
}

impl Feed {
    /// A write had no answer: it may be carried out yet.
    pub fn doubt(&self) {
        self.doubt_until.store(i64::MAX, Relaxed);
    }

    fn hinted(&self) -> MutexGuard<'_, IndexSet<JobId>> {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, [i64; PARTITIONS]> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_again(&self, ids: impl IntoIterator<Item = JobId>) {
        self.hinted().extend(ids);
        self.arrived.notify_one();
    }
}

/// The numbers of the last commits, by partition.
type Counts = [i64; PARTITIONS];

impl RedisStore {
    /// Follows what others commit, and looks after the link, for ever.
    pub async fn run(&self) {
        tokio::join!(self.follow(), self.read_hinted(), self.look_after());
    }

    async fn follow(&self) {
        let mut failures = 0;
        for turn in 0.. {
            match self.subscribe(turn).await {
                Ok(messages) => {
                    failures = 0;
                    self.listen(messages).await;
                    debug!("the subscription ended");
                }
                Err(error) => {
                    failures += 1;
                    debug!(%error, "no subscription");
                }
            }
            let pause = Duration::from_millis(10) * 2_u32.saturating_pow(failures);
            sleep(jitter(pause.min(MAX_PAUSE))).await;
        }
    }

    /// Subscribes. What was committed before counts as missed.
    async fn subscribe(&self, turn: usize) -> RedisResult<PubSub> {
        let channels: Vec<_> = Partition::all().map(|partition| self.keys.changes(partition)).collect();
        let messages = self.connector.subscribe(&channels, turn).await?;
        let counts = self.commits().await.map_err(Fault::into_error)?;
        *self.feed.heard() = counts;
        self.missed(|_| true);
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
        let Some((number, hint)) = Message::decode(message.get_payload_bytes()) else {
            debug!("a message that is no hint");
            return;
        };
        let lost = {
            let heard = &mut self.feed.heard()[partition.index()];
            let lost = number > *heard + 1;
            *heard = number.max(*heard);
            lost
        };
        if lost {
            self.missed(|other| other == partition);
        }
        let Some(id) = JobId::parse(&hint.id) else { return };
        let own = hint.by == self.by && !self.is_in_doubt();
        if !own && self.listener.wants(&Hint { id: &id, kind: &hint.kind, owner: &hint.owner }) {
            self.feed.read_again([id]);
        }
    }

    /// Whether a write of this store without an answer may still come to light.
    fn is_in_doubt(&self) -> bool {
        let until = self.feed.doubt_until.load(Relaxed);
        until > 0 && until > self.clock.now().as_micros()
    }

    /// Hints of the partitions that `lost` holds for may not have come.
    fn missed(&self, lost: impl Fn(Partition) -> bool) {
        self.feed.read_again(self.listener.watched().into_iter().filter(|id| lost(Partition::of(id))));
        self.listener.missed();
    }

    async fn read_hinted(&self) {
        loop {
            self.feed.arrived.notified().await;
            loop {
                let ids: Vec<_> = {
                    let mut hinted = self.feed.hinted();
                    let rest = hinted.len().saturating_sub(BATCH);
                    if rest == 0 { take(&mut *hinted) } else { hinted.drain(rest..).collect() }
                }
                .into_iter()
                .collect();
                if ids.is_empty() {
                    break;
                }
                if let Ok(jobs) = self.read_many(ids.iter()).await {
                    for (job, _) in jobs {
                        self.announce(super::stored(job), None);
                    }
                } else {
                    self.feed.hinted().extend(ids);
                    sleep(jitter(LOOK)).await;
                }
            }
        }
    }

    /// Looks after the link: whether Redis answers, its clock, its data set, and hints that were lost.
    async fn look_after(&self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: VecDeque<Counts> = VecDeque::new();
        let mut master = None;
        loop {
            ticks.tick().await;
            self.look_for_master(&mut master).await;
            let heard = *self.feed.heard();
            match self.look().await {
                Ok(counts) => {
                    self.link_is(StorageMode::Redis);
                    let went_back = counts.iter().zip(heard).any(|(count, heard)| *count < heard);
                    let overdue = before.front().filter(|_| before.len() == PATIENCE);
                    if went_back || overdue.is_some_and(|due| due.iter().zip(heard).any(|(due, heard)| *due > heard)) {
                        debug!("hints were lost");
                        before.clear();
                        self.feed.distrust.notify_one();
                    } else {
                        before.truncate(PATIENCE);
                        if before.len() == PATIENCE {
                            before.pop_front();
                        }
                        before.push_back(counts);
                    }
                }
                Err(fault) => {
                    debug!(?fault, "the look at Redis failed");
                    self.link_is(StorageMode::Degraded);
                }
            }
        }
    }

    /// Follows the sentinels to another master. The one before may go on for seconds, and take writes that are lost.
    async fn look_for_master(&self, master: &mut Option<Address>) {
        let Some(named) = self.connector.named_master().await else { return };
        let before = master.replace(named.clone());
        if before.is_some_and(|before| before != named) {
            info!(redis = %self.target, host = named.0, port = named.1, "the sentinels name another master");
            self.pool.renew();
            self.reads.renew();
            self.feed.distrust.notify_one();
        }
    }

    /// Sets the clock by Redis and reads which data set this is. Returns the counts of commits.
    pub(super) async fn look(&self) -> Result<Counts, Fault> {
        let asked = self.clock.now();
        let (seconds, micros): (i64, i64) = self.reads.query(&cmd("TIME")).await?;
        let way = self.clock.now().since(asked) / 2;
        self.clock.steer(Timestamp::from_micros(seconds * 1_000_000 + micros) + way);
        if self.feed.doubt_until.load(Relaxed) == i64::MAX {
            let until = self.clock.now() + TOMBSTONE_LIFE;
            self.feed.doubt_until.store(until.as_micros(), Relaxed);
        }
        self.epoch.store(self.read_epoch().await?, Relaxed);
        self.commits().await
    }

    async fn read_epoch(&self) -> Result<u64, Fault> {
        let fresh = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let there: Option<String> = self.reads.query(cmd("GET").arg(EPOCH)).await?;
        let there = if let Some(there) = there {
            there
        } else {
            // Of replicas that find nothing at the same time, one names the data set.
            self.reads.query::<Value>(cmd("SET").arg(EPOCH).arg(&fresh).arg("NX")).await?;
            self.reads.query(cmd("GET").arg(EPOCH)).await?
        };
        Ok(u64::from_str_radix(&there, 16).unwrap_or_default())
    }

    async fn commits(&self) -> Result<Counts, Fault> {
        let of = |partition| async move {
            let mut commands = pipe();
            commands.get(self.keys.commits(partition));
            let answers = self.reads.query_all(&mut commands).await?;
            let count: Option<i64> = answers.into_iter().next().map(read).transpose()?.flatten();
            Ok::<_, Fault>(count.unwrap_or_default())
        };
        let counts = try_join_all(Partition::all().map(of)).await?;
        Ok(std::array::from_fn(|partition| counts[partition]))
    }

    /// Tells the state of the link, once for each change.
    pub(super) fn link_is(&self, mode: StorageMode) {
        let changed = self.mode.send_if_modified(|known| std::mem::replace(known, mode) != mode);
        match mode {
            _ if !changed => {}
            StorageMode::Redis => info!(redis = %self.target, "Redis answers"),
            _ => warn!(redis = %self.target, "Redis does not answer; trying again"),
        }
    }
}
