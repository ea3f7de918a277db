//! What tells two versions of a job apart.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

/// Which change made a version: a random id of the process and a counter in it. Never used twice, and kept when a
/// merge stores that change under a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Stamp {
    /// The process that made the change.
    pub process: u64,
    /// Which of its changes.
    pub counter: u64,
}

/// Names one version of one job. Two versions are the same only if all of it is.
/// Written as a list, since it goes with every record: revision, `born`, `uid`, and the process and counter of the stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Version {
    /// Random for each creation, so that a job made anew under an old id is not mistaken for the old one.
    pub uid: Uuid,
    /// The revision at which this `uid` was created.
    pub born: i64,
    /// Counts the stored changes of the id, from 1.
    pub revision: i64,
    /// The change that made this version.
    pub stamp: Stamp,
}

impl Version {
    /// The version that `stamp` makes of this one.
    pub const fn next(self, stamp: Stamp) -> Self {
        Self { revision: self.revision + 1, stamp, ..self }
    }
}

impl Serialize for Version {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (self.revision, self.born, self.uid, self.stamp.process, self.stamp.counter).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (revision, born, uid, process, counter) = Deserialize::deserialize(deserializer)?;
        Ok(Self { uid, born, revision, stamp: Stamp { process, counter } })
    }
}
