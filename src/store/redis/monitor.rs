//! The monitor of Redis: checks whether its partitions serve, what its clock shows, which data it has, and whether any
//! of that was lost. Sends the beats that show that this replica serves.

use std::{
    array::from_fn,
    collections::VecDeque,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    mem::replace,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::Ordering::{AcqRel, Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::{RedisError, cmd};
use tokio::{
    sync::{self, watch},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    RedisStore,
    connection::{Address, Fault, Target, is_on_the_move, is_without_answer},
    outage::OutageLog,
    schema::keys::{EPOCH, PARTITIONS, Partition},
    script::{self, BEAT as BEAT_SCRIPT},
    subscriber::{Counts, LOOK},
};
use crate::{
    clock::Clock,
    domain::{JobId, Timestamp},
    store::{History, JobStore, PartitionState, StorageMode, StoreError},
};

/// Interval between beats.
pub(super) const BEAT: Duration = Duration::from_secs(1);

/// Maximum age of the last beat: after a longer silence nobody could report, and that time does not count.
pub(super) const SILENCE: Duration = Duration::from_secs(3);

/// Number of checks for each beat.
const LOOKS_PER_BEAT: usize = 4;

/// Number of consecutive checks without an answer after which a partition counts as unavailable.
const FAILURES: u32 = 2;

/// Number of checks between two questions to the sentinels.
const LOOKS_PER_MASTER: usize = 4;

/// Number of checks during which a notification may be on its way.
const LOOKS: usize = 8;

/// Maximum time until the effect of a write without an answer comes to light.
const DOUBT: Duration = Duration::from_secs(600);

/// The reason why this version does not share a Redis with version 0.1.
const OLDER: &str = "a replica of jobtrack 0.1 uses this Redis, which this version can't share with it; stop all \
                     replicas of 0.1, and this one will serve";

/// The known state of Redis.
pub struct Monitor {
    /// Id of this process among those that send beats.
    process: String,
    states: watch::Sender<Vec<PartitionState>>,
    mode: watch::Sender<StorageMode>,
    partitions: Mutex<[PartitionView; PARTITIONS]>,
    /// Last reading of the clock of Redis, and the local time of that reading.
    time: Mutex<Option<(Timestamp, Instant)>>,
    /// Start and result of the last check. Locked while a check is under way, so that others wait for its result.
    last_look: sync::Mutex<Option<(Instant, Vec<PartitionState>)>>,
    outage: OutageLog,
}

/// The state of a partition according to its last beat.
#[derive(Clone, Debug, Default)]
struct PartitionView {
    lineage: String,
    run: String,
    share: Share,
    /// Lineage at the moment when the count of commits fell; sent with the next beat.
    fell: String,
    losses: u64,
    failures: u32,
    /// Redis answered the last beat with an error.
    beat_refused: bool,
}

/// The share of the due ids in a partition that this replica handles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    replicas: usize,
    /// Number of this replica among those that serve, from 1; 0 if it is not one of them.
    place: usize,
}

impl Share {
    /// Returns whether this replica handles `id`.
    pub fn includes(self, id: &JobId) -> bool {
        self.place == 0 || self.replicas < 2 || hash(id.as_str()) % self.replicas as u64 == self.place as u64 - 1
    }
}

impl Monitor {
    /// Creates a monitor to which all partitions are unavailable.
    pub fn new(process: String) -> Self {
        Self {
            process,
            states: watch::Sender::new(vec![PartitionState::Away; PARTITIONS]),
            mode: watch::Sender::new(StorageMode::Degraded),
            partitions: Mutex::default(),
            time: Mutex::default(),
            last_look: sync::Mutex::default(),
            outage: OutageLog::default(),
        }
    }

    /// Returns a receiver of the states of the partitions and of their changes.
    pub fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.states.subscribe()
    }

    /// Returns a receiver of the storage mode, which tells whether all partitions serve, and of its changes.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    /// Returns the known history of a partition's data in the data set `epoch`.
    pub fn history(&self, partition: usize, epoch: u64) -> History {
        let view = &self.partitions()[partition];
        History { epoch, lineage: hash(&view.lineage), run: hash(&view.run), losses: view.losses }
    }

    /// Returns the time on the clock of Redis, or `otherwise` if it is unknown, and this replica's share of a
    /// partition.
    pub fn time_and_share(&self, partition: Partition, otherwise: Timestamp) -> (Timestamp, Share) {
        let time = *self.time.lock().unwrap_or_else(PoisonError::into_inner);
        let time = time.map_or(otherwise, |(time, at)| time + at.elapsed());
        (time, self.partitions()[partition.index()].share)
    }

    fn partitions(&self) -> MutexGuard<'_, [PartitionView; PARTITIONS]> {
        self.partitions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_time(&self, time: Timestamp) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// Publishes the states of these partitions, and logs changes; `error` is that of one that does not serve.
    fn publish(&self, news: &[(usize, PartitionState)], target: &Target, error: Option<&RedisError>) {
        let mut away = 0;
        let changed = self.states.send_if_modified(|states| {
            let mut changed = false;
            for (partition, state) in news {
                changed |= replace(&mut states[*partition], *state) != *state;
            }
            away = states.iter().filter(|state| **state != PartitionState::Serving).count();
            // Sent within the change of the states, so that both change in the same order.
            let mode = if away == 0 { StorageMode::Redis } else { StorageMode::Degraded };
            self.mode.send_if_modified(|known| replace(known, mode) != mode);
            changed
        });
        if away > 0 {
            self.outage.lasts(target, away, error);
        } else if changed {
            self.outage.ended(target, &self.process);
        }
    }

    /// Records that the start has logged why Redis can't be used.
    pub fn outage_was_logged(&self, error: &RedisError) {
        self.outage.was_logged(PARTITIONS, error);
    }
}

/// Hashes a name to a number that can be compared with others of this process.
fn hash(name: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}

impl RedisStore {
    /// Monitors Redis; never returns.
    pub(super) async fn look_after(&self) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut before: VecDeque<(Instant, Counts)> = VecDeque::new();
        let mut master = None;
        let mut generation = self.connector.generation();
        for look in 0.. {
            // After a failed command the check includes beats, which also show whether writes are taken.
            let suspected = tokio::select! {
                _ = ticks.tick() => false,
                () = self.feed.look.notified() => true,
            };
            if look % LOOKS_PER_MASTER == 0 {
                self.look_for_master(&mut master).await;
            }
            if replace(&mut generation, self.connector.generation()) != generation {
                // The subscription may be with another server than the commands are.
                self.feed.distrust.notify_one();
            }
            let heard = *self.feed.heard();
            let begun = Instant::now();
            let counts = {
                let mut last = self.monitor.last_look.lock().await;
                let (counts, raw) = self.look(suspected || look % LOOKS_PER_BEAT == 0).await;
                *last = Some((begun, raw));
                counts
            };
            self.catch_up(&counts);
            let due = if before.len() < LOOKS { None } else { before.pop_front() };
            if due.is_some_and(|(_, due)| is_behind(&heard, &due)) {
                debug!("notifications were lost");
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

    /// Returns the states of the partitions as found by a check that began after this call. One check serves all who
    /// wait.
    pub(super) async fn look_now(&self) -> Vec<PartitionState> {
        let asked = Instant::now();
        let mut last = self.monitor.last_look.lock().await;
        if let Some((begun, states)) = &*last
            && *begun >= asked
        {
            return states.clone();
        }
        let begun = Instant::now();
        let (counts, states) = self.look(true).await;
        self.catch_up(&counts);
        *last = Some((begun, states.clone()));
        states
    }

    /// Probes a partition with a beat.
    pub(super) async fn probe_partition(&self, partition: Partition) -> PartitionState {
        let at = partition.index();
        let heard = *self.feed.heard();
        let (known, outcome) = tokio::join!(self.learn_data_set(), self.beat_in(partition));
        let is_unknown = known.is_err() && (self.epoch() == 0 || self.is_older_there());
        let state = match (&outcome, known) {
            (_, Err(fault)) if is_unknown => judge(&fault).0,
            (Err(fault), _) => judge(fault).0,
            (Ok(_), _) => PartitionState::Serving,
        };
        if let Ok(commits) = outcome {
            let mut counts = [None; PARTITIONS];
            counts[at] = Some(commits);
            self.look_for_losses(&heard, &counts);
            self.catch_up(&counts);
        }
        if state == PartitionState::Serving {
            self.monitor.publish(&[(at, state)], &self.target, None);
        }
        state
    }

    /// Handles partitions that answer again: notifications of commits there were missed in the meantime.
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

    /// Switches to another master when the sentinels name one. The former master may continue for seconds, and take
    /// writes that are lost.
    async fn look_for_master(&self, master: &mut Option<Address>) {
        let Some(named) = self.connector.named_master().await else { return };
        let before = master.replace(named.clone());
        if before.is_some_and(|before| before != named) {
            info!(redis = %self.target, host = named.0, port = named.1, "the sentinels name another master");
            self.connector.renew();
        }
    }

    /// Checks the clock, the data set and the counts of commits; with a beat, also whether each partition takes writes.
    /// Records losses of data. Returns the counts, and the states of the partitions.
    pub(super) async fn look(&self, with_beat: bool) -> (Counts, Vec<PartitionState>) {
        let heard = *self.feed.heard();
        // Only a beat shows whether Redis executes again what it has refused.
        let with_beat = with_beat || self.monitor.partitions().iter().any(|view| view.beat_refused);
        let (known, outcomes) = if with_beat {
            tokio::join!(self.learn_data_set(), join_all(Partition::all().map(|partition| self.beat_in(partition))))
        } else {
            tokio::join!(self.set_clock(), join_all(Partition::all().map(|partition| self.commits_in(partition))))
        };
        let counts: Counts = from_fn(|partition| outcomes[partition].as_ref().ok().copied());
        self.look_for_losses(&heard, &counts);
        // No call is served from Redis before the data set is known.
        let unknown = known.err().filter(|_| self.epoch() == 0);
        let unknown = unknown.or_else(|| self.is_older_there().then(older_fault));
        let error = unknown.as_ref().or_else(|| outcomes.iter().find_map(|outcome| outcome.as_ref().err()));
        let mut raw = Vec::with_capacity(PARTITIONS);
        let mut news = Vec::with_capacity(PARTITIONS);
        for (partition, outcome) in outcomes.iter().enumerate() {
            let view = &mut self.monitor.partitions()[partition];
            if with_beat {
                view.beat_refused = outcome.as_ref().is_err_and(|fault| !is_without_answer(fault.error()));
            }
            let (state, at_once) = match (&unknown, outcome) {
                (Some(fault), _) | (None, Err(fault)) => judge(fault),
                (None, Ok(_)) => (PartitionState::Serving, true),
            };
            raw.push(state);
            view.failures = if state == PartitionState::Serving { 0 } else { view.failures + 1 };
            // A single answer may be late under load.
            if at_once || view.failures >= FAILURES {
                news.push((partition, state));
            }
        }
        self.monitor.publish(&news, &self.target, error.map(Fault::error));
        (counts, raw)
    }

    fn is_older_there(&self) -> bool {
        self.older_is_there.load(Relaxed) && !(0..PARTITIONS).any(|partition| self.presence.is_serving(partition))
    }

    /// Detects losses of data: partitions with fewer commits than were `heard` of before.
    pub(super) fn look_for_losses(&self, heard: &Counts, counts: &Counts) {
        if !is_behind(counts, heard) {
            return;
        }
        warn!(redis = %self.target, "Redis has lost commits");
        let mut views = self.monitor.partitions();
        for partition in 0..PARTITIONS {
            if heard[partition].zip(counts[partition]).is_some_and(|(heard, count)| count < heard) {
                let view = &mut views[partition];
                view.losses += 1;
                // The next beat reports the loss to the other replicas, unless one of them has reported it.
                view.fell.clone_from(&view.lineage);
            }
        }
        drop(views);
        for (heard, count) in self.feed.heard().iter_mut().zip(counts) {
            *heard = (*heard).min(*count).or(*heard);
        }
        self.tell_history_changed();
    }

    /// Causes the store that serves from Redis to compare histories.
    fn tell_history_changed(&self) {
        self.monitor.states.send_modify(|_| {});
        self.feed.distrust.notify_one();
    }

    /// Sends one beat in a partition, and returns its count of commits.
    pub(super) async fn beat_in(&self, partition: Partition) -> Result<i64, Fault> {
        let at = partition.index();
        let mark = self.presence.mark(at).map(|mark| mark.as_micros().to_string()).unwrap_or_default();
        let serving = self.presence.is_serving(at);
        let about = format!("{} {}", self.presence.dirty_jobs(at), env!("CARGO_PKG_VERSION"));
        let fell = self.monitor.partitions()[at].fell.clone();
        let name = Uuid::new_v4().simple().to_string();
        let beat = script::run(&self.pulse, &BEAT_SCRIPT, |command| {
            command.arg(1).arg(self.keys.beat(partition));
            command.arg(&self.monitor.process).arg(i32::from(serving)).arg(&mark).arg(&fell).arg(&name);
            command.arg(micros(SILENCE)).arg(micros(self.bound() * 2)).arg(i32::from(self.connector.is_cluster()));
            command.arg(&about);
        });
        let (answer, commits) = tokio::try_join!(beat, self.commits_in(partition))?;
        let (time, heard_since, lineage, run, replicas, place): (i64, i64, String, String, usize, usize) = answer;
        let (time, heard_since) = (Timestamp::from_micros(time), Timestamp::from_micros(heard_since));
        self.presence.beat_answered(at, time, heard_since);
        self.monitor.set_time(time);
        let mut views = self.monitor.partitions();
        let view = &mut views[at];
        let is_new = !view.lineage.is_empty() && (view.lineage != lineage || view.run != run);
        view.fell.clear();
        (view.lineage, view.run, view.share) = (lineage, run, Share { replicas, place });
        drop(views);
        if is_new {
            self.tell_history_changed();
        }
        Ok(commits)
    }

    /// Removes this replica from those that serve from a partition.
    pub(super) async fn leave_partition(&self, partition: Partition) -> Result<(), Fault> {
        let fields = ["mark", "about"].map(|field| format!("{field}:{}", self.monitor.process));
        self.pulse.query(cmd("HDEL").arg(self.keys.beat(partition)).arg(&fields)).await
    }

    /// Returns the maximum time for which a replica may be cut off with reports that it acknowledged.
    pub(super) fn bound(&self) -> Duration {
        self.replica_grace + BEAT * 2
    }

    /// Steers the clock by that of Redis.
    pub(super) async fn set_clock(&self) -> Result<(), Fault> {
        let asked = Instant::now();
        let (seconds, micros): (i64, i64) = self.pulse.query(&cmd("TIME")).await?;
        let way = asked.elapsed() / 2;
        let time = Timestamp::from_micros(seconds * 1_000_000 + micros) + way;
        self.monitor.set_time(time);
        self.listener.set_clock(&|| self.clock.steer(time, way));
        self.feed.doubt_ends(self.clock.now() + DOUBT);
        Ok(())
    }

    /// Steers the clock, and reads the id of the data set, whose change is announced.
    pub(super) async fn learn_data_set(&self) -> Result<(), Fault> {
        let (clock, data_set, older) = tokio::join!(self.set_clock(), self.name_data_set(), self.look_for_older());
        if let Ok(is_there) = older {
            self.note_older(is_there);
        }
        // No call is served from Redis before the data set is known, so the clock is right by then.
        let epoch = clock.and(data_set)?;
        if self.is_older_there() {
            return Err(older_fault());
        }
        let before = self.epoch.swap(epoch, AcqRel);
        if before != 0 && before != epoch {
            warn!(redis = %self.target, "Redis data set changed; watches will restart");
            self.tell_history_changed();
        }
        Ok(())
    }

    /// Returns the id of the data set, which is set if there is none. Fails where Redis takes no writes.
    async fn name_data_set(&self) -> Result<u64, Fault> {
        let name = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let there: Option<String> = self.pulse.query(cmd("SET").arg(EPOCH).arg(&name).arg("NX").arg("GET")).await?;
        Ok(u64::from_str_radix(&there.unwrap_or(name), 16).unwrap_or(1))
    }

    /// Returns whether there are replicas of version 0.1, which listen on channels of other names.
    async fn look_for_older(&self) -> Result<bool, Fault> {
        let channel = self.keys.legacy_changes(Partition::of(&JobId::lower_bound()));
        let (_, count): (String, i64) = self.pulse.query(cmd("PUBSUB").arg("NUMSUB").arg(channel)).await?;
        Ok(count > 0)
    }

    fn note_older(&self, is_there: bool) {
        if self.older_is_there.swap(is_there, Relaxed) != is_there && is_there {
            error!(redis = %self.target, "{OLDER}");
        }
    }

    /// Returns the count of commits in each partition; `None` where a partition does not answer.
    pub(super) async fn commits(&self) -> Counts {
        let counts = join_all(Partition::all().map(|partition| self.commits_in(partition))).await;
        from_fn(|partition| counts[partition].as_ref().ok().copied())
    }

    /// Returns the count of commits in a partition.
    pub(super) async fn commits_in(&self, partition: Partition) -> Result<i64, Fault> {
        let count: Option<i64> = self.pulse.query(cmd("GET").arg(self.keys.commits(partition))).await?;
        Ok(count.unwrap_or_default())
    }
}

/// Returns the fault of a Redis that a replica of version 0.1 uses.
fn older_fault() -> Fault {
    Fault::Refused((redis::ErrorKind::Client, OLDER).into())
}

/// Returns the state of a partition according to a fault, and whether it applies at once: a silent server may only be
/// slow.
fn judge(fault: &Fault) -> (PartitionState, bool) {
    let state = match StoreError::from(fault.clone()) {
        StoreError::ReadOnly => PartitionState::ReadOnly,
        _ => PartitionState::Away,
    };
    // Keys that move between nodes are available again in a moment.
    let is_passing = matches!(fault, Fault::Away(error) if error.is_timeout() || is_on_the_move(error));
    (state, !is_passing)
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// Returns whether `counts` has at least as many commits as `others` in all partitions.
fn reaches(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).all(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count >= other))
}

/// Returns whether `counts` has fewer commits than `others` in at least one partition.
fn is_behind(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).any(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count < other))
}
