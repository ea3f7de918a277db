//! The last version of a job that a stream sent, and the order of other versions relative to it.

use uuid::Uuid;

use crate::domain::{ChangeId, Job, State, Timestamp};

/// The last version of a job that a stream sent.
#[derive(Clone, Copy, Debug)]
pub struct LastSent {
    incarnation_id: Uuid,
    change_id: ChangeId,
    create_time: Timestamp,
    revision: i64,
    state: State,
    is_cancel_requested: bool,
}

/// The order of a version relative to the last one sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VersionOrder {
    /// Newer; this number of revisions lie between the two.
    Newer(i64),
    /// The same version, or an older one.
    NotNewer,
    /// Replaces the version that was sent, though its revision is not higher: it belongs to a later incarnation whose
    /// revisions start over, or was stored under the same revision by another replica.
    Replaced,
}

impl LastSent {
    /// Records that `job` was sent.
    pub fn of(job: &Job) -> Self {
        Self {
            incarnation_id: job.version.incarnation_id,
            change_id: job.version.change_id,
            create_time: job.create_time,
            revision: job.version.revision,
            state: job.state,
            is_cancel_requested: job.cancel.is_some(),
        }
    }

    /// Records that a version of `job` with `revision` was sent whose state is unknown, so that every later version
    /// [is urgent](Self::is_urgent).
    pub fn unknown_at(revision: i64, job: &Job) -> Self {
        Self { revision, incarnation_id: Uuid::nil(), ..Self::of(job) }
    }

    /// Returns the order of `job` relative to the version that was sent.
    pub fn compare(&self, job: &Job) -> VersionOrder {
        let version = job.version;
        // The times of creation do not matter here: of two incarnations that replicas created independently, the older
        // one may remain.
        if version.revision > self.revision {
            return VersionOrder::Newer(version.revision - self.revision - 1);
        }
        let is_same_change = version.revision == self.revision && version.change_id == self.change_id;
        let is_replaced = if version.incarnation_id == self.incarnation_id {
            version.revision == self.revision && !is_same_change
        } else {
            // The same change in another incarnation: a merge of two creations by the same request.
            is_same_change || job.create_time > self.create_time
        };
        if is_replaced { VersionOrder::Replaced } else { VersionOrder::NotNewer }
    }

    /// Returns whether `job` must be sent at once, whatever interval the subscriber asked for.
    pub fn is_urgent(&self, job: &Job) -> bool {
        job.removal.is_some()
            || job.version.incarnation_id != self.incarnation_id
            || job.state != self.state
            || job.cancel.is_some() != self.is_cancel_requested
    }
}

/// Returns whether a stream of one job ends with this version.
pub fn is_end(job: &Job) -> bool {
    job.removal.is_some() || job.state.is_terminal()
}
