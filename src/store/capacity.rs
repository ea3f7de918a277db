//! The memory that jobs may occupy.

use crate::domain::Limit;

/// Maximum number of jobs in a process's memory, and of the bytes that they occupy together with their tombstones.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    /// Maximum number of jobs.
    pub jobs: usize,
    /// Maximum number of bytes.
    pub bytes: usize,
}

impl From<usize> for Capacity {
    fn from(jobs: usize) -> Self {
        Self { jobs, bytes: usize::MAX }
    }
}

impl Capacity {
    /// Returns the error of a store that has as many jobs as it may, none of which can be evicted.
    pub const fn jobs_exhausted(self) -> Limit {
        Limit::MemoryJobs(self.jobs)
    }

    /// Returns the error of a store whose jobs occupy as many bytes as they may, and none can be evicted.
    pub const fn bytes_exhausted(self) -> Limit {
        Limit::MemoryBytes(self.bytes)
    }
}
