//! The availability of the primary's partitions as known to the cache, and the comparison of entries with a primary
//! that is available again.

use std::sync::Arc;

use tokio::sync::watch;

use super::LocalCache;
use crate::{
    domain::Job,
    store::{
        History, StorageMode,
        fallback::{
            entries::{CacheEntry, Entries, EntryMeta, LOCKED_MAX},
            partition::{Partition, Unavailable},
        },
    },
};

impl LocalCache {
    /// Returns a receiver of the storage mode, which shows whether all partitions serve, and of its changes.
    pub fn mode(&self) -> watch::Receiver<StorageMode> {
        self.mode.subscribe()
    }

    /// Returns whether a partition is unavailable.
    pub fn is_unavailable(&self, partition: usize) -> bool {
        !self.entries().partitions[partition].is_available()
    }

    /// Returns whether all partitions are unavailable.
    pub fn is_all_unavailable(&self) -> bool {
        self.entries().partitions.iter().all(|partition| !partition.is_available())
    }

    /// Returns whether any partition answers reads.
    pub fn is_any_readable(&self) -> bool {
        self.entries().partitions.iter().any(Partition::is_readable)
    }

    /// Returns whether any partition is unavailable.
    pub fn is_any_unavailable(&self) -> bool {
        !self.entries().all_available()
    }

    /// Waits until a partition is unavailable, or has dirty entries.
    pub async fn sync_needed(&self, partition: usize) {
        loop {
            let changed = self.sync_needed[partition].notified();
            if self.needs_sync(partition) {
                return;
            }
            changed.await;
        }
    }

    /// Returns whether a partition is unavailable, or has dirty entries.
    pub fn needs_sync(&self, partition: usize) -> bool {
        let partition = &self.entries().partitions[partition];
        !partition.is_available() || partition.dirty() > 0
    }

    /// Returns whether all partitions answer reads.
    pub fn is_listable(&self) -> bool {
        self.entries().partitions.iter().all(Partition::is_readable)
    }

    /// Marks a partition as unavailable; it may be `readable` nevertheless.
    pub fn set_unavailable(&self, partition: usize, readable: bool) {
        self.mark_unavailable(&mut self.entries(), partition, readable);
    }

    pub(super) fn mark_unavailable(&self, entries: &mut Entries, at: usize, readable: bool) {
        let now = self.clock.now();
        self.presence.set_serving(at, false);
        let was_whole = entries.all_available();
        let partition = &mut entries.partitions[at];
        if let Some(unavailable) = &mut partition.unavailable {
            unavailable.readable = readable;
            return;
        }
        partition.unavailable = Some(Unavailable { since: now, readable });
        partition.end_pass();
        entries.lose_track(None);
        if was_whole {
            self.opened.inc();
        }
        self.mode.send_replace(StorageMode::Degraded);
        self.sync_needed[at].notify_one();
    }

    /// Marks a partition as available, unless a call has found it unavailable since this replica began to serve from
    /// it. Returns whether the partition was marked.
    #[must_use]
    pub fn set_available(&self, at: usize) -> bool {
        let mut entries = self.entries();
        if !self.presence.is_serving(at) {
            return false;
        }
        let partition = &mut entries.partitions[at];
        partition.unavailable = None;
        partition.end_pass();
        let all = entries.all_available();
        if all {
            self.mode.send_replace(StorageMode::Redis);
        }
        drop(entries);
        if all {
            // Lists in the meantime contained only cached jobs, so their readers must list again.
            self.listener.on_gap();
        }
        true
    }

    /// Records the lineage of a partition that answers, but can't be compared now.
    pub fn set_lineage(&self, partition: usize, lineage: u64) {
        self.entries().partitions[partition].set_lineage(lineage);
    }

    /// Begins a pass over the entries of a partition, or continues one that compared with the same history. Returns the
    /// slot from which to proceed downward.
    pub fn begin_pass(&self, partition: usize, history: History) -> usize {
        let mut entries = self.entries();
        entries.partitions[partition].begin_pass(history);
        entries.table.slots()
    }

    /// Returns up to `limit` clean entries of a partition that the pass has not compared yet, from the slots below
    /// `slot`, and the slot of the rest; `None` if there are no more. An entry whose slot changes meanwhile moves to a
    /// lower one, so none is missed.
    pub fn uncompared(&self, partition: usize, slot: usize, limit: usize) -> Option<(Vec<CacheEntry>, usize)> {
        let now = self.clock.now();
        let entries = self.entries();
        let pass = entries.partitions[partition].pass();
        let mut slot = slot.min(entries.table.slots());
        if slot == 0 {
            return None;
        }
        let end = slot.saturating_sub(LOCKED_MAX);
        let mut found = Vec::new();
        while slot > end && found.len() < limit {
            slot -= 1;
            let Some(row) = entries.table.slot(slot) else { continue };
            let EntryMeta { partition: at, dirty, compared_in, .. } = row.meta;
            if at == partition && !dirty && compared_in != pass && Entries::may_have_record(row, now) {
                found.push(entries.entry(row, now));
            }
        }
        Some((found, slot))
    }

    /// Records that the primary has exactly these versions, which the pass has compared.
    pub fn confirm(&self, partition: usize, jobs: &[Arc<Job>]) {
        let now = self.clock.now();
        let mut entries = self.entries();
        let pass = entries.partitions[partition].pass();
        for job in jobs {
            let known = entries.table.meta_mut(&job.id).filter(|(cached, _)| cached.version == job.version);
            if let Some((_, meta)) = known {
                (meta.confirmed, meta.compared_in, meta.suspect_until) = (now, pass, None);
            }
        }
    }

    /// Returns up to `limit` dirty entries of a partition, finished jobs first.
    pub fn first_dirty(&self, partition: usize, limit: usize) -> Vec<CacheEntry> {
        let now = self.clock.now();
        let entries = self.entries();
        let ids = entries.partitions[partition].first_dirty(limit);
        ids.filter_map(|id| entries.table.get(id)).map(|row| entries.entry(row, now)).collect()
    }
}
