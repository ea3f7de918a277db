//! What other replicas commit: hints, re-reading, and what shows that a hint was lost.
//!
//! Commits are counted in each partition, and a hint says which one it is of. A number that is missing, or a count that
//! is ahead of the hints for a while, shows a loss; so does a new subscription. After a loss, what is watched is read
//! again. Hints that come while a job is being read lead to one more reading of it, however many they are.

use std::{
    collections::VecDeque,
    mem::replace,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, future::join_all};
use indexmap::IndexSet;
use redis::{Msg, RedisResult, aio::PubSub, cmd};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, MissedTickBehavior, interval, sleep, timeout},
};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    RedisStore,
    codec::{Message, Received},
    keys::{EPOCH, PARTITIONS, Partition},
    pool::Fault,
    sentinel::Address,
};
use crate::{
    clock::Clock,
    domain::{JobId, TOMBSTONE_LIFE, Timestamp},
    store::{Hint, Record, StorageMode, StoreError, jitter},
};

/// How often the link, the clock and the counts are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// After how many looks in vain Redis counts as away.
const FAILURES: usize = 2;

/// Between how many looks the sentinels are asked.
const LOOKS_PER_MASTER: usize = 4;

/// For how many looks a hint may be on its way.
const LOOKS: usize = 8;

/// How many jobs are read again at a time.
const BATCH: usize = 200;

/// A subscription that lasted this long was a good one.
const SETTLED: Duration = Duration::from_secs(5);

/// How often what is watched is read again, whatever was heard.
const BACKSTOP: Duration = Duration::from_secs(5);

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
    distrust: Notify,
    /// The link is to be looked at now.
    look: Notify,
    /// How often commits that were heard of are known to have been lost.
    losses: AtomicU64,
    /// Until when a hint of this store's own commits may be the first that it hears of them, in microseconds.
    doubt_until: AtomicI64,
}

impl Feed {
    /// A write to a job had no answer, or nobody waited for it: it may have been carried out, or may be yet.
    pub fn doubt(&self, id: &JobId) {
        self.doubt_until.store(i64::MAX, Relaxed);
        self.read_again([id.clone()]);
    }

    /// How often commits that were heard of are known to have been lost.
    pub fn losses(&self) -> u64 {
        self.losses.load(Relaxed)
    }

    /// Redis answers again: what was sent before comes to light by then, or not at all.
    fn doubt_ends(&self, then: Timestamp) {
        _ = self.doubt_until.compare_exchange(i64::MAX, then.as_micros(), Relaxed, Relaxed);
    }

    fn hinted(&self) -> MutexGuard<'_, IndexSet<JobId>> {
        self.hinted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) -> MutexGuard<'_, Counts> {
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
type Counts = [Option<i64>; PARTITIONS];

impl RedisStore {
    /// Follows what others commit, and looks after the link, for ever.
    pub async fn run(&self) {
        tokio::join!(
            self.follow(),
            self.read_hinted(),
            self.look_after(),
            self.reread_watched(),
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
        let hint = Hint { id: &id, revision: hint.rev, kind: &hint.kind, owner: &hint.owner, own };
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
    fn missed(&self, lost: impl Fn(Partition) -> bool) {
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

    /// Reads what is watched again from time to time: a change of which nothing was heard is late then, and not lost.
    async fn reread_watched(&self) {
        loop {
            sleep(BACKSTOP).await;
            self.feed.read_again(self.listener.watched());
        }
    }

    /// Reads jobs and announces them. Returns the ids if they can't be read.
    async fn announce_all(&self, ids: Vec<JobId>) -> Vec<JobId> {
        let Ok(records) = self.read_many(&ids).await else { return ids };
        for stored in records.into_iter().filter_map(Record::found) {
            self.announce(stored, None);
        }
        Vec::new()
    }

    /// Looks after the link: whether Redis answers, its clock, its data set, and hints that were lost.
    async fn look_after(&self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: VecDeque<(Instant, Counts)> = VecDeque::new();
        let (mut master, mut failures) = (None, 0);
        let mut generation = self.connector.generation();
        for look in 0.. {
            tokio::select! {
                _ = ticks.tick() => {}
                () = self.feed.look.notified() => {}
            }
            if look % LOOKS_PER_MASTER == 0 {
                self.look_for_master(&mut master).await;
            }
            if replace(&mut generation, self.connector.generation()) != generation {
                // The server that the subscription is with may be another one than that of the commands.
                self.feed.distrust.notify_one();
            }
            let heard = *self.feed.heard();
            let begun = Instant::now();
            let (counts, outcome) = self.look().await;
            // A single answer may be late where much is on the way.
            failures = if outcome.is_ok() { 0 } else { failures + 1 };
            match outcome {
                Ok(()) => self.link_is(StorageMode::Redis),
                Err(StoreError::Unavailable) if failures < FAILURES => {}
                Err(_) => self.link_is(StorageMode::Degraded),
            }
            self.catch_up(&counts);
            let due = if before.len() < LOOKS { None } else { before.pop_front() };
            if due.is_some_and(|(_, due)| is_behind(&heard, &due)) {
                debug!("hints were lost");
                before.clear();
                self.feed.distrust.notify_one();
                continue;
            }
            before.push_back((begun, counts));
            let heard = *self.feed.heard();
            if let Some((then, _)) = before.iter().rfind(|(_, counts)| reaches(&heard, counts)) {
                self.listener.heard_until(then.into_std());
            }
        }
    }

    /// Takes note of partitions that answer again: what was committed there meanwhile was missed.
    fn catch_up(&self, counts: &Counts) {
        let mut back = Vec::new();
        for (partition, heard) in Partition::all().zip(self.feed.heard().iter_mut()) {
            if let (None, Some(count)) = (*heard, counts[partition.index()]) {
                *heard = Some(count);
                back.push(partition);
            }
        }
        if !back.is_empty() {
            self.missed(|partition| back.contains(&partition));
        }
    }

    /// Follows the sentinels to another master. The one before may go on for seconds, and take writes that are lost.
    async fn look_for_master(&self, master: &mut Option<Address>) {
        let Some(named) = self.connector.named_master().await else { return };
        let before = master.replace(named.clone());
        if before.is_some_and(|before| before != named) {
            info!(redis = %self.target, host = named.0, port = named.1, "the sentinels name another master");
            self.connector.renew();
        }
    }

    /// Looks at the clock, the data set and the counts of commits, which it returns. An error where Redis does not serve
    /// with all its partitions; data that was lost is noted.
    pub(super) async fn look(&self) -> (Counts, Result<(), StoreError>) {
        let heard = *self.feed.heard();
        let (clock, data_set, counts) = tokio::join!(self.set_clock(), self.learn_epoch(), self.commits());
        self.look_for_losses(&heard, &counts);
        let all = if counts.iter().all(Option::is_some) { Ok(()) } else { Err(StoreError::Unavailable) };
        (counts, clock.and(data_set).map_err(StoreError::from).and(all))
    }

    /// Notes that Redis has lost the last commits where fewer have happened than were `heard` of.
    fn look_for_losses(&self, heard: &Counts, counts: &Counts) {
        if is_behind(counts, heard) {
            warn!(redis = %self.target, "Redis has lost commits");
            self.feed.losses.fetch_add(1, Relaxed);
            for (heard, count) in self.feed.heard().iter_mut().zip(counts) {
                *heard = heard.and(*count);
            }
            self.link_is(StorageMode::Degraded);
            self.feed.distrust.notify_one();
        }
    }

    /// Sets the clock by that of Redis.
    pub(super) async fn set_clock(&self) -> Result<(), Fault> {
        let asked = self.clock.now();
        let (seconds, micros): (i64, i64) = self.pulse.query(&cmd("TIME")).await?;
        let way = self.clock.now().since(asked) / 2;
        self.clock.steer(Timestamp::from_micros(seconds * 1_000_000 + micros) + way);
        self.feed.doubt_ends(self.clock.now() + TOMBSTONE_LIFE);
        Ok(())
    }

    /// Reads which data set this is, and names it if nobody has; another one than before is noted. Fails where Redis
    /// takes no writes.
    pub(super) async fn learn_epoch(&self) -> Result<(), Fault> {
        let name = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let there: Option<String> = self.pulse.query(cmd("SET").arg(EPOCH).arg(&name).arg("NX").arg("GET")).await?;
        let epoch = u64::from_str_radix(&there.unwrap_or(name), 16).unwrap_or(1);
        let before = self.epoch.swap(epoch, Relaxed);
        if before != 0 && before != epoch {
            warn!(redis = %self.target, "Redis holds another data set than before");
            self.link_is(StorageMode::Degraded);
            self.feed.distrust.notify_one();
        }
        Ok(())
    }

    async fn commits(&self) -> Counts {
        let counts = join_all(Partition::all().map(|partition| self.commits_in(partition))).await;
        std::array::from_fn(|partition| counts[partition].as_ref().ok().copied())
    }

    /// How many commits there were in a partition.
    pub(super) async fn commits_in(&self, partition: Partition) -> Result<i64, Fault> {
        let count: Option<i64> = self.pulse.query(cmd("GET").arg(self.keys.commits(partition))).await?;
        Ok(count.unwrap_or_default())
    }

    /// Tells the state of the link, once for each change.
    pub(super) fn link_is(&self, mode: StorageMode) {
        let changed = self.mode.send_if_modified(|known| replace(known, mode) != mode);
        match mode {
            _ if !changed => {}
            StorageMode::Redis => info!(redis = %self.target, "Redis serves"),
            _ => warn!(redis = %self.target, "Redis does not serve; trying again"),
        }
    }
}

/// Whether there is as much in all partitions.
fn reaches(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).all(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count >= other))
}

/// Whether there is less in one partition at least.
fn is_behind(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).any(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count < other))
}
