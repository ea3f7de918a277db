//! How many files and connections the process may have open.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Files that connections of callers leave to others: to Redis, to metrics and probes, and to what is read again.
const RESERVE: u64 = 128;

/// With fewer than so many files the log says so at the start.
pub const FEW: u64 = 4096;

/// Has the process open as many files as the system lets it: the limit that most systems begin with is low, for the sake
/// of programs that are much older than this one. Returns how many that is, unless there is no limit.
pub fn raise_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // Where it may not be raised, it stays.
    _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current
}

/// Returns how many connections of callers there is room for, unless there is no limit.
pub fn room_for_connections() -> Option<usize> {
    let limit = getrlimit(Resource::Nofile).current?;
    // At least half of the files, where there are very few.
    let room = limit.saturating_sub(RESERVE).max(limit / 2).max(1);
    Some(usize::try_from(room).unwrap_or(usize::MAX))
}
