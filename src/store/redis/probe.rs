//! Probes of Redis: whether its partitions serve, what its clock shows, which data it has, and whether data was lost.
//! Probes include the beats that show that this replica serves.

use std::{
    array::from_fn,
    mem::replace,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use redis::cmd;
use tokio::{
    sync::{Mutex, Notify},
    time::{Instant, MissedTickBehavior, interval},
};
use tracing::{debug, error, info, warn};
use uuid::Uuid;

use super::{
    client::Client,
    connection::{Address, Fault, is_on_the_move, is_without_answer},
    feed::{Counts, Feed},
    monitor::{Monitor, Share, Verdict},
    recent_counts::{RecentCounts, is_behind},
    schema::keys::{EPOCH, PARTITIONS, Partition},
    script::{self, BEAT_SCRIPT, micros},
    secret::SharedSecret,
};
use crate::{
    clock::SteeredClock,
    domain::{JobId, Timestamp},
    store::{Listener, PartitionState, Presence, StoreError},
};

/// Interval between probes of the connection, the clock and the counts of commits.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(250);

/// Interval between beats.
pub const BEAT_INTERVAL: Duration = Duration::from_secs(1);

/// Maximum age of the last beat. If it is older, no worker could report, and that time does not count towards leases.
pub const SILENCE: Duration = Duration::from_secs(3);

/// Number of probes for each beat.
const PROBES_PER_BEAT: usize = 4;

/// Number of probes between two questions to the sentinels.
const PROBES_PER_MASTER: usize = 4;

/// The reason why this version does not share a Redis with version 0.1.
const OLDER: &str = "a replica of jobtrack 0.1 uses this Redis, which can't be shared with it; stop all replicas of 0.1, \
                     and this one will serve";

/// The counts of commits and the lineages of the partitions, as this replica knew them at a moment.
pub struct Known {
    counts: Counts,
    lineages: [String; PARTITIONS],
}

/// Probes Redis.
pub struct Prober {
    client: Arc<Client>,
    feed: Arc<Feed>,
    monitor: Arc<Monitor>,
    listener: Arc<dyn Listener>,
    clock: Arc<SteeredClock>,
    /// The state that this replica reports to Redis.
    presence: Arc<Presence>,
    /// Maximum time for which a replica may be cut off with reports that it acknowledged.
    bound: Duration,
    /// Requests a probe now.
    requested: Notify,
    /// Start and result of the last probe. Locked during a probe, so that others wait for its result.
    last_probe: Mutex<Option<(Instant, Vec<PartitionState>)>>,
    /// A replica of version 0.1 uses this Redis.
    older_is_there: AtomicBool,
    /// Secret of the replicas, which is read with the data set.
    secret: SharedSecret,
}

impl Prober {
    /// Creates a prober that records what it finds in `monitor` and `feed`, and steers `clock` by that of Redis.
    pub fn new(
        client: Arc<Client>,
        feed: Arc<Feed>,
        monitor: Arc<Monitor>,
        listener: Arc<dyn Listener>,
        clock: Arc<SteeredClock>,
        presence: Arc<Presence>,
        bound: Duration,
    ) -> Self {
        let secret = SharedSecret::new(client.clone());
        let (requested, last_probe, older_is_there) = (Notify::new(), Mutex::default(), AtomicBool::new(false));
        Self { client, feed, monitor, listener, clock, presence, bound, requested, last_probe, older_is_there, secret }
    }

    /// Returns the secret that the replicas share.
    pub const fn secret(&self) -> &SharedSecret {
        &self.secret
    }

    /// Requests a probe, without waiting for it.
    pub fn request(&self) {
        self.requested.notify_one();
    }

    /// Probes Redis regularly, and when it is requested. Never returns.
    pub async fn run(&self) {
        let mut ticks = interval(PROBE_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut recent = RecentCounts::default();
        let mut master = None;
        let mut generation = self.client.connector().generation();
        for number in 0.. {
            // After a failed command the probe includes beats, which also show whether writes are accepted.
            let suspected = tokio::select! {
                _ = ticks.tick() => false,
                () = self.requested.notified() => true,
            };
            if number % PROBES_PER_MASTER == 0 {
                self.update_master(&mut master).await;
            }
            if replace(&mut generation, self.client.connector().generation()) != generation {
                // The subscription may be on another server than the one that receives the commands.
                self.feed.suspect_gap();
            }
            let before = self.feed.known_counts();
            let begun = Instant::now();
            let counts = {
                let mut last = self.last_probe.lock().await;
                let (counts, raw) = self.probe_all(suspected || number % PROBES_PER_BEAT == 0).await;
                *last = Some((begun, raw));
                counts
            };
            self.feed.catch_up(&counts);
            if recent.shows_loss(&before) {
                debug!("notifications were lost");
                recent = RecentCounts::default();
                self.feed.suspect_gap();
                continue;
            }
            recent.push(begun, counts);
            if let Some(then) = recent.notified_until(&self.feed.known_counts()) {
                self.listener.set_notified_until(then.into_std());
            }
        }
    }

    /// Returns the states of the partitions as found by a probe that began after this call. Concurrent callers share
    /// one probe.
    pub async fn probe_now(&self) -> Vec<PartitionState> {
        let asked = Instant::now();
        let mut last = self.last_probe.lock().await;
        if let Some((begun, states)) = &*last
            && *begun >= asked
        {
            return states.clone();
        }
        let begun = Instant::now();
        let (counts, states) = self.probe_all(true).await;
        self.feed.catch_up(&counts);
        *last = Some((begun, states.clone()));
        states
    }

    /// Probes a partition with a beat.
    pub async fn probe_partition(&self, partition: Partition) -> PartitionState {
        let at = partition.index();
        let before = self.known();
        let (known, outcome) = tokio::join!(self.learn_data_set(), self.beat_in(partition));
        let is_unknown = known.is_err() && (self.monitor.epoch() == 0 || self.is_blocked_by_older());
        let state = match (&outcome, known) {
            (_, Err(fault)) if is_unknown => verdict(&fault).state,
            (Err(fault), _) => verdict(fault).state,
            (Ok(_), _) => PartitionState::Serving,
        };
        if let Ok(commits) = outcome {
            let mut counts = [None; PARTITIONS];
            counts[at] = Some(commits);
            self.detect_losses(&before, &counts);
            self.feed.catch_up(&counts);
        }
        if state == PartitionState::Serving {
            self.monitor.publish(&[(at, state)], None);
        }
        state
    }

    /// Switches to another master when the sentinels name one. The former master may continue for seconds, and accept
    /// writes that are lost.
    async fn update_master(&self, master: &mut Option<Address>) {
        let Some(named) = self.client.connector().named_master().await else { return };
        let before = master.replace(named.clone());
        if before.is_some_and(|before| before != named) {
            info!(redis = %self.client.target(), host = named.0, port = named.1, "the sentinels name another master");
            self.client.connector().renew();
        }
    }

    /// Probes the clock, the data set and the counts of commits; with a beat, also whether each partition accepts
    /// writes. Records losses of data. Returns the counts, and the states of the partitions.
    async fn probe_all(&self, with_beat: bool) -> (Counts, Vec<PartitionState>) {
        let before = self.known();
        // After a rejected beat, only another beat shows whether Redis accepts it again.
        let with_beat = with_beat || self.monitor.is_any_beat_rejected();
        let (known, outcomes) = if with_beat {
            tokio::join!(self.learn_data_set(), join_all(Partition::all().map(|partition| self.beat_in(partition))))
        } else {
            tokio::join!(self.steer_clock(), join_all(Partition::all().map(|partition| self.commits_in(partition))))
        };
        let counts: Counts = from_fn(|partition| outcomes[partition].as_ref().ok().copied());
        self.detect_losses(&before, &counts);
        // No call is served from Redis before the data set is known.
        let unknown = known.err().filter(|_| self.monitor.epoch() == 0);
        let unknown = unknown.or_else(|| self.is_blocked_by_older().then(older_fault));
        let error = unknown.as_ref().or_else(|| outcomes.iter().find_map(|outcome| outcome.as_ref().err()));
        let mut raw = Vec::with_capacity(PARTITIONS);
        let mut news = Vec::with_capacity(PARTITIONS);
        for (partition, outcome) in outcomes.iter().enumerate() {
            if with_beat {
                let is_rejected = outcome.as_ref().is_err_and(|fault| !is_without_answer(fault.error()));
                self.monitor.set_beat_rejected(partition, is_rejected);
            }
            let verdict = match (&unknown, outcome) {
                (Some(fault), _) | (None, Err(fault)) => verdict(fault),
                (None, Ok(_)) => Verdict::SERVING,
            };
            raw.push(verdict.state);
            if self.monitor.record_verdict(partition, verdict) {
                news.push((partition, verdict.state));
            }
        }
        self.monitor.publish(&news, error.map(Fault::error));
        (counts, raw)
    }

    /// Returns whether a replica of version 0.1 uses this Redis, and this replica does not serve yet.
    fn is_blocked_by_older(&self) -> bool {
        self.older_is_there.load(Relaxed) && !(0..PARTITIONS).any(|partition| self.presence.is_serving(partition))
    }

    /// Returns what is known of the data, for [`detect_losses`](Self::detect_losses).
    pub fn known(&self) -> Known {
        Known { counts: self.feed.known_counts(), lineages: self.monitor.lineages() }
    }

    /// Detects losses of data: partitions with fewer commits than were known `before`.
    pub fn detect_losses(&self, before: &Known, counts: &Counts) {
        if !is_behind(counts, &before.counts) {
            return;
        }
        warn!(redis = %self.client.target(), "Redis has lost commits");
        self.monitor.record_losses(&before.lineages, |partition| {
            before.counts[partition].zip(counts[partition]).is_some_and(|(before, count)| count < before)
        });
        self.feed.lower_counts(counts);
        self.announce_other_history();
    }

    /// Causes the fallback to compare histories.
    fn announce_other_history(&self) {
        self.monitor.announce_other_history();
        self.feed.suspect_gap();
    }

    /// Sends one beat in a partition, and returns its count of commits.
    pub async fn beat_in(&self, partition: Partition) -> Result<i64, Fault> {
        let at = partition.index();
        let mark = self.presence.mark(at).map(|mark| mark.as_micros().to_string()).unwrap_or_default();
        let serving = self.presence.is_serving(at);
        let about = format!("{} {}", self.presence.dirty_jobs(at), env!("CARGO_PKG_VERSION"));
        let fallen = self.monitor.fallen_lineage(partition);
        let name = Uuid::new_v4().simple().to_string();
        let beat = script::run(self.client.pulse(), &BEAT_SCRIPT, |command| {
            command.arg(1).arg(self.client.keys().beat(partition));
            command.arg(self.client.process()).arg(i32::from(serving)).arg(&mark).arg(&fallen).arg(&name);
            command
                .arg(micros(SILENCE))
                .arg(micros(self.bound * 2))
                .arg(i32::from(self.client.connector().is_cluster()));
            command.arg(&about);
        });
        let (answer, commits) = tokio::try_join!(beat, self.commits_in(partition))?;
        let (time, heard_since, lineage, run, replicas, number): (i64, i64, String, String, usize, usize) = answer;
        let (time, heard_since) = (Timestamp::from_micros(time), Timestamp::from_micros(heard_since));
        self.presence.beat_answered(at, time, heard_since);
        self.monitor.set_time(time);
        debug_assert!(number <= replicas, "the replicas that serve are numbered from 1");
        if self.monitor.record_beat(partition, lineage, run, Share { replicas, number }) {
            self.announce_other_history();
        }
        Ok(commits)
    }

    /// Removes this replica from those that serve from a partition.
    pub async fn leave_partition(&self, partition: Partition) -> Result<(), Fault> {
        let fields = ["mark", "about"].map(|field| format!("{field}:{}", self.client.process()));
        self.client.pulse().query(cmd("HDEL").arg(self.client.keys().beat(partition)).arg(&fields)).await
    }

    /// Steers the clock by that of Redis.
    pub async fn steer_clock(&self) -> Result<(), Fault> {
        let asked = Instant::now();
        let (seconds, micros): (i64, i64) = self.client.pulse().query(&cmd("TIME")).await?;
        let transit = asked.elapsed() / 2;
        let time = Timestamp::from_micros(seconds * 1_000_000 + micros) + transit;
        self.monitor.set_time(time);
        self.listener.set_clock(&|| self.clock.steer(time, transit));
        self.feed.doubt_ends();
        Ok(())
    }

    /// Steers the clock, and reads the id of the data set; announces its change.
    pub async fn learn_data_set(&self) -> Result<(), Fault> {
        let (clock, data_set, older, secret) =
            tokio::join!(self.steer_clock(), self.data_set(), self.has_older_replicas(), Box::pin(self.secret.learn()));
        if let Err(fault) = secret {
            // The last known secret stays in use.
            debug!(error = %fault.error(), "the key of watch tokens can't be read");
        }
        if let Ok(is_there) = older {
            self.record_older(is_there);
        }
        // No call is served from Redis before the data set is known, so the clock is right by then.
        let epoch = clock.and(data_set)?;
        if self.is_blocked_by_older() {
            return Err(older_fault());
        }
        let before = self.monitor.set_epoch(epoch);
        if before != 0 && before != epoch {
            warn!(redis = %self.client.target(), "Redis data set changed; watches will restart");
            self.announce_other_history();
        }
        Ok(())
    }

    /// Returns the id of the data set, and sets one if there is none. Fails if Redis accepts no writes.
    async fn data_set(&self) -> Result<u64, Fault> {
        let name = format!("{:x}", Uuid::new_v4().as_u64_pair().0);
        let there: Option<String> =
            self.client.pulse().query(cmd("SET").arg(EPOCH).arg(&name).arg("NX").arg("GET")).await?;
        Ok(u64::from_str_radix(&there.unwrap_or(name), 16).unwrap_or(1))
    }

    /// Returns whether there are replicas of version 0.1, which listen on channels of other names.
    async fn has_older_replicas(&self) -> Result<bool, Fault> {
        let channel = self.client.keys().legacy_changes(Partition::of(&JobId::lower_bound()));
        let (_, count): (String, i64) = self.client.pulse().query(cmd("PUBSUB").arg("NUMSUB").arg(channel)).await?;
        Ok(count > 0)
    }

    fn record_older(&self, is_there: bool) {
        if self.older_is_there.swap(is_there, Relaxed) != is_there && is_there {
            error!(redis = %self.client.target(), "{OLDER}");
        }
    }

    /// Returns the count of commits in each partition; `None` where a partition does not answer.
    pub async fn commits(&self) -> Counts {
        let counts = join_all(Partition::all().map(|partition| self.commits_in(partition))).await;
        from_fn(|partition| counts[partition].as_ref().ok().copied())
    }

    /// Returns the count of commits in a partition.
    async fn commits_in(&self, partition: Partition) -> Result<i64, Fault> {
        let count: Option<i64> =
            self.client.pulse().query(cmd("GET").arg(self.client.keys().commits(partition))).await?;
        Ok(count.unwrap_or_default())
    }
}

/// Returns the fault of a Redis that a replica of version 0.1 uses.
fn older_fault() -> Fault {
    Fault::Refused((redis::ErrorKind::Client, OLDER).into())
}

/// Returns the verdict on a partition whose probe failed.
fn verdict(fault: &Fault) -> Verdict {
    let state = match StoreError::from(fault.clone()) {
        StoreError::ReadOnly => PartitionState::ReadOnly,
        _ => PartitionState::Unavailable,
    };
    // Keys that move between nodes are available again in a moment.
    let is_passing = matches!(fault, Fault::Unavailable(error) if error.is_timeout() || is_on_the_move(error));
    Verdict { state, is_certain: !is_passing }
}
