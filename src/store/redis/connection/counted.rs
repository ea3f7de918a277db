//! Counts of the commands that are in a stage of their execution.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A guard that counts a command in a stage until it is dropped, so that the count is right even if the caller is
/// cancelled.
pub struct Counted<'a>(&'a AtomicU32);

impl<'a> Counted<'a> {
    /// Counts a command until the guard is dropped.
    pub fn new(count: &'a AtomicU32) -> Self {
        count.fetch_add(1, Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}
