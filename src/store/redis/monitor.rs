//! The known state of Redis: whether its partitions serve, what its clock shows, and the history of its data.

use std::{
    array::from_fn,
    hash::{BuildHasher, BuildHasherDefault, DefaultHasher},
    mem::replace,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{
            AtomicU64,
            Ordering::{AcqRel, Acquire},
        },
    },
};

use redis::RedisError;
use tokio::{sync::watch, time::Instant};

use super::{
    client::Client,
    outage::OutageLog,
    schema::keys::{PARTITIONS, Partition},
};
use crate::{
    domain::{JobId, Timestamp},
    store::{History, PartitionState, StorageMode, StoreError},
};

/// Number of consecutive probes without an answer after which a partition counts as unavailable.
const FAILURES_MAX: u32 = 2;

/// The known state of Redis.
pub struct Monitor {
    client: Arc<Client>,
    /// Id of the data set; 0 until it is known.
    epoch: AtomicU64,
    states: watch::Sender<Vec<PartitionState>>,
    mode: watch::Sender<StorageMode>,
    partitions: Mutex<[PartitionView; PARTITIONS]>,
    /// Last reading of the clock of Redis, and the local time of that reading.
    time: Mutex<Option<(Timestamp, Instant)>>,
    outage: OutageLog,
}

/// The state of a partition according to its last beat.
#[derive(Clone, Debug, Default)]
struct PartitionView {
    lineage: String,
    run: String,
    share: Share,
    /// Lineage in which the count of commits fell; sent with the next beat.
    fallen_lineage: String,
    losses: u64,
    failures: u32,
    /// Redis answered the last beat with an error.
    is_beat_rejected: bool,
}

/// The share of the due ids in a partition that this replica handles.
#[derive(Clone, Copy, Debug, Default)]
pub struct Share {
    /// Number of replicas that serve.
    pub replicas: usize,
    /// Number of this replica among those that serve, from 1; 0 if it is not one of them.
    pub number: usize,
}

impl Share {
    /// Returns whether this replica handles `id`.
    pub fn includes(self, id: &JobId) -> bool {
        self.number == 0 || self.replicas < 2 || hash(id.as_str()) % self.replicas as u64 == self.number as u64 - 1
    }
}

/// The state of a partition as a probe found it.
#[derive(Clone, Copy, Debug)]
pub struct Verdict {
    /// The state.
    pub state: PartitionState,
    /// One probe suffices: the server answered, or refused the connection. A silent server may only be slow.
    pub is_certain: bool,
}

impl Verdict {
    /// The verdict for a partition that answered.
    pub const SERVING: Self = Self { state: PartitionState::Serving, is_certain: true };
}

impl Monitor {
    /// Creates a monitor in which all partitions are unavailable.
    pub fn new(client: Arc<Client>) -> Self {
        Self {
            client,
            epoch: AtomicU64::new(0),
            states: watch::Sender::new(vec![PartitionState::Unavailable; PARTITIONS]),
            mode: watch::Sender::new(StorageMode::Degraded),
            partitions: Mutex::default(),
            time: Mutex::default(),
            outage: OutageLog::default(),
        }
    }

    /// Returns a receiver of the states of the partitions and of their changes.
    pub fn states(&self) -> watch::Receiver<Vec<PartitionState>> {
        self.states.subscribe()
    }

    /// Returns a receiver of the storage mode, which shows whether all partitions serve, and of its changes.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    /// Returns the id of the data set; 0 until it is known.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Acquire)
    }

    /// Records the id of the data set, and returns the one before.
    pub fn set_epoch(&self, epoch: u64) -> u64 {
        self.epoch.swap(epoch, AcqRel)
    }

    /// Fails before the clock and the data set of Redis are known.
    pub fn check_ready(&self) -> Result<(), StoreError> {
        if self.epoch() == 0 { Err(StoreError::Unavailable) } else { Ok(()) }
    }

    /// Returns the known history of a partition's data.
    pub fn history(&self, partition: usize) -> History {
        let view = &self.partitions()[partition];
        History { epoch: self.epoch(), lineage: hash(&view.lineage), run: hash(&view.run), losses: view.losses }
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

    /// Records that the clock of Redis shows `time` now.
    pub fn set_time(&self, time: Timestamp) {
        *self.time.lock().unwrap_or_else(PoisonError::into_inner) = Some((time, Instant::now()));
    }

    /// Returns the lineage in which the count of commits fell, to be reported with the next beat; empty if there is
    /// none.
    pub fn fallen_lineage(&self, partition: Partition) -> String {
        self.partitions()[partition.index()].fallen_lineage.clone()
    }

    /// Returns whether Redis answered the last beat in any partition with an error.
    pub fn is_any_beat_rejected(&self) -> bool {
        self.partitions().iter().any(|view| view.is_beat_rejected)
    }

    /// Records whether Redis answered the last beat in a partition with an error.
    pub fn set_beat_rejected(&self, partition: usize, is_rejected: bool) {
        self.partitions()[partition].is_beat_rejected = is_rejected;
    }

    /// Records the answer to a beat. Returns whether the answer shows another history than before.
    pub fn record_beat(&self, partition: Partition, lineage: String, run: String, share: Share) -> bool {
        let view = &mut self.partitions()[partition.index()];
        let is_other = !view.lineage.is_empty() && (view.lineage != lineage || view.run != run);
        view.fallen_lineage.clear();
        (view.lineage, view.run, view.share) = (lineage, run, share);
        is_other
    }

    /// Returns the known lineage of each partition.
    pub fn lineages(&self) -> [String; PARTITIONS] {
        let partitions = self.partitions();
        from_fn(|partition| partitions[partition].lineage.clone())
    }

    /// Records losses of data in the partitions for which `is_lost` holds. `before` has the lineages of all partitions
    /// at the time when the higher counts of commits were read.
    pub fn record_losses(&self, before: &[String; PARTITIONS], is_lost: impl Fn(usize) -> bool) {
        for (partition, view) in self.partitions().iter_mut().enumerate().filter(|(partition, _)| is_lost(*partition)) {
            view.losses += 1;
            // The next beat reports the loss to the other replicas. If a beat has shown another lineage since, the loss
            // is known, and this report has no effect.
            view.fallen_lineage.clone_from(&before[partition]);
        }
    }

    /// Records the verdict of a probe. Returns whether the state applies: a single missing answer may only be late.
    pub fn record_verdict(&self, partition: usize, verdict: Verdict) -> bool {
        let view = &mut self.partitions()[partition];
        view.failures = if verdict.state == PartitionState::Serving { 0 } else { view.failures + 1 };
        verdict.is_certain || view.failures >= FAILURES_MAX
    }

    /// Publishes the states of these partitions, and logs changes; `error` is that of a partition that does not serve.
    pub fn publish(&self, news: &[(usize, PartitionState)], error: Option<&RedisError>) {
        let mut unavailable = 0;
        let changed = self.states.send_if_modified(|states| {
            let mut changed = false;
            for (partition, state) in news {
                changed |= replace(&mut states[*partition], *state) != *state;
            }
            unavailable = states.iter().filter(|state| **state != PartitionState::Serving).count();
            // Sent within the change of the states, so that both change in the same order.
            let mode = if unavailable == 0 { StorageMode::Redis } else { StorageMode::Degraded };
            self.mode.send_if_modified(|known| replace(known, mode) != mode);
            changed
        });
        if unavailable > 0 {
            self.outage.record_unavailable(self.client.target(), unavailable, error);
        } else if changed {
            self.outage.ended(self.client.target(), self.client.process());
        }
    }

    /// Notifies the receivers of the states although no state has changed, so that they compare histories.
    pub fn announce_other_history(&self) {
        self.states.send_modify(|_| {});
    }

    /// Records that the checks at the start have logged why Redis can't be used.
    pub fn record_outage_logged(&self, error: &RedisError) {
        self.outage.record_logged(PARTITIONS, error);
    }
}

/// Hashes a name to a number that can be compared with others of this process.
fn hash(name: &str) -> u64 {
    BuildHasherDefault::<DefaultHasher>::default().hash_one(name)
}
