//! What tells two versions of a job apart.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Which change made a version: a random id of the process and a counter in it. Never used twice, and kept when a
/// merge stores that change under a new revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Stamp {
    /// The process that made the change.
    pub process: u64,
    /// Which of its changes.
    pub counter: u64,
}

/// Names one version of one job. Two versions are the same only if all of it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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
