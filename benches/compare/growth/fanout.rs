//! Cost of an event with many subscribers of one job.

use std::sync::Arc;

use super::Finding;
use crate::{
    load::{
        board::Reports,
        unary::Target,
        watch::{Audience, Subscribers},
    },
    process::Kind,
    stats::{median, real},
    svg::Line,
    workload::Jobs,
};

/// Events of a round, of all subscribers together; and the minimum and maximum number of reports.
const EVENTS: usize = 100_000;
const REPORTS_MIN: usize = 10;
const REPORTS_MAX: usize = 1000;

/// Events per second, of all subscribers together. With few subscribers, the rate of reports is limited as well.
const EVENT_RATE: f64 = 10_000.0;
const REPORT_RATE_MAX: f64 = 500.0;

pub async fn measure(quick: bool) -> Finding {
    let (sizes, rounds): (&[usize], _) =
        if quick { (&[1, 10, 100, 1000], 1) } else { (&[1, 10, 100, 1000, 10_000], 5) };
    let mut lines = Vec::new();
    for (name, kind) in [("floor", Kind::Floor), ("jobtrack", Kind::Jobtrack)] {
        let mut points = Vec::new();
        for &size in sizes {
            points.push((real(size as u64), cost(kind, size, rounds).await));
        }
        lines.push(Line { name: name.to_owned(), points });
    }
    Finding {
        name: "fanout",
        title: "An event, by the number of subscribers of one job",
        text: format!(
            "The CPU time of the server, reports included, divided by the number of events that arrived, at {EVENT_RATE} \
             events and at most {REPORT_RATE_MAX} reports a second. With few subscribers the reports themselves need most of the \
             time."
        ),
        size: "subscribers",
        value: "CPU per event, µs",
        lines,
    }
}

/// Returns the microseconds of the server's CPU per event, with this number of subscribers.
async fn cost(kind: Kind, subscribers: usize, rounds: usize) -> f64 {
    let server = kind.start(None);
    let jobs = Arc::new(Jobs::new(1));
    Target::grpc(server.address, 1).await.prepare(&jobs).await;
    let count = (EVENTS / subscribers).clamp(REPORTS_MIN, REPORTS_MAX);
    let connections = subscribers.div_ceil(500).max(subscribers.min(10));
    let room = 8 + count * (rounds + 1);
    let audience = Audience::gather(server.address, jobs, Subscribers::grpc(subscribers, connections), room).await;
    let rate = (EVENT_RATE / real(subscribers as u64)).min(REPORT_RATE_MAX);
    let mut costs = Vec::new();
    for _ in 0..=rounds {
        let before = server.cpu_time();
        let delivery = audience.report(Reports { count, rate: Some(rate) }).await;
        costs.push(server.cpu_time().saturating_sub(before).as_secs_f64() * 1e6 / real(delivery.events));
    }
    // The first round is a warm-up.
    median(&costs[1..])
}
