//! Changes of entries: versions that are accepted here, and versions of the primary.

use std::{
    sync::{Arc, MutexGuard},
    time::{Duration, Instant},
};

use super::LocalCache;
use crate::{
    domain::{Job, JobId, State, TOMBSTONE_LIFE, Timestamp, Version},
    store::{
        Replaced, StoreError, Stored,
        fallback::{
            entries::{Entries, EntryMeta, Eviction, FreshnessToken, SentChanges, comes_after, volatile},
            partition::Partition,
        },
        table::Row,
    },
};

/// Time for which changes of a job are accepted here after the primary failed a command for it: two probe intervals,
/// after which a silent primary counts as unavailable.
const SUSPICION: Duration = Duration::from_millis(500);

/// The relation of an entry to a version that the primary has, or had.
enum Comparison {
    /// The entry has this version.
    Same,
    /// The entry stays: it is newer, or a reconciliation decides.
    Stays,
    /// The primary has a version of the same or a higher revision that, as far as is known, does not descend from the
    /// entry.
    DataLoss,
    /// The version replaces the entry.
    Superseded,
}

/// Compares an entry with the version `job` of the primary. `replaced` is the version that `job` replaced there, if it
/// is known.
fn compare(row: &Row<EntryMeta>, job: &Job, replaced: Option<Version>, partition: &Partition) -> Comparison {
    let cached = row.job.version;
    if cached == job.version {
        return Comparison::Same;
    }
    // The answer to a write of this replica: the primary had the entry, and now has the version that was made from it.
    if replaced == Some(cached) {
        return if partition.is_of_lineage(job) { Comparison::Superseded } else { Comparison::Stays };
    }
    // A reconciliation decides about entries that it has not compared yet.
    if row.meta.dirty || !(partition.is_readable() || partition.has_compared(row.meta.compared_in)) {
        return Comparison::Stays;
    }
    let is_same_incarnation = cached.incarnation_id == job.version.incarnation_id;
    if is_same_incarnation && cached.revision == job.version.revision {
        return Comparison::DataLoss;
    }
    // The primary may have lost data since the pass compared this entry. If both versions have ended, only a merge
    // decides which end prevails.
    let ended_here = row.job.state.is_terminal() && is_same_incarnation;
    if !comes_after(job, &row.job) || ended_here && job.removal.is_none() && !partition.is_available() {
        return Comparison::Stays;
    }
    if is_same_incarnation && !job.descends_from(&row.job) {
        return Comparison::DataLoss;
    }
    Comparison::Superseded
}

impl LocalCache {
    /// Accepts a version that the primary did not confirm. `previous` is the version that it was derived from; `sent`:
    /// the primary may have received it.
    pub fn accept(&self, job: Arc<Job>, previous: Option<&Job>, sent: bool) -> Result<Replaced, StoreError> {
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        let now = self.clock.now();
        let there = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now));
        // Without an entry there is no conflict, because `previous` has just been read from the primary.
        if let Some(row) = there {
            if row.job.version == job.version {
                return Ok(Replaced::Stored(volatile(job)));
            }
            // The times differ if the clock was set since `previous` was read.
            let known = |job: &Job| (job.version, job.create_time);
            if previous.map(known) != Some(known(&row.job)) {
                return Ok(Replaced::Conflict(Some(volatile(row.job.clone()))));
            }
        }
        let job = if previous.is_none() { entries.with_moved_times(job, now) } else { job };
        let before = there.map(|row| row.meta);
        let base = before.map_or_else(|| previous.map(|job| job.version), |before| before.base);
        let confirmed = before.map_or(now, |before| before.confirmed);
        let (lost, suspect_until) = before.map_or((false, None), |before| (before.lost, before.suspect_until));
        let was_sent = before
            .map_or(if previous.is_none() { SentChanges::None } else { SentChanges::Included }, |before| before.sent);
        let sent = if sent && was_sent == SentChanges::None { SentChanges::Included } else { was_sent };
        let evicted = entries.evict_for(self.capacity, &job, Eviction::Required)?;
        // Called before the version is acknowledged, so that no beat claims that the primary has it.
        self.presence.begin_dirty(partition);
        let before = previous.filter(|before| before.version.incarnation_id == job.version.incarnation_id);
        let meta = EntryMeta { lost, sent, suspect_until, base, ..entries.meta(&job, partition, true, confirmed) };
        entries.put(job.clone(), meta);
        self.report_dirty(&entries, partition);
        self.announce(&mut entries, volatile(job.clone()), before.map(|before| before.state));
        drop(entries);
        drop(evicted);
        self.sync_needed[partition].notify_one();
        Ok(Replaced::Stored(volatile(job)))
    }

    /// Records that the primary failed a command for a job. Until the primary has been checked, changes of the job are
    /// accepted here: a caller that has waited to read from a silent primary does not wait again.
    pub fn suspect(&self, id: &JobId) {
        if let Some((_, meta)) = self.entries().table.meta_mut(id) {
            meta.suspect_until = Some(Instant::now() + SUSPICION);
        }
    }

    /// Records that a change of a job was sent to the primary, that no answer has arrived, and that the change was not
    /// accepted here.
    pub fn mark_unanswered(&self, id: &JobId) {
        if let Some((_, meta)) = self.entries().table.meta_mut(id) {
            meta.sent = SentChanges::Unanswered;
        }
    }

    /// Records that these entries are about to be sent to the primary.
    pub fn mark_sent(&self, ids: &[JobId]) {
        let mut entries = self.entries();
        for id in ids {
            if let Some((_, meta)) = entries.table.meta_mut(id).filter(|(_, meta)| meta.sent == SentChanges::None) {
                meta.sent = SentChanges::Included;
            }
        }
    }

    /// Records a version that was read from the primary.
    pub fn learn(&self, stored: &Stored) {
        self.learn_commit(stored, None, None);
    }

    /// Records a version of the primary. `before` is the state before it, and `replaced` the version that it replaced,
    /// if they are known. A later version replaces the entry; if it is unclear which is later, a reconciliation merges
    /// the two.
    pub fn learn_commit(&self, stored: &Stored, before: Option<State>, replaced: Option<Version>) {
        let (job, now) = (&stored.job, self.clock.now());
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        let meta = entries.meta(job, partition, false, now);
        if let Some(row) = entries.table.get(&job.id).filter(|row| !Entries::is_forgotten(row, now)) {
            match compare(row, job, replaced, &entries.partitions[partition]) {
                Comparison::Same if row.meta.dirty => {
                    self.put_clean(&mut entries, job.clone(), meta);
                    return self.announce(&mut entries, stored.clone(), before);
                }
                // The record may be in another branch than when the entry was read.
                Comparison::Same if row.job.branch != job.branch => {
                    return self.put_clean(&mut entries, job.clone(), meta);
                }
                Comparison::Same => {
                    entries.table.meta_mut(&job.id).into_iter().for_each(|(_, known)| *known = meta);
                    return;
                }
                Comparison::Stays => return,
                Comparison::DataLoss => return self.mark_unavailable(&mut entries, partition, false),
                Comparison::Superseded => {
                    let displaced = row.job.clone();
                    self.announce_displaced(&mut entries, &displaced, job, now);
                }
            }
        }
        let evicted = entries.evict_for(self.capacity, job, Eviction::Optional);
        if evicted.is_ok() {
            self.put_clean(&mut entries, job.clone(), meta);
        } else {
            // There is no space for this version, and an older one must not be served.
            entries.forget(&job.id);
        }
        self.announce(&mut entries, stored.clone(), before);
        drop(entries);
        drop(evicted);
    }

    fn put_clean(&self, entries: &mut Entries, job: Arc<Job>, meta: EntryMeta) {
        debug_assert!(!meta.dirty, "a clean entry is a version that the primary has");
        entries.put(job, meta);
        self.report_dirty(entries, meta.partition);
    }

    fn report_dirty(&self, entries: &Entries, partition: usize) {
        self.presence.set_dirty_jobs(partition, entries.partitions[partition].dirty());
    }

    /// Handles the answer to a write of this replica: the primary has stored `job`, and is known to have had it after
    /// `since` was taken. Returns whether the answer counts. If the entry has another version by now, the answer counts
    /// if that version was made from `job` or, in another incarnation, prevails over it. Otherwise the answer counts if
    /// it is of the known lineage. An answer that does not count may be of a version that the primary has lost since.
    pub fn confirm_write(&self, job: &Job, since: Option<FreshnessToken>) -> bool {
        let at = self.partition_of(&job.id);
        let mut entries = self.entries();
        let token = entries.freshness(&job.id);
        let is_of_lineage = entries.partitions[at].is_of_lineage(job);
        let Some(row) = entries.table.get(&job.id) else { return is_of_lineage };
        if row.job.version != job.version {
            let is_same_incarnation = row.job.version.incarnation_id == job.version.incarnation_id;
            return if is_same_incarnation { row.job.descends_from(job) } else { comes_after(&row.job, job) };
        }
        if is_of_lineage || row.meta.dirty {
            if let Some((_, meta)) = entries.table.meta_mut(&job.id).filter(|_| since == token) {
                meta.fresh = since;
            }
            return is_of_lineage;
        }
        let (cached, meta) = (row.job.clone(), row.meta);
        self.put_lost(entries, cached, meta);
        false
    }

    /// Makes a clean entry dirty, because the primary has lost its version.
    fn put_lost(&self, mut entries: MutexGuard<'_, Entries>, job: Arc<Job>, meta: EntryMeta) {
        self.presence.begin_dirty(meta.partition);
        entries.put(job, EntryMeta { dirty: true, lost: true, fresh: None, ..meta });
        self.report_dirty(&entries, meta.partition);
        drop(entries);
        self.sync_needed[meta.partition].notify_one();
    }

    /// Records that the version `sent` was pushed, and the primary has `stored` now. Later changes of the entry stay.
    pub fn mark_synced(&self, sent: &Job, stored: &Stored) {
        let partition = self.partition_of(&sent.id);
        let mut entries = self.entries();
        let Some(row) = entries.table.get(&sent.id) else { return };
        if row.job.version != sent.version && row.job.version != stored.job.version {
            return;
        }
        // A subscriber that listed jobs in the primary may have missed a version that was accepted here.
        let is_news = row.meta.dirty || row.job.version != stored.job.version;
        let same = row.job.version.incarnation_id == stored.job.version.incarnation_id;
        let before = Some(row.job.state).filter(|_| same);
        let displaced = row.job.clone();
        let now = self.clock.now();
        self.announce_displaced(&mut entries, &displaced, &stored.job, now);
        let meta = entries.meta(&stored.job, partition, false, now);
        let compared_in = entries.partitions[partition].pass();
        self.put_clean(&mut entries, stored.job.clone(), EntryMeta { fresh: None, compared_in, ..meta });
        if is_news {
            self.announce(&mut entries, stored.clone(), before);
        }
    }

    /// Removes the entry of this version.
    pub fn forget(&self, job: &Job) {
        let partition = self.partition_of(&job.id);
        let mut entries = self.entries();
        if entries.table.get(&job.id).is_some_and(|row| row.job.version == job.version) {
            let forgotten = entries.forget(&job.id);
            self.report_dirty(&entries, partition);
            drop(entries);
            drop(forgotten);
        }
    }

    /// Handles a missing record: the primary, asked after `since` was taken, has no record of `id`. If the same entry
    /// is still cached, and a deletion would have left a tombstone, the record was lost: the entry becomes dirty, and
    /// is returned.
    pub fn mark_record_lost(&self, id: &JobId, since: Option<FreshnessToken>) -> Option<Stored> {
        let now = self.clock.now();
        let entries = self.entries();
        if !since?.is_of_same_entry(&entries.freshness(id)?) {
            return None;
        }
        let row = entries.table.get(id)?;
        let (job, meta) = (row.job.clone(), row.meta);
        let unconfirmed_since = entries.entry(row, now).unconfirmed_since;
        let is_remembered = now.since(unconfirmed_since) < TOMBSTONE_LIFE;
        if job.removal.is_some() || !job.is_visible(now) || !(meta.dirty || is_remembered) {
            return None;
        }
        if meta.dirty {
            return Some(volatile(job));
        }
        self.put_lost(entries, job.clone(), meta);
        Some(volatile(job))
    }

    /// Announces the removal of a job that was replaced by another one under its id. Watchers that select by owner and
    /// kind may not match the other job, and would otherwise not learn of the removal.
    fn announce_displaced(&self, entries: &mut Entries, displaced: &Job, by: &Job, now: Timestamp) {
        let is_other = displaced.version.incarnation_id != by.version.incarnation_id;
        let is_hidden = displaced.owner != by.owner || displaced.kind != by.kind;
        if is_other && is_hidden && displaced.removal.is_none() {
            let mut removed = displaced.expired(now, by.version.change_id);
            // Keeps the revision, because the other job may have the next one and must be newer than the removal.
            removed.version.revision = displaced.version.revision;
            self.announce(entries, volatile(removed.into()), Some(displaced.state));
        }
    }
}
