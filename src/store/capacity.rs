//! Limits of the memory that jobs may use.

use crate::domain::Limit;

/// The maximum number of jobs in a process's memory, and the maximum size of these jobs and of all tombstones there.
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
    /// Returns the limit to report if the number of jobs is at its maximum and none can be evicted.
    pub const fn jobs_exhausted(self) -> Limit {
        Limit::MemoryJobs(self.jobs)
    }

    /// Returns the limit to report if the bytes are at their maximum and no job can be evicted.
    pub const fn bytes_exhausted(self) -> Limit {
        Limit::MemoryBytes(self.bytes)
    }
}
