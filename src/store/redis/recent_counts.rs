//! The counts of commits that recent probes found.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::feed::Counts;

/// Number of probes during which a notification may be in transit.
const NOTIFICATION_PROBES: usize = 8;

/// The counts of commits that the last probes found, each with the time at which the probe began.
#[derive(Default)]
pub struct RecentCounts(VecDeque<(Instant, Counts)>);

impl RecentCounts {
    /// Adds the counts that a probe found.
    pub fn push(&mut self, begun: Instant, counts: Counts) {
        self.0.push_back((begun, counts));
    }

    /// Returns whether notifications were lost: the oldest counts are so old that all their notifications must have
    /// arrived, and `notified` is lower. Removes the oldest counts.
    pub fn shows_loss(&mut self, notified: &Counts) -> bool {
        let oldest = if self.0.len() < NOTIFICATION_PROBES { None } else { self.0.pop_front() };
        oldest.is_some_and(|(_, oldest)| is_behind(notified, &oldest))
    }

    /// Returns the latest time for which all earlier commits are included in `notified`.
    pub fn notified_until(&self, notified: &Counts) -> Option<Instant> {
        self.0.iter().rfind(|(_, counts)| reaches(notified, counts)).map(|(begun, _)| *begun)
    }
}

/// Returns whether `counts` has at least as many commits as `others` in all partitions.
fn reaches(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).all(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count >= other))
}

/// Returns whether `counts` has fewer commits than `others` in at least one partition.
pub fn is_behind(counts: &Counts, others: &Counts) -> bool {
    counts.iter().zip(others).any(|(count, other)| count.zip(*other).is_some_and(|(count, other)| count < other))
}
