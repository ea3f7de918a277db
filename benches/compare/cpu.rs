//! What the system tells of a process.

use std::{fs, path::PathBuf, time::Duration};

/// Time on a core that all threads of a process have had so far, in user and kernel mode. Threads that ended are not
/// counted; the servers keep theirs.
pub fn time(process: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{process}/task")).expect("the process runs").flatten();
    tasks.map(|task| task_time(task.path().join("schedstat"))).sum()
}

/// The first number of a task's schedstat, in nanoseconds; none if the task is gone.
fn task_time(schedstat: PathBuf) -> Duration {
    let line = fs::read_to_string(schedstat).unwrap_or_default();
    let nanos = line.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0);
    Duration::from_nanos(nanos)
}
