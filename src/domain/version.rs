//! What tells two versions of a job apart.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Which change made a version: a random id of the process and a counter in it. Never used twice, and kept when a
/// merge stores that change under a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChangeId {
    /// The process that made the change.
    pub process: u64,
    /// Which of its changes.
    pub counter: u64,
}

/// Names one version of one job. Two versions are the same only if all of it is.
/// Written as a list, since it goes with every record: revision, `first_revision`, `incarnation_id`, and the process and counter
/// of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Random for each creation, so that a job made anew under an old id is not mistaken for the old one.
    pub incarnation_id: Uuid,
    /// The revision at which this `incarnation_id` was created.
    pub first_revision: i64,
    /// Counts the stored changes of the id, from 1.
    pub revision: i64,
    /// The change that made this version.
    pub change_id: ChangeId,
}

impl Version {
    /// The version that `change_id` makes of this one.
    pub const fn next(self, change_id: ChangeId) -> Self {
        Self { revision: self.revision + 1, change_id, ..self }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.revision, self.first_revision, self.incarnation_id, self.change_id.process, self.change_id.counter)
            .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (revision, first_revision, incarnation_id, process, counter) = Deserialize::deserialize(deserializer)?;
        Ok(Self { incarnation_id, first_revision, revision, change_id: ChangeId { process, counter } })
    }
}
