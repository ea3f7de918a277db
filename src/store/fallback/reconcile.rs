//! When the store of record is back: everything that is held is merged with what it has, before it serves.
//!
//! Each entry is offered, clean or dirty: the store of record may have come back empty, older, or changed by others.
//! What is missing there is put; otherwise the one merge rule decides, and the outcome replaces exactly the version that
//! was read. What is not known to be there is never dropped without an entry in the ledger, which is written when a
//! merge is sent: it may be carried out even though no answer comes.

use std::time::{Duration, Instant};

use futures_util::{StreamExt, TryStreamExt, stream};
use tokio::time::sleep;
use tracing::{debug, info, warn};

use super::{FallbackStore, entries::Entry};
use crate::{
    domain::{ChangeId, Job, TOMBSTONE_LIFE, merge},
    store::{ReconcileOutcome, ReconcileReport, Record, Replaced, Replacement, StorageMode, StoreError, jitter},
    telemetry::metrics::{Counters, Histogram, Measured, Metrics, histogram},
};

/// How many entries are offered together.
const BATCH: usize = 100;

/// How many batches are under way at a time.
const AT_ONCE: usize = 2;

/// Down to how many dirty entries changes go on being accepted; the last ones are offered while changes wait.
const FEW: usize = 256;

/// After how many rounds changes wait, however many dirty entries there are.
const MANY: usize = 3;

/// How often what is over is forgotten.
const TIDY: Duration = Duration::from_secs(10);

/// Why a job is dropped whose record is damaged.
const UNREADABLE: &str = "what the store of record has can't be read";

/// Why a job is dropped that was not heard of for longer than deletions are remembered.
const DELETED: &str = "it may have been deleted meanwhile";

/// The pauses between attempts to reach the store of record.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(500));

impl FallbackStore {
    /// Brings the store of record back whenever it is away, for ever.
    pub async fn run(&self) {
        tokio::join!(self.look_out(), self.bring_back(), self.tidy());
    }

    async fn tidy(&self) {
        loop {
            sleep(TIDY).await;
            self.held.tidy();
        }
    }

    /// Notices that the store of record is away while nobody calls.
    async fn look_out(&self) {
        let mut mode = self.primary.mode();
        loop {
            let is_away = *mode.borrow_and_update() == StorageMode::Degraded;
            if is_away || self.data_set() != *self.reconciled() {
                // Whether it can be read is found out by the prober.
                self.held.go_away(false);
            }
            if mode.changed().await.is_err() {
                return;
            }
        }
    }

    /// Has the store of record be what is served from, and have all that is held.
    async fn bring_back(&self) {
        loop {
            self.held.is_unsettled().await;
            let mut pause = PAUSES.0;
            while self.held.is_away() || self.held.dirty() > 0 {
                sleep(pause / 2 + jitter(pause / 2)).await;
                pause = (pause * 2).min(PAUSES.1);
                let outcome = if self.held.is_away() { self.reconcile().await } else { self.offer_again().await };
                if let Err(error) = outcome {
                    debug!(%error, "the store of record does not take what is held");
                }
                self.closing.send_replace(false);
            }
        }
    }

    /// Merges what is held with what the store of record has, if that takes writes again.
    async fn reconcile(&self) -> Result<(), StoreError> {
        self.primary.accept_any();
        if let Err(error) = self.primary.ping().await {
            self.held.go_away(error == StoreError::ReadOnly);
            return Err(error);
        }
        let started = Instant::now();
        self.ledger().begin(self.clock.now());
        let data_set = self.data_set();
        let same_data = data_set == *self.reconciled();
        for round in 0.. {
            self.offer_all(self.held.to_offer(round > 0), same_data).await?;
            let dirty = self.held.dirty();
            if dirty == 0 && self.held.come_back() {
                break;
            }
            self.closing.send_replace(dirty <= FEW || round >= MANY);
        }
        self.end();
        self.metrics.seconds.observe(started.elapsed().as_secs_f64());
        *self.reconciled() = data_set;
        // It may have gone away again before it was back.
        if self.data_set() != data_set || *self.primary.mode().borrow() == StorageMode::Degraded {
            self.held.go_away(false);
            return Err(StoreError::Unavailable);
        }
        info!("the store of record is back");
        Ok(())
    }

    /// Offers writes again that had no answer though the store of record serves.
    async fn offer_again(&self) -> Result<(), StoreError> {
        self.closing.send_replace(true);
        self.ledger().begin(self.clock.now());
        let same_data = self.data_set() == *self.reconciled();
        let outcome = self.offer_all(self.held.to_offer(true), same_data).await;
        self.end();
        outcome
    }

    async fn offer_all(&self, entries: Vec<Entry>, same_data: bool) -> Result<(), StoreError> {
        let offers = stream::iter(entries).chunks(BATCH).map(|batch| self.offer(batch, same_data));
        offers.buffer_unordered(AT_ONCE).try_for_each(async |()| Ok(())).await
    }

    /// Has the store of record take what is held, or the other way round.
    async fn offer(&self, mut entries: Vec<Entry>, same_data: bool) -> Result<(), StoreError> {
        while !entries.is_empty() {
            let ids: Vec<_> = entries.iter().map(|entry| entry.job.id.clone()).collect();
            let theirs = self.primary.get_many(&ids).await?;
            let pairs = entries.drain(..).zip(theirs);
            let (offered, writes): (Vec<_>, Vec<_>) =
                pairs.filter_map(|(entry, theirs)| self.settle(entry, theirs, same_data)).unzip();
            for (entry, outcome) in offered.into_iter().zip(self.primary.replace_many(writes).await) {
                match outcome {
                    Ok(Replaced::Stored(stored)) => self.held.settle(&entry.job, &stored),
                    // Something else is there by now, and may be here.
                    Ok(Replaced::Conflict(_)) => entries.extend(self.held.entry(&entry.job.id)),
                    Err(StoreError::Corrupt(_)) => self.drop_entry(&entry, UNREADABLE),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Judges an entry by what the store of record has. Returns what is to be written, if anything is.
    fn settle(&self, entry: Entry, theirs: Record, same_data: bool) -> Option<(Entry, Replacement)> {
        let theirs = match theirs {
            Record::Corrupt => {
                self.drop_entry(&entry, UNREADABLE);
                return None;
            }
            Record::Missing if same_data && self.may_have_been_deleted(&entry) => {
                self.drop_entry(&entry, DELETED);
                return None;
            }
            Record::Missing if !entry.dirty && !entry.is_live(self.clock.now()) => {
                self.held.forget(&entry.job);
                return None;
            }
            Record::Missing => {
                self.enter(&entry, false);
                let job = entry.job.clone();
                return Some((entry, Replacement { job, previous: None }));
            }
            // What others made under this id, after it was deleted perhaps, stands.
            Record::Found(theirs)
                if theirs.job.version.incarnation_id != entry.job.version.incarnation_id
                    && same_data
                    && self.may_have_been_deleted(&entry) =>
            {
                self.enter_dropped(&entry, DELETED);
                self.held.settle(&entry.job, &theirs);
                return None;
            }
            Record::Found(theirs) => theirs,
        };
        let merged = merge(&entry.job, &theirs.job);
        self.enter(&entry, merged.lost.is_some_and(|lost| is_apart(&entry, &theirs.job, lost)));
        if merged.job.version == theirs.job.version {
            self.held.settle(&entry.job, &theirs);
            return None;
        }
        Some((entry, Replacement { job: merged.job.into(), previous: Some(theirs.job) }))
    }

    /// Whether the job was in the store of record once, and could have been deleted there and forgotten since.
    fn may_have_been_deleted(&self, entry: &Entry) -> bool {
        entry.job.recorded && self.clock.now().since(entry.unconfirmed_since) > TOMBSTONE_LIFE
    }

    fn drop_entry(&self, entry: &Entry, reason: &'static str) {
        self.enter_dropped(entry, reason);
        self.held.forget(&entry.job);
    }

    fn enter_dropped(&self, entry: &Entry, reason: &'static str) {
        if entry.dirty || entry.job.removal.is_none() {
            warn!(job_id = %entry.job.id, reason, "a job is dropped");
            self.note(entry, ReconcileOutcome::Dropped, reason);
        }
    }

    /// Enters what is about to be done with an entry.
    fn enter(&self, entry: &Entry, conflict: bool) {
        if conflict {
            info!(job_id = %entry.job.id, "a job was changed on two sides");
            let reason = "it was changed here and elsewhere; one change gave way";
            self.note(entry, ReconcileOutcome::Conflicted, reason);
        } else if entry.dirty {
            self.note(entry, ReconcileOutcome::Merged, "stored as it was here");
        }
    }

    fn note(&self, entry: &Entry, outcome: ReconcileOutcome, reason: &'static str) {
        self.metrics.jobs.of(outcome as usize).inc();
        self.ledger().enter(&entry.job.id, outcome, reason);
    }

    fn end(&self) {
        let mut ledger = self.ledger();
        ledger.end(self.clock.now());
        if let Some(ReconcileReport { counts: [merged, conflicted, dropped], .. }) = ledger.summary() {
            info!(merged, conflicted, dropped, "reconciled");
        }
    }
}

/// What reconciliations did, in numbers.
pub struct ReconcileMetrics {
    /// Jobs, in the order of [`ReconcileOutcome::ALL`].
    jobs: Counters<{ ReconcileOutcome::ALL.len() }>,
    seconds: Histogram,
}

impl Default for ReconcileMetrics {
    fn default() -> Self {
        Self {
            jobs: Counters::new(
                "jobtrack_reconciled_jobs_total",
                "Jobs that were offered to Redis after an outage, by what became of them; each offer counts.",
                "outcome",
                ["merged", "conflicted", "dropped"],
            ),
            seconds: histogram(
                "jobtrack_reconciliation_seconds",
                "How long it took, with Redis back, until all that was held here was in it.",
                &[0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0],
            ),
        }
    }
}

impl Measured for ReconcileMetrics {
    fn metrics(&self) -> Metrics {
        vec![self.jobs.collector(), Box::new(self.seconds.clone())]
    }
}

/// Whether `theirs` was not made from what is held, nor that from `theirs`, as far as this replica can tell; `lost` is
/// the change that gives way.
fn is_apart(entry: &Entry, theirs: &Job, lost: ChangeId) -> bool {
    let ours = &entry.job;
    if ours.version.incarnation_id != theirs.version.incarnation_id {
        // A life begins behind all revisions of the one before.
        let comes_after = |one: &Job, other: &Job| one.version.first_revision > other.version.revision;
        return !comes_after(ours, theirs) && !comes_after(theirs, ours);
    }
    if entry.dirty {
        // What one process did to a job is one history.
        return entry.base != Some(theirs.version)
            && ours.version.change_id.process != theirs.version.change_id.process;
    }
    // What was known to be there gives way to what others made of it; what is older there was there before.
    if lost == theirs.version.change_id {
        theirs.update_time > ours.update_time
    } else {
        theirs.version.revision <= ours.version.revision
    }
}
