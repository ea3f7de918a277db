//! Cost of a page, of the statistics and of a start with many jobs.

use std::time::Instant;

use jobtrack::proto::v1::{
    GetStatsRequest, GetStatsResponse, JobFilter, ListJobsRequest, ListJobsResponse, job::State,
};
use prost::Message;

use super::Finding;
use crate::{
    load::{grpc::Connection, unary::Target},
    process::Kind,
    servers::Redis,
    stats::median,
    svg::Line,
    workload::Jobs,
};

/// Number of calls of each kind, one after the other.
const CALLS: usize = 301;

/// Number of starts of a server.
const STARTS: usize = 5;

/// The kinds of calls, in the order of their lines.
const KINDS: [&str; 4] = ["page", "page, owner", "page, owner, state", "statistics"];

pub async fn measure(quick: bool) -> Vec<Finding> {
    let sizes: &[u32] = if quick { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000, 1_000_000] };
    let redis = Redis::start().await;
    let (memory, _) = grow(None, sizes).await;
    let (with_redis, starts) = grow(Some(&redis.url()), sizes).await;
    let listing = |name, title, lines| Finding {
        name,
        title,
        text: format!("Pages of 50 jobs, the newest first; medians of {CALLS} calls, one after the other."),
        size: "jobs",
        value: "time to the answer, µs",
        lines,
    };
    let start = Finding {
        name: "start",
        title: "A start, by the number of jobs in Redis",
        text: format!(
            "Time from the start of the process to its first answer; medians of {STARTS} starts. The first column is an empty \
             Redis, drawn as one job."
        ),
        size: "jobs in Redis",
        value: "time, ms",
        lines: vec![Line { name: "start".to_owned(), points: starts }],
    };
    vec![
        listing("listing-memory", "Lists and statistics, in memory", memory),
        listing("listing-redis", "Lists and statistics, with Redis", with_redis),
        start,
    ]
}

/// Adds jobs until each size is reached, and measures calls, and starts with Redis, at that size.
async fn grow(redis: Option<&str>, sizes: &[u32]) -> (Vec<Line>, Vec<(f64, f64)>) {
    let server = Kind::Jobtrack.start(redis);
    let target = Target::grpc(server.address, 4).await;
    let connection = Connection::open(server.address).await;
    let mut lines: Vec<_> = KINDS.map(|name| Line { name: name.to_owned(), points: Vec::new() }).into();
    // One job stands for none: zero has no place on a logarithmic axis.
    let mut starts = Vec::new();
    if let Some(url) = redis {
        starts.push((1.0, start_time(url).await));
    }
    let mut there = 0;
    for &size in sizes {
        target.prepare(&Jobs::new(size - there)).await;
        there = size;
        for (line, time) in lines.iter_mut().zip(times(&connection).await) {
            line.points.push((f64::from(size), time));
        }
        if let Some(url) = redis {
            starts.push((f64::from(size), start_time(url).await));
        }
    }
    (lines, starts)
}

/// Returns the median time of each kind of call, in microseconds.
async fn times(connection: &Connection) -> [f64; KINDS.len()] {
    let owner = JobFilter { owner: "owner-3".to_owned(), ..JobFilter::default() };
    let running = JobFilter { states: vec![State::Running.into()], ..owner.clone() };
    let page = |filter| ListJobsRequest { filter, ..ListJobsRequest::default() };
    [
        time::<ListJobsResponse>(connection, "JobService/ListJobs", &page(None)).await,
        time::<ListJobsResponse>(connection, "JobService/ListJobs", &page(Some(owner))).await,
        time::<ListJobsResponse>(connection, "JobService/ListJobs", &page(Some(running))).await,
        time::<GetStatsResponse>(connection, "AdminService/GetStats", &GetStatsRequest {}).await,
    ]
}

async fn time<A: Message + Default>(connection: &Connection, method: &str, request: &impl Message) -> f64 {
    let mut times = Vec::new();
    for _ in 0..CALLS {
        let started = Instant::now();
        connection.call::<A>(method, request).await;
        times.push(started.elapsed().as_secs_f64() * 1e6);
    }
    median(&times)
}

/// Returns the median time of a start, in milliseconds.
async fn start_time(redis: &str) -> f64 {
    let mut times = Vec::new();
    for _ in 0..STARTS {
        let started = Instant::now();
        let server = Kind::Jobtrack.start(Some(redis));
        let connection = Connection::open(server.address).await;
        connection.call::<GetStatsResponse>("AdminService/GetStats", &GetStatsRequest {}).await;
        times.push(started.elapsed().as_secs_f64() * 1e3);
    }
    median(&times)
}
