//! The deletion of ended jobs in parts of bounded size, so that a call answers in time however many jobs there are.

use std::time::{Duration, Instant};

use tokio::task::yield_now;

use super::{CallerSession, TryChange};
use crate::{
    domain::{Change, Cursor, Filter, JobError, ListQuery, MAX_PAGE_BYTES, Order, Timestamp, View},
    store::Stored,
};

/// Maximum number of pages that a part examines.
const PART_PAGES: usize = 20;

/// Number of jobs on a page.
const PAGE_JOBS: usize = 250;

/// Maximum duration of a part.
const PART_TIME: Duration = Duration::from_secs(2);

/// The selection of a purge, which proceeds from the oldest job to the newest.
#[derive(Clone, Debug)]
pub struct Purge {
    /// Filter of the jobs; active ones are never selected.
    pub filter: Filter,
    /// Only jobs that ended at this time or earlier.
    pub ended_by: Option<Timestamp>,
    /// Counts the jobs without deleting them.
    pub dry_run: bool,
    /// Only jobs after this position.
    pub after: Option<Cursor>,
}

/// Result of a part of a purge.
#[derive(Clone, Debug, Default)]
pub struct Purged {
    /// Number of jobs that were deleted, or would be.
    pub count: u64,
    /// Position after which the next part begins; `None` if nothing is left.
    pub next: Option<Cursor>,
    /// There may be more jobs than those that could be examined: the primary is unavailable in whole or in part.
    pub partial: bool,
}

impl CallerSession<'_> {
    /// Deletes one part of the jobs that `purge` selects. Stops after about `time`, but examines at least one job.
    pub async fn purge(&self, purge: &Purge, time: Duration) -> Result<Purged, JobError> {
        let (started, time) = (Instant::now(), time.min(PART_TIME));
        let is_over = || started.elapsed() >= time;
        let mut query = ListQuery {
            filter: purge.filter.clone(),
            order: Order::Oldest,
            limit: PAGE_JOBS,
            max_bytes: MAX_PAGE_BYTES,
            after: purge.after.clone(),
            now: self.tracker.now(),
            confined: false,
            view: View::Basic,
        };
        let mut purged = Purged::default();
        for _ in 0..PART_PAGES {
            let page = self.list(&query).await?;
            purged.partial |= page.partial;
            for stored in page.jobs {
                if purged.next.is_some() && is_over() {
                    return Ok(purged);
                }
                let position = Cursor::of(&stored.job);
                purged.count += u64::from(self.purge_one(purge, stored).await?);
                purged.next = Some(position);
            }
            purged.next = page.next;
            if purged.next.is_none() || is_over() {
                break;
            }
            query.after.clone_from(&purged.next);
            // Lets other tasks run, even if the store answers without waiting.
            yield_now().await;
        }
        Ok(purged)
    }

    /// Deletes a job, if it ended early enough. Returns whether it was deleted or, in a dry run, would be.
    async fn purge_one(&self, purge: &Purge, stored: Stored) -> Result<bool, JobError> {
        if !matches!(stored.job.end_time, Some(end) if purge.ended_by.is_none_or(|time| end <= time)) {
            return Ok(false);
        }
        if purge.dry_run {
            return Ok(true);
        }
        // A job that changed since it was listed may no longer be selected: it is left alone.
        match self.tracker.try_change(stored, &Change::Delete { force: false }).await {
            Err(JobError::Corrupt(_)) => Ok(false),
            outcome => Ok(!matches!(outcome?, TryChange::Conflict(_))),
        }
    }
}
