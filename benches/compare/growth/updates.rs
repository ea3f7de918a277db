//! Cost of an update with many watched jobs.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use jobtrack::proto::v1::WatchJobResponse;

use super::Finding;
use crate::{
    load::{
        grpc::Connection,
        unary::{self, Plan, Target, Until},
    },
    process::Kind,
    stats::{median, real},
    svg::Line,
    workload::{Jobs, Operation},
};

/// The maximum that the server allows.
const WATCHES_PER_CONNECTION: usize = 1000;

/// Number of watched jobs that are updated, for every total number.
const UPDATED: u32 = 64;

const ROUNDS: usize = 9;

pub async fn measure(quick: bool) -> Finding {
    let sizes: &[u32] = if quick { &[UPDATED, 1_000] } else { &[UPDATED, 1_000, 10_000, 100_000] };
    let mut lines = Vec::new();
    for (name, kind) in [("floor", Kind::Floor), ("jobtrack", Kind::Jobtrack)] {
        let mut points = Vec::new();
        for &size in sizes {
            points.push((f64::from(size), cost(kind, size).await));
        }
        lines.push(Line { name: name.to_owned(), points });
    }
    Finding {
        name: "updates",
        title: "An update, by the number of watched jobs",
        text: format!(
            "Each job is watched by one subscriber. {UPDATED} of the jobs are updated, always the same ones; the CPU time \
             of the server includes sending the event. Medians of {ROUNDS} rounds."
        ),
        size: "watched jobs",
        value: "CPU per update, µs",
        lines,
    }
}

/// Returns the microseconds of the server's CPU per update, with this number of watched jobs.
async fn cost(kind: Kind, watched: u32) -> f64 {
    let server = kind.start(None);
    let target = Arc::new(Target::grpc(server.address, 4).await);
    let jobs = Arc::new(Jobs::new(watched));
    target.prepare(&jobs).await;
    let connections = (watched as usize).div_ceil(WATCHES_PER_CONNECTION);
    let links = join_all((0..connections).map(|_| Connection::open(server.address))).await;
    for (link, first) in links.iter().zip((0..).step_by(WATCHES_PER_CONNECTION)) {
        let last = watched.min(first + u32::try_from(WATCHES_PER_CONNECTION).expect("it is small"));
        join_all((first..last).map(|job| subscribe(link, &jobs, job))).await;
    }
    let plan = Plan {
        operation: Operation::Update,
        callers: UPDATED,
        until: Until::Time(Duration::from_millis(300)),
        rate: None,
    };
    // The same jobs for every total number.
    let updated = Arc::new(jobs.first(UPDATED));
    let mut costs = Vec::new();
    for _ in 0..=ROUNDS {
        let before = server.cpu_time();
        let outcome = unary::run(target.clone(), updated.clone(), plan).await;
        costs.push(server.cpu_time().saturating_sub(before).as_secs_f64() * 1e6 / real(outcome.calls));
    }
    // The first round is a warm-up.
    median(&costs[1..])
}

/// Watches a job until the server ends.
async fn subscribe(link: &Connection, jobs: &Jobs, job: u32) {
    let mut messages = link.stream("JobService/WatchJob", &jobs.watch_request(job)).await;
    messages.next::<WatchJobResponse>().await.expect("a watch begins with an event");
    tokio::spawn(async move { while messages.try_next::<()>().await.is_some() {} });
}
