//! CPU time of a process.

use std::{fs, path::PathBuf, time::Duration};

/// Returns the CPU time of all threads of a process so far, in user and kernel mode. Excludes threads that have ended;
/// the measured servers keep theirs.
pub fn time(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs").flatten();
    tasks.map(|task| task_time(task.path().join("schedstat"))).sum()
}

/// Returns the first number of a task's schedstat, in nanoseconds; zero if the task has ended.
fn task_time(schedstat: PathBuf) -> Duration {
    let line = fs::read_to_string(schedstat).unwrap_or_default();
    let nanos = line.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}
