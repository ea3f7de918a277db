//! The entries of the local cache: their metadata, and their eviction.

use std::{sync::Arc, time::Instant};

use super::partition::Partition;
use crate::{
    domain::{Branch, Job, JobId, TOMBSTONE_LIFE, Timestamp, Version, merge},
    store::{
        Capacity, CommitPosition, Durability, Source, StoreError, Stored, new_branch_id,
        table::{Need, Row, Table, record_size},
    },
};

/// Maximum number of finished jobs of one owner examined to find one to evict: the dirty ones of one owner must not
/// hide the clean ones of others.
const EXAMINED_PER_OWNER_MAX: usize = 10;

/// Maximum number of entries examined to find one to evict.
const EXAMINED_MAX: usize = 100;

/// Maximum number of entries examined under one lock.
pub const LOCKED_MAX: usize = 2000;

/// The effort to evict entries for a version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Eviction {
    /// The version must be cached, as the primary does not have it: all entries are examined if necessary.
    Required,
    /// The primary has the version: only a few entries are examined.
    Optional,
}

/// The entries, and the known state of the primary.
#[derive(Default)]
pub struct Entries {
    /// The entries.
    pub table: Table<EntryMeta>,
    /// The primary's partitions.
    pub partitions: Vec<Partition>,
    /// Estimated size of the dirty entries in bytes.
    dirty_bytes: usize,
    /// Position of the last announced version.
    pub position: CommitPosition,
    /// Time before which every commit is known here, or has made its entry stale.
    pub notified_until: Option<Instant>,
    /// Number of gaps in the notifications: each gap makes all entries stale.
    gaps: u64,
    /// Time of the last gap while the primary served.
    last_gap: Option<Timestamp>,
    /// Number of entries that were ever created.
    made: u64,
    /// Number of microseconds by which the clock stepped when it was last set, and the time that it showed after the
    /// step.
    clock_set: Option<(i64, Timestamp)>,
}

/// The identity of an entry and of the last gap in the notifications: an answer of the primary is fresh if both are
/// still the same as when it was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FreshnessToken {
    entry: u64,
    gaps: u64,
}

impl FreshnessToken {
    /// Returns whether both are of one entry, whatever notifications were lost in between.
    pub fn is_of_same_entry(&self, other: &Self) -> bool {
        self.entry == other.entry
    }
}

impl EntryMeta {
    /// Returns whether the primary has just failed a command for this job.
    pub fn is_suspect(&self) -> bool {
        self.suspect_until.is_some_and(|until| Instant::now() < until)
    }
}

/// The changes of a job that this replica sent to the primary, in relation to the entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SentChanges {
    /// No version of the job was ever sent.
    None,
    /// The entry was made from all changes that the primary may have executed.
    Included,
    /// The primary may have executed a change that the entry was not made from.
    Unanswered,
}

/// The metadata of an entry.
#[derive(Clone, Copy, Debug)]
pub struct EntryMeta {
    /// The partition of the job's id.
    pub partition: usize,
    /// The primary does not have this version.
    pub dirty: bool,
    /// The primary had the version and lost it. Until the version is stored again, the entry is not dropped on the
    /// assumption that its job was deleted.
    pub lost: bool,
    /// The changes of this replica that were sent to the primary.
    pub sent: SentChanges,
    /// Time until which no change of the job is sent to the primary, which failed a command for it.
    pub suspect_until: Option<Instant>,
    /// Last version that the primary is known to have had.
    pub base: Option<Version>,
    /// Time at which the primary was last known to have `base`; without a `base`, time of the creation of the entry.
    pub confirmed: Timestamp,
    /// Number that distinguishes this entry from earlier and later ones of the same id.
    pub entry: u64,
    /// Token as of which the entry is fresh, unless there was another gap since.
    pub fresh: Option<FreshnessToken>,
    /// Newest revision that was notified.
    pub notified: i64,
    /// Pass that last compared the entry with the primary.
    pub compared_in: u64,
}

/// An entry, to be pushed to the primary.
#[derive(Clone, Debug)]
pub struct CacheEntry {
    /// The cached version.
    pub job: Arc<Job>,
    /// The primary does not have this version.
    pub dirty: bool,
    /// Last version that the primary is known to have had.
    pub base: Option<Version>,
    /// Time since which it is unknown whether the primary still has the job.
    pub unconfirmed_since: Timestamp,
    /// The changes of this replica that were sent to the primary.
    pub sent: SentChanges,
}

impl CacheEntry {
    /// Returns whether the retention of the job has not ended. Always true for tombstones, which have no retention.
    pub fn is_live(&self, now: Timestamp) -> bool {
        self.job.removal.is_some() || self.job.is_visible(now)
    }

    /// Returns the branch with which a push stores the entry. If `there`, the branch of the record, has this lineage,
    /// its id is kept; otherwise the branch has a new id. In both cases its parent is the branch of the last version
    /// that the primary is known to have had. `None` if the primary never had a version of the entry.
    pub fn branch_of_push(&self, there: Option<&Branch>, lineage: u64) -> Option<Arc<Branch>> {
        let own = self.job.branch.as_deref()?;
        let base = self.base.filter(|_| self.dirty).unwrap_or(self.job.version).revision;
        // A record of another lineage may be an older copy. Other versions may exist in its branch, so the branch is
        // not reused.
        let there = there.filter(|there| there.lineage == lineage);
        let id = there.map_or_else(new_branch_id, |there| there.id);
        Some(Arc::new(Branch { lineage, id, base, parent: own.parent_at(base) }))
    }
}

impl Entries {
    /// Creates an empty set of entries. All partitions are unavailable since `now`.
    pub fn new(partitions: usize, now: Timestamp) -> Self {
        let partitions = (0..partitions).map(|_| Partition::unavailable_since(now)).collect();
        Self { partitions, ..Self::default() }
    }

    /// Returns the number of dirty entries.
    pub fn dirty(&self) -> usize {
        self.partitions.iter().map(Partition::dirty).sum()
    }

    /// Returns whether all partitions are available.
    pub fn all_available(&self) -> bool {
        self.partitions.iter().all(Partition::is_available)
    }

    /// Returns the metadata of an entry of `job` that was confirmed or created at `now`. The entry is fresh if it
    /// replaces a fresh one.
    pub fn meta(&mut self, job: &Job, partition: usize, dirty: bool, now: Timestamp) -> EntryMeta {
        if let Some(row) = self.table.get(&job.id) {
            let is_same = row.job.version == job.version;
            let sent =
                if is_same && row.meta.sent == SentChanges::Unanswered { row.meta.sent } else { SentChanges::Included };
            let known = EntryMeta { suspect_until: None, sent, ..row.meta };
            return EntryMeta { dirty, lost: false, base: Some(job.version), confirmed: now, ..known };
        }
        self.made += 1;
        EntryMeta {
            partition,
            dirty,
            lost: false,
            sent: SentChanges::Included,
            suspect_until: None,
            base: Some(job.version),
            confirmed: now,
            entry: self.made,
            fresh: None,
            notified: 0,
            compared_in: self.partitions[partition].pass(),
        }
    }

    /// Returns a token for the entry of `id`, if there is one: an answer that the primary gives from now on is fresh as
    /// of this token.
    pub fn freshness(&self, id: &JobId) -> Option<FreshnessToken> {
        self.table.get(id).map(|row| self.freshness_of(&row.meta))
    }

    /// Returns a token for this entry.
    pub const fn freshness_of(&self, meta: &EntryMeta) -> FreshnessToken {
        FreshnessToken { entry: meta.entry, gaps: self.gaps }
    }

    /// Returns whether this is a clean tombstone whose `forget_time` has passed, so that the primary may have forgotten
    /// it.
    pub fn is_forgotten(row: &Row<EntryMeta>, now: Timestamp) -> bool {
        let is_over = row.job.forget_time.is_some_and(|time| time <= now);
        !row.meta.dirty && row.job.removal.is_some() && is_over
    }

    /// Returns whether the primary may still have a record of an entry. After the retention of a finished job the
    /// record is a tombstone, which the primary keeps for `TOMBSTONE_LIFE`.
    pub fn may_have_record(row: &Row<EntryMeta>, now: Timestamp) -> bool {
        let is_live = row.job.removal.is_none() && row.job.state.is_terminal();
        let end = row.job.expire_time.filter(|_| is_live).map(|time| time + TOMBSTONE_LIFE);
        !Self::is_forgotten(row, now) && end.is_none_or(|end| now < end)
    }

    /// Returns an entry in the form in which it is pushed.
    pub fn entry(&self, row: &Row<EntryMeta>, now: Timestamp) -> CacheEntry {
        let EntryMeta { partition, dirty, lost, base, confirmed, sent, .. } = row.meta;
        // While the primary served and notifications arrived, every change was known.
        let no_gap_since = self.last_gap.is_none_or(|gap| confirmed > gap);
        let until = self.partitions[partition].unavailable.map_or(now, |unavailable| unavailable.since);
        let unconfirmed_since = match (lost, no_gap_since) {
            (true, _) => now,
            (false, true) => until.max(confirmed),
            (false, false) => confirmed,
        };
        CacheEntry { job: row.job.clone(), dirty, base, unconfirmed_since, sent }
    }

    /// Stores an entry, which replaces the current one.
    pub fn put(&mut self, job: Arc<Job>, meta: EntryMeta) {
        self.partitions[meta.partition].set_dirty(&job, meta.dirty);
        self.dirty_bytes += if meta.dirty { record_size(&job) } else { 0 };
        let displaced = self.table.put(job, meta);
        self.dirty_bytes -= displaced.as_ref().map_or(0, dirty_size);
    }

    /// Removes and returns an entry. The caller frees the entry after releasing the lock, because freeing may take
    /// long.
    pub fn forget(&mut self, id: &JobId) -> Option<Arc<Job>> {
        let row = self.table.forget(id)?;
        self.dirty_bytes -= dirty_size(&row);
        self.partitions[row.meta.partition].forget(id);
        Some(row.job)
    }

    /// Moves all times by this number of microseconds, except those of versions in the primary, which were read from
    /// its clock. `now` is the time on the clock that was set.
    pub fn move_times(&mut self, by: i64, now: Timestamp) {
        self.clock_set = Some((by, now));
        let rows = (0..self.table.slots()).filter_map(|slot| self.table.slot(slot));
        let unrecorded = rows.filter(|row| !row.job.is_recorded());
        let unrecorded: Vec<_> = unrecorded.map(|row| (row.job.clone(), row.meta)).collect();
        for (job, meta) in unrecorded {
            let meta = EntryMeta { confirmed: meta.confirmed.moved(by), ..meta };
            self.put(Arc::new(job.moved(by)), meta);
        }
        for unavailable in self.partitions.iter_mut().filter_map(|partition| partition.unavailable.as_mut()) {
            unavailable.since = unavailable.since.moved(by);
        }
        self.last_gap = self.last_gap.map(|gap| gap.moved(by));
    }

    /// Returns `job`, which was just created. If its times were read before the clock was set, they are moved by the
    /// step of the clock.
    pub fn with_moved_times(&self, job: Arc<Job>, now: Timestamp) -> Arc<Job> {
        match self.clock_set {
            Some((by, set)) if (by > 0 && job.create_time < set) || (by < 0 && job.create_time > now) => {
                Arc::new(job.moved(by))
            }
            _ => job,
        }
    }

    /// Makes all entries stale. `gap` is the time of a loss of notifications while the primary served.
    pub fn lose_track(&mut self, gap: Option<Timestamp>) {
        self.gaps += 1;
        self.notified_until = None;
        self.last_gap = gap.or(self.last_gap);
    }

    /// Evicts clean entries until a version fits into `capacity`, those of finished jobs first. Returns the evicted
    /// entries, which the caller frees after releasing the lock, because freeing may take long.
    pub fn evict_for(
        &mut self,
        capacity: Capacity,
        job: &Job,
        eviction: Eviction,
    ) -> Result<Vec<Arc<Job>>, StoreError> {
        let must = eviction == Eviction::Required;
        let known = self.table.get(&job.id);
        let is_dirty = known.is_some_and(|row| row.meta.dirty);
        let adds = known.is_none_or(|row| row.job.removal.is_some());
        let Need { growth, is_small } = self.table.need(job);
        // A small change does not justify examining the whole table.
        let must_bytes = must && !is_small;
        let dirty_bytes = self.dirty_bytes + if is_dirty { growth } else { record_size(job) };
        if must && !is_dirty && self.dirty() >= capacity.jobs {
            return Err(StoreError::Full(capacity.jobs_exhausted()));
        }
        if must_bytes && growth > 0 && dirty_bytes > capacity.bytes {
            return Err(StoreError::Full(capacity.bytes_exhausted()));
        }
        let mut evicted: Vec<_> = self.evict_tombstone(capacity).into_iter().collect();
        loop {
            let lacks_jobs = adds && self.table.len() >= capacity.jobs;
            let lacks_bytes = growth > 0 && self.table.bytes() + growth > capacity.bytes;
            let exhausted = match (lacks_jobs, lacks_bytes) {
                (false, false) => return Ok(evicted),
                (true, _) => capacity.jobs_exhausted(),
                (false, true) => capacity.bytes_exhausted(),
            };
            let examines_all = if lacks_jobs { must } else { must_bytes };
            match self.next_to_evict(&job.id, examines_all, !lacks_jobs).and_then(|id| self.forget(&id)) {
                Some(entry) => evicted.push(entry),
                None if is_small && !lacks_jobs => return Ok(evicted),
                None => return Err(StoreError::Full(exhausted)),
            }
        }
    }

    /// Evicts the oldest clean tombstone, if there are more tombstones than `capacity` has jobs.
    fn evict_tombstone(&mut self, capacity: Capacity) -> Option<Arc<Job>> {
        if self.table.tombstones().len() <= capacity.jobs {
            return None;
        }
        let oldest = self.table.tombstones().take(EXAMINED_MAX).find(|id| self.is_clean(id)).cloned()?;
        self.forget(&oldest)
    }

    fn is_clean(&self, id: &JobId) -> bool {
        self.table.get(id).is_some_and(|row| !row.meta.dirty)
    }

    /// Returns the clean entry to evict next for a version of `id`: of a finished job if there is one, otherwise of any
    /// job; with `tombstones`, tombstones may be evicted, too.
    fn next_to_evict(&mut self, id: &JobId, must: bool, tombstones: bool) -> Option<JobId> {
        let some = if must { usize::MAX } else { EXAMINED_MAX };
        let ended = self
            .table
            .ended(EXAMINED_PER_OWNER_MAX)
            .take(EXAMINED_MAX)
            .find(|ended| *ended != id && self.is_clean(ended))
            .cloned();
        let is_evictable =
            |row: &Row<EntryMeta>| !row.meta.dirty && row.job.id != *id && (tombstones || row.job.removal.is_none());
        ended.or_else(|| self.table.next_in_turn(some, is_evictable))
    }
}

fn dirty_size(row: &Row<EntryMeta>) -> usize {
    if row.meta.dirty { record_size(&row.job) } else { 0 }
}

/// Returns whether `job` is later than `cached`, or prevails if the two are of incarnations that were created
/// independently.
pub fn comes_after(job: &Job, cached: &Job) -> bool {
    if job.version.incarnation_id == cached.version.incarnation_id {
        job.version.revision > cached.version.revision
    } else {
        merge(job, cached).job.version.incarnation_id == job.version.incarnation_id
    }
}

/// Returns a version as this process serves it from its memory.
pub fn volatile(job: Arc<Job>) -> Stored {
    Stored { job, durability: Durability::Volatile, source: Source::Memory }
}
