//! Identification of a version of a job.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Identifies the change that made a version: a random id of the process, and a counter. Never used twice. A merge that
/// stores the change under a new revision keeps its id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ChangeId {
    /// Random id of the process that made the change.
    pub process: u64,
    /// Number of the change within the process.
    pub counter: u64,
}

/// Identifies one version of one job. Two versions are the same only if all fields are equal.
///
/// Serialized as a list, which is shorter than a map, because every record contains a version: revision,
/// `first_revision`, `incarnation_id`, and the process and counter of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Random id of the incarnation. A job that is created under the id of a removed job gets a new one.
    pub incarnation_id: Uuid,
    /// The revision at which this incarnation was created.
    pub first_revision: i64,
    /// Number of stored changes under the job's id, from 1.
    pub revision: i64,
    /// The change that made this version.
    pub change_id: ChangeId,
}

impl Version {
    /// Returns the version that `change_id` makes of this one.
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
