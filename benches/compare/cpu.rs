//! CPU time of processes.

use std::{fs, path::PathBuf, time::Duration};

use crate::servers::Redis;

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

/// Returns the CPU time of Redis in seconds.
pub async fn of_redis(redis: &Redis) -> f64 {
    let info = redis.info("cpu").await;
    let used = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("INFO has it");
        line.trim().parse::<f64>().expect("a number of seconds")
    };
    used("used_cpu_sys:") + used("used_cpu_user:")
}
