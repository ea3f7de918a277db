//! The link to Redis: whether it answers, by which clock, with which data set, and whether it lost any of that.

use std::{
    collections::VecDeque,
    mem::replace,
    sync::atomic::Ordering::{AcqRel, Relaxed},
};

use futures_util::future::join_all;
use redis::cmd;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};
use uuid::Uuid;

use super::{
    RedisStore,
    connection::{Address, Fault},
    schema::keys::{EPOCH, Partition},
    subscriber::{Counts, LOOK},
};
use crate::{
    clock::Clock,
    domain::{TOMBSTONE_LIFE, Timestamp},
    store::{StorageMode, StoreError},
};

/// After how many looks in vain Redis counts as away.
const FAILURES: usize = 2;

/// Between how many looks the sentinels are asked.
const LOOKS_PER_MASTER: usize = 4;

/// For how many looks a hint may be on its way.
const LOOKS: usize = 8;

impl RedisStore {
    /// Looks after the link: whether Redis answers, its clock, its data set, and hints that were lost.
    pub(super) async fn look_after(&self) {
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
        let (clock, data_set, counts) = tokio::join!(self.set_clock(), self.name_data_set(), self.commits());
        // No call is served from Redis before the data set is known, so the clock is right by then.
        let known = clock.and(data_set).map(|epoch| self.data_set_is(epoch));
        self.look_for_losses(&heard, &counts);
        let all = if counts.iter().all(Option::is_some) { Ok(()) } else { Err(StoreError::Unavailable) };
        (counts, known.map_err(StoreError::from).and(all))
    }

    /// Notes that Redis has lost the last commits where fewer have happened than were `heard` of.
    pub(super) fn look_for_losses(&self, heard: &Counts, counts: &Counts) {
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
        let asked = Instant::now();
        let (seconds, micros): (i64, i64) = self.pulse.query(&cmd("TIME")).await?;
        let way = asked.elapsed() / 2;
        self.clock.steer(Timestamp::from_micros(seconds * 1_000_000 + micros) + way, way);
        self.feed.doubt_ends(self.clock.now() + TOMBSTONE_LIFE);
        Ok(())
    }

    /// Reads which data set this is, and names it if nobody has. Fails where Redis takes no writes.
    pub(super) async fn name_data_set(&self) -> Result<u64, Fault> {
        let name = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let there: Option<String> = self.pulse.query(cmd("SET").arg(EPOCH).arg(&name).arg("NX").arg("GET")).await?;
        Ok(u64::from_str_radix(&there.unwrap_or(name), 16).unwrap_or(1))
    }

    /// Takes note of the data set; another one than before is told.
    pub(super) fn data_set_is(&self, epoch: u64) {
        let before = self.epoch.swap(epoch, AcqRel);
        if before != 0 && before != epoch {
            warn!(redis = %self.target, "Redis holds another data set than before");
            self.link_is(StorageMode::Degraded);
            self.feed.distrust.notify_one();
        }
    }

    /// How many commits there were in each partition, as far as that can be told.
    pub(super) async fn commits(&self) -> Counts {
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
