//! `watch` on a terminal while the replicas are restarted one after another.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use jobtrack_client::{
    Tracker,
    proto::v1::{Progress, UpdateProgressRequest},
};
use tokio::{
    task::block_in_place,
    time::{MissedTickBehavior, interval},
};

use super::{client, terminal::Terminal, watching::without_sequences};
use crate::support::{
    process::{Process, command},
    replicas::part_of_shared_redis,
};

/// Jobs that are watched.
const JOBS: i64 = 5;

/// Interval of all reports together: 50 per second.
const REPORT_INTERVAL: Duration = Duration::from_millis(20);

/// The total of each job; more than is reported.
const TOTAL: i64 = 100_000;

/// Maximum time of a call, with its repetitions; far longer than a restart takes.
const CALL_TIMEOUT: Duration = Duration::from_secs(60);

fn id(number: i64) -> String {
    format!("job-{number}")
}

/// Reports on all jobs in turn until `is_over`, then completes them.
async fn work(tracker: Tracker, is_over: &AtomicBool) {
    let mut ticks = interval(REPORT_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for completed in 1.. {
        for number in 0..JOBS {
            ticks.tick().await;
            let progress = Progress { completed: Some(completed), total: Some(TOTAL), ..Progress::default() };
            let (job_id, sequence) = (id(number), Some(completed));
            let report = UpdateProgressRequest {
                job_id,
                progress: Some(progress),
                sequence,
                ..UpdateProgressRequest::default()
            };
            tracker.update(report).await.expect("a replica answers");
        }
        if is_over.load(Relaxed) {
            break;
        }
    }
    for number in 0..JOBS {
        tracker.complete(id(number), ()).await.expect("a replica answers");
    }
}

/// Returns the units done of a job, in the order in which a terminal has shown them.
fn shown(text: &str, number: i64) -> Vec<i64> {
    let plain = without_sequences(text);
    let units = |line: &str| line.split_once(&format!("/{TOTAL}"))?.0.rsplit(' ').next()?.parse().ok();
    // The rest after the last name may be a part of a line.
    let lines: Vec<_> = plain.split("job-").collect();
    let lines = &lines[..lines.len().saturating_sub(1)];
    lines.iter().filter(|line| line.starts_with(&number.to_string())).filter_map(|line| units(line)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn bars_only_grow_through_a_rolling_restart_and_end_rightly() {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let mut replicas = vec![Process::start(&flags), Process::start(&flags)];
    let urls: Vec<_> = replicas.iter().map(|replica| format!("http://{}", replica.address)).collect();
    let urls = urls.join(",");
    let tracker = Tracker::builder(&urls).timeout(CALL_TIMEOUT).connect_lazy().expect("the URLs are valid");
    for number in 0..JOBS {
        tracker.create("k").id(id(number)).send().await.expect("a replica answers");
    }
    let ids: Vec<_> = (0..JOBS).map(id).collect();
    let arguments: Vec<_> = ["watch"].into_iter().chain(ids.iter().map(String::as_str)).collect();
    let mut command_line = client(replicas[0].address, &arguments);
    let mut terminal = Terminal::run(command_line.env("JOBTRACK_SERVER", &urls), 100, 24);
    let is_over = Arc::new(AtomicBool::new(false));
    let worker = tokio::spawn({
        let is_over = is_over.clone();
        async move { work(tracker, &is_over).await }
    });
    let last = |text: &str| shown(text, JOBS - 1).last().copied().unwrap_or_default();
    block_in_place(|| terminal.until(|text| last(text) > 0));
    for _ in 0..replicas.len() {
        let before = last(&terminal.text);
        let old = replicas.remove(0);
        let address = old.address.to_string();
        old.signal("TERM");
        block_in_place(|| {
            // The port is free once the old process has ended.
            assert!(old.wait().0.success());
            replicas.push(Process::run_on(command(&flags), &address));
            terminal.until(|text| last(text) > before + 10);
        });
    }
    is_over.store(true, Relaxed);
    worker.await.expect("no panic");
    let status = block_in_place(|| terminal.end());
    assert_eq!(status.code(), Some(0), "{:?}", terminal.text);
    let plain = without_sequences(&terminal.text);
    for number in 0..JOBS {
        let units = shown(&terminal.text, number);
        assert!(units.is_sorted(), "{number}: {units:?}");
        assert_eq!(plain.matches(&format!("job-{number}  SUCCEEDED  100%")).count(), 1, "{plain}");
    }
}
