//! The memory budget of the server.

use bytesize::ByteSize;
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

use super::values::InvalidValue;
use crate::store::Capacity;

/// Minimum of `--max-memory`: a few large jobs and answers would use up a smaller budget.
const MAX_MEMORY_MIN: ByteSize = ByteSize::mib(64);

/// Parses a number of bytes.
pub fn bytes(text: &str) -> Result<ByteSize, InvalidValue> {
    let bytes: ByteSize = text.parse().map_err(|_| InvalidValue::Bytes)?;
    if bytes < MAX_MEMORY_MIN { Err(InvalidValue::TooFewBytes(MAX_MEMORY_MIN)) } else { Ok(bytes) }
}

/// The memory that jobs, requests and answers may occupy together.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget(ByteSize);

impl MemoryBudget {
    /// Returns the budget of `max_memory`, by default half of the memory of the container or, without one, of the
    /// machine.
    pub fn new(max_memory: Option<ByteSize>) -> Self {
        Self(max_memory.unwrap_or_else(|| ByteSize::b(machine() / 2).max(MAX_MEMORY_MIN)))
    }

    /// Returns the whole budget.
    pub const fn total(self) -> ByteSize {
        self.0
    }

    /// Returns the capacity for jobs: at most `max_jobs`, in three quarters of the budget.
    pub fn for_jobs(self, max_jobs: usize) -> Capacity {
        let bytes = self.0.as_u64() / 4 * 3;
        Capacity { jobs: max_jobs, bytes: usize::try_from(bytes).unwrap_or(usize::MAX) }
    }

    /// Returns the number of bytes for requests and answers in memory: a quarter of the budget.
    pub fn for_calls(self) -> usize {
        usize::try_from(self.0.as_u64() / 4).unwrap_or(usize::MAX)
    }
}

/// Returns the memory of the container that this process runs in, or of the machine, in bytes.
fn machine() -> u64 {
    let system =
        System::new_with_specifics(RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram()));
    system.cgroup_limits().map_or(system.total_memory(), |limits| limits.total_memory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_decimal_and_binary_units() {
        assert_eq!(bytes("64MiB"), Ok(ByteSize::mib(64)));
        assert_eq!(bytes("2 GiB"), Ok(ByteSize::gib(2)));
        assert_eq!(bytes("1GB"), Ok(ByteSize::gb(1)));
        assert_eq!(bytes("1073741824"), Ok(ByteSize::gib(1)));
        for wrong in ["", "0", "63MiB", "much", "-1GiB", "1.5.5G"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_default_is_half_of_the_available_memory() {
        let budget = MemoryBudget::new(None);
        assert!(budget.total() >= MAX_MEMORY_MIN);
        assert_eq!(budget.total().as_u64().max(machine() / 2), budget.total().as_u64());
        assert!(
            budget.for_jobs(1).bytes + budget.for_calls() <= usize::try_from(budget.total().as_u64()).expect("64 bits")
        );
    }
}
