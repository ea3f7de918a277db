//! Entries that become due as time passes.

use tokio::task::yield_now;

use super::LocalCache;
use crate::{
    domain::{Deadline, Due, Job, JobId, TOMBSTONE_LIFE, Timestamp},
    store::{
        DueBatch, DueRecord,
        fallback::entries::{EntryMeta, LOCKED_MAX, SentChanges, volatile},
        table::Row,
    },
};

/// Maximum number of entries removed under one lock.
const REMOVED_MAX: usize = 200;

impl LocalCache {
    /// Returns the due records of jobs that were never sent to the primary. All other jobs are left out, because other
    /// replicas may have later versions of them. Examines a few at a time, because callers wait for the lock.
    pub fn due(&self, now: Timestamp, limit: usize) -> DueBatch {
        let mut batch = DueBatch::default();
        let mut after = None;
        loop {
            let entries = self.entries();
            let mut last = None;
            for (time, row, due) in entries.table.due_after(after.as_ref()).take(LOCKED_MAX) {
                if time > now || batch.records.len() == limit {
                    batch.next = Some(time.max(now));
                    return batch;
                }
                last = Some((time, &row.job.id));
                let is_available = entries.partitions[row.meta.partition].is_available();
                if row.meta.dirty && row.meta.sent == SentChanges::None && !is_available && due != Due::Forget {
                    batch.records.push(DueRecord { stored: volatile(row.job.clone()), due });
                }
            }
            let Some((time, id)) = last else { return batch };
            after = Some((time, id.clone()));
        }
    }

    /// Returns whether this replica may decide by time about `job`: no version was ever sent to the primary, and the
    /// deadline has passed. The deadline is checked again, because the clock may have been set meanwhile.
    pub fn decides(&self, job: &Job, deadline: &Deadline) -> bool {
        let entries = self.entries();
        let now = self.clock.now();
        let row = entries.table.get(&job.id).filter(|row| row.job.version == job.version);
        row.is_some_and(|row| row.meta.sent == SentChanges::None && row.job.time_of(deadline) <= now)
    }

    /// Removes tombstones that the primary has forgotten, and jobs that it must have removed. Removes a few at a time,
    /// because callers wait for the lock.
    pub async fn tidy(&self) {
        let now = self.clock.now();
        let mut after = None;
        while let Some(last) = self.tidy_some(now, after.as_ref()) {
            after = Some(last);
            yield_now().await;
        }
    }

    /// Tidies some of the entries that are due after a position. Returns the position of the last of them.
    fn tidy_some(&self, now: Timestamp, after: Option<&(Timestamp, JobId)>) -> Option<(Timestamp, JobId)> {
        let mut entries = self.entries();
        let is_over = |time: Timestamp, row: &Row<EntryMeta>, due| match due {
            _ if row.meta.dirty => false,
            Due::Forget => true,
            Due::Expire => row.job.state.is_terminal() && time + TOMBSTONE_LIFE <= now,
            Due::LoseWorker | Due::ForceCancel => false,
        };
        let due = entries.table.due_after(after).take_while(|(time, ..)| *time <= now);
        let (mut last, mut over) = (None, Vec::new());
        for (time, row, due) in due.take(REMOVED_MAX) {
            last = Some((time, &row.job.id));
            if is_over(time, row, due) {
                over.push(row.job.id.clone());
            }
        }
        let last = last.map(|(time, id)| (time, id.clone()));
        let forgotten: Vec<_> = over.iter().filter_map(|id| entries.forget(id)).collect();
        drop(entries);
        drop(forgotten);
        last
    }
}
