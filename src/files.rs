//! The limit of open files of the process, which also bounds the number of connections.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Number of open files that are not available to connections of callers. They are reserved for Redis, metrics and
/// probes, and files that are reloaded.
const RESERVE: u64 = 128;

/// Limit below which a warning is logged at the start.
pub const FILES_WARNING: u64 = 4096;

/// Raises the soft limit of open files to the hard limit: most systems start processes with a low soft limit, for
/// compatibility with old programs. Returns the new limit; `None` if there is no limit.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // If the limit can't be raised, it stays.
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current
}

/// Returns the number of connections of callers that fit into the limit; `None` if there is no limit.
pub fn connections_max() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    // With a very low limit, at least half of the files are for connections.
    let room = limit.saturating_sub(RESERVE).max(limit / 2).max(1);
    Some(usize::try_from(room).unwrap_or(usize::MAX))
}
