//! Pushing entries to the primary: each is merged with the version there, and the outcome replaces exactly the version
//! that was read.
//!
//! An entry of which the primary has no record is stored; otherwise `merge` decides. A version that is not known to be
//! in the primary is never dropped without a line in the report. The line is written before a merge is sent, because
//! the merge may be executed even though no answer comes.

use std::{collections::HashSet, sync::Arc, time::Duration};

use tokio::time::timeout;
use tracing::warn;

use super::{
    busy::BusyJobs,
    cache::LocalCache,
    entries::{CacheEntry, SentChanges},
    partition::ComparedHistories,
    report::Reports,
};
use crate::{
    clock::Clock,
    domain::{Branch, Job, JobId, TOMBSTONE_LIFE, merge},
    store::{PrimaryStore, ReconcileOutcome, Record, Replaced, Replacement, StoreError, Stored},
};

/// The reason for dropping a job whose record is damaged.
const UNREADABLE: &str = "the record in Redis can't be read";

/// The reason for dropping a job that the primary last confirmed so long ago that the tombstone of a deletion would be
/// forgotten by now.
const DELETED: &str = "it may have been deleted meanwhile";

/// Maximum time for which a change waits for a push of its job that is under way.
const PUSH_WAIT: Duration = Duration::from_millis(100);

/// Pushes entries to the primary.
pub struct Pusher {
    primary: Arc<dyn PrimaryStore>,
    cache: Arc<LocalCache>,
    clock: Arc<dyn Clock>,
    compared: Arc<ComparedHistories>,
    reports: Arc<Reports>,
    /// The entries that are being pushed: at most one push of each job is under way at a time.
    pushes: BusyJobs,
}

impl Pusher {
    /// Creates a pusher of the entries of `cache` to `primary`, which records the outcomes in `reports`.
    pub fn new(
        primary: Arc<dyn PrimaryStore>,
        cache: Arc<LocalCache>,
        clock: Arc<dyn Clock>,
        compared: Arc<ComparedHistories>,
        reports: Arc<Reports>,
    ) -> Self {
        Self { primary, cache, clock, compared, reports, pushes: BusyJobs::default() }
    }

    /// Pushes the dirty entry of one job, or waits for a push that is under way.
    pub async fn push_one(&self, id: &JobId) -> Result<(), StoreError> {
        let Some(entry) = self.cache.entry(id).filter(|entry| entry.dirty) else { return Ok(()) };
        let claim = self.pushes.claim([id].into_iter());
        if !claim.has(id) {
            // The push under way may include many jobs, so the wait is limited.
            _ = timeout(PUSH_WAIT, self.pushes.wait(id)).await;
            return Ok(());
        }
        self.reports.reported(self.push_claimed(vec![entry])).await
    }

    /// Pushes entries that no other task is pushing.
    pub async fn push(&self, mut entries: Vec<CacheEntry>) -> Result<(), StoreError> {
        let claim = self.pushes.claim(entries.iter().map(|entry| &entry.job.id));
        let claimed: HashSet<_> = claim.ids().collect();
        entries.retain(|entry| claimed.contains(&entry.job.id));
        self.push_claimed(entries).await
    }

    async fn push_claimed(&self, mut entries: Vec<CacheEntry>) -> Result<(), StoreError> {
        while !entries.is_empty() {
            let ids: Vec<_> = entries.iter().map(|entry| entry.job.id.clone()).collect();
            let theirs = self.primary.get_many(&ids).await?;
            let mut writes = Vec::new();
            for (entry, theirs) in entries.drain(..).zip(theirs) {
                writes.extend(self.reconcile_entry(entry, theirs).await?);
            }
            let (pushed, writes): (Vec<_>, Vec<_>) = writes.into_iter().unzip();
            self.cache.mark_sent(&ids);
            for (entry, outcome) in pushed.into_iter().zip(self.primary.replace_many(writes).await) {
                match outcome {
                    Ok(Replaced::Stored(stored)) => self.cache.mark_synced(&entry.job, &stored),
                    // The primary has another version by now, and the cache may have one, too.
                    Ok(Replaced::Conflict(_)) => entries.extend(self.cache.entry(&entry.job.id)),
                    Err(StoreError::Corrupt(_)) => self.drop_entry(&entry, UNREADABLE),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }

    /// Compares an entry with the record of the primary. Returns the write to make, if any.
    async fn reconcile_entry(
        &self,
        entry: CacheEntry,
        theirs: Record,
    ) -> Result<Option<(CacheEntry, Replacement)>, StoreError> {
        let may_have_been_deleted = self.may_have_been_deleted(&entry);
        match theirs {
            Record::Corrupt => self.drop_entry(&entry, UNREADABLE),
            Record::Missing if may_have_been_deleted => self.drop_entry(&entry, DELETED),
            Record::Missing if !entry.dirty && !entry.is_live(self.clock.now()) => self.cache.forget(&entry.job),
            Record::Missing => {
                self.record_outcome(&entry, false);
                let mut job = entry.job.clone();
                Arc::make_mut(&mut job).branch = entry.branch_of_push(None, self.lineage(&entry.job.id));
                return Ok(Some((entry, Replacement { job, previous: None })));
            }
            // An incarnation that other replicas created under this id prevails: the entry may have been deleted
            // before.
            Record::Found(theirs)
                if theirs.job.version.incarnation_id != entry.job.version.incarnation_id && may_have_been_deleted =>
            {
                self.record_dropped(&entry, DELETED);
                self.cache.mark_synced(&entry.job, &theirs);
            }
            Record::Found(theirs) => return self.merge_with(entry, theirs).await,
        }
        Ok(None)
    }

    /// Merges an entry with the version of the primary. Returns the write to make, if any.
    async fn merge_with(
        &self,
        entry: CacheEntry,
        theirs: Stored,
    ) -> Result<Option<(CacheEntry, Replacement)>, StoreError> {
        let mut merged = merge(&entry.job, &theirs.job);
        merged.job.branch = self.branch_of_merge(&entry, &theirs.job, merged.job.branch.as_deref());
        self.record_outcome(&entry, merged.discarded.is_some() && is_apart(&entry, &theirs.job));
        let is_active = !theirs.job.state.is_terminal() && theirs.job.removal.is_none();
        let reported_here = entry.dirty && entry.job.report_time > theirs.job.report_time;
        if reported_here && is_active && merged.job.report_time == theirs.job.report_time {
            // The worker of the version that prevails has reported here, too.
            self.primary.renew(&theirs.job).await?;
        }
        if merged.job.version != theirs.job.version {
            return Ok(Some((entry, Replacement { job: merged.job.into(), previous: Some(theirs.job) })));
        }
        let is_other = entry.job.version.incarnation_id != theirs.job.version.incarnation_id;
        if entry.dirty && is_other && entry.job.removal.is_some() {
            // A write of the deleted incarnation may still be in transit: a new revision of the version that prevails
            // makes that write fail.
            let mut job = merged.job;
            job.version.revision += 1;
            return Ok(Some((entry, Replacement { job: job.into(), previous: Some(theirs.job) })));
        }
        self.cache.mark_synced(&entry.job, &theirs);
        Ok(None)
    }

    /// Returns the branch of a merged version. `winner` is that of the version that prevails.
    fn branch_of_merge(&self, entry: &CacheEntry, theirs: &Job, winner: Option<&Branch>) -> Option<Arc<Branch>> {
        if winner == theirs.branch.as_deref() || entry.base == Some(theirs.version) {
            theirs.branch.clone()
        } else {
            entry.branch_of_push(theirs.branch.as_deref(), self.lineage(&entry.job.id))
        }
    }

    fn lineage(&self, id: &JobId) -> u64 {
        self.primary.history(self.cache.partition_of(id)).lineage
    }

    /// Returns whether the job was in the primary once, and could have been deleted and forgotten there since. A job
    /// that the primary has lost does not count as deleted.
    fn may_have_been_deleted(&self, entry: &CacheEntry) -> bool {
        let partition = self.cache.partition_of(&entry.job.id);
        let is_old = self.clock.now().since(entry.unconfirmed_since) > TOMBSTONE_LIFE;
        is_old && entry.job.is_recorded() && self.compared.of(partition) == self.primary.history(partition)
    }

    fn drop_entry(&self, entry: &CacheEntry, reason: &'static str) {
        self.record_dropped(entry, reason);
        self.cache.forget(&entry.job);
    }

    fn record_dropped(&self, entry: &CacheEntry, reason: &'static str) {
        if entry.dirty || entry.job.removal.is_none() {
            warn!(job_id = %entry.job.id, reason, "a job is dropped");
            self.reports.record_outcome(&entry.job.id, ReconcileOutcome::Dropped, reason);
        }
    }

    /// Records the outcome of an entry before the write is sent.
    fn record_outcome(&self, entry: &CacheEntry, conflict: bool) {
        if conflict {
            warn!(job_id = %entry.job.id, "conflicting changes merged; one was discarded");
            self.reports.record_outcome(
                &entry.job.id,
                ReconcileOutcome::Conflicted,
                "changed here and elsewhere; one change was discarded",
            );
        } else if entry.dirty {
            self.reports.record_outcome(&entry.job.id, ReconcileOutcome::Merged, "stored without discarding a change");
        }
    }
}

/// Returns whether neither `theirs` nor the entry was derived from the other, as far as is known here.
fn is_apart(entry: &CacheEntry, theirs: &Job) -> bool {
    let ours = &entry.job;
    if ours.version.incarnation_id != theirs.version.incarnation_id {
        // An incarnation that was created over the tombstone of the other has a first revision above all revisions of
        // the other, and the same `since`.
        let is_chain = ours.since.is_some() && ours.since == theirs.since;
        let comes_after = |one: &Job, other: &Job| one.version.first_revision > other.version.revision;
        return !(is_chain && (comes_after(ours, theirs) || comes_after(theirs, ours)));
    }
    // The primary once had the version of a clean or lost entry, so the branches decide about it, below. Any other
    // dirty entry has changes that the primary may never have had.
    if entry.dirty && entry.base != Some(ours.version) {
        // Each change that a process makes to a job is derived from the previous change of that process, unless that
        // one has no answer.
        let is_other_process = ours.version.change_id.process != theirs.version.change_id.process;
        return entry.base != Some(theirs.version) && (entry.sent == SentChanges::Unanswered || is_other_process);
    }
    !ours.descends_from(theirs) && !theirs.descends_from(ours)
}
