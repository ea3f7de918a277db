//! Many watches, each of a job of its own: the CPU time that opens them, the memory that they occupy, and the CPU time
//! of the server and of Redis while nothing happens, in memory and with Redis. And the memory of a connection.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, stream};
use jobtrack::proto::v1::GetJobResponse;
use tokio::time::sleep;

use crate::{
    load::{
        grpc::{Connection, Messages},
        unary::Target,
        watch::open_watches,
    },
    process::{Kind, Server},
    report::{Report, Table, grouped},
    servers::Redis,
    stats::real,
    workload::Jobs,
    writes::redis_cpu,
};

/// At most the server's default limit.
const WATCHES_PER_CONNECTION: usize = 500;

/// Time for allocators to return memory that is freed late.
const REST: Duration = Duration::from_secs(2);

/// Maximum number of connections that are opened at a time: more than a listener queues would be refused.
const CONNECTING_MAX: usize = 100;

/// The extent of a measurement.
#[derive(Clone, Copy)]
struct Size {
    /// Number of watches that are opened at once.
    opened: u32,
    /// Number of watches that are open while nothing happens.
    idle: u32,
    /// Time for which nothing happens.
    time: Duration,
    connections: u32,
}

impl Size {
    const fn of(quick: bool) -> Self {
        if quick {
            Self { opened: 2000, idle: 5000, time: Duration::from_secs(5), connections: 500 }
        } else {
            Self { opened: 10_000, idle: 50_000, time: Duration::from_secs(20), connections: 2000 }
        }
    }
}

/// The costs of watches.
struct Costs {
    /// CPU time of the server to open a watch, in microseconds.
    opening: f64,
    /// Resident memory of an open watch, in bytes.
    bytes: f64,
}

/// CPU time while nothing happens, in milliseconds per second.
struct Idle {
    server: f64,
    redis: f64,
}

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let size = Size::of(report.quick);
    let redis = Redis::start().await;
    let (memory, with_redis) = (opening(None, size.opened).await, opening(Some(&redis), size.opened).await);
    let mut table = Table::new(&["watches of different jobs", "in memory", "with Redis", "ratio"]);
    let name = |what: &str| format!("{what}, {} watches opened at once", grouped(f64::from(size.opened)));
    table.row(compared(name("CPU per watch, µs"), memory.opening, with_redis.opening));
    table.row(compared(name("bytes per watch"), memory.bytes, with_redis.bytes));

    let (none, watched) = (idle(&redis, 0, size.time).await, idle(&redis, size.idle, size.time).await);
    let mut idle_table =
        Table::new(&["CPU while nothing happens, with Redis, ms per s", "no watch", "watches", "ratio"]);
    let name = |what: &str| format!("{what}, {} watches", grouped(f64::from(size.idle)));
    idle_table.row(compared(name("server"), none.server, watched.server));
    idle_table.row(compared(name("Redis"), none.redis, watched.redis));

    let (floor, jobtrack) = (connection(Kind::Floor, &size).await, connection(Kind::Jobtrack, &size).await);
    let mut connections = Table::new(&["bytes per", "floor", "jobtrack", "ratio"]);
    let name = format!("connection, {} open after a call on each", grouped(f64::from(size.connections)));
    connections.row(compared(name, floor, jobtrack));
    let text = format!(
        "## Open watches and connections\n\nWatches of different jobs, all opened at once and then idle, \
         {WATCHES_PER_CONNECTION} on each connection; the CPU time of the server, and the growth of its resident \
         memory.\n\n{}\n{}\n{}",
        table.render(),
        idle_table.render(),
        connections.render()
    );
    report.write("openings", &text);
}

fn compared(name: String, first: f64, second: f64) -> Vec<String> {
    let figure = |value: f64| if value < 100.0 { format!("{value:.1}") } else { grouped(value) };
    vec![name, figure(first), figure(second), format!("{:.2}", second / first)]
}

/// Opens watches of as many jobs at once.
async fn opening(redis: Option<&Redis>, watches: u32) -> Costs {
    let url = redis.map(Redis::url);
    let server = Kind::Jobtrack.start(url.as_deref());
    let jobs = jobs_of(&server, watches).await;
    let resident = rested(&server).await;
    let cpu = server.cpu_time();
    let open = open(&server, &jobs).await;
    let opening = server.cpu_time().saturating_sub(cpu).as_secs_f64() * 1e6 / f64::from(watches);
    let bytes = real(rested(&server).await.saturating_sub(resident)) / f64::from(watches);
    drop(open);
    Costs { opening, bytes }
}

/// Waits while watches of as many jobs are open.
async fn idle(redis: &Redis, watches: u32, time: Duration) -> Idle {
    let server = Kind::Jobtrack.start(Some(&redis.url()));
    let jobs = jobs_of(&server, watches).await;
    let open = open(&server, &jobs).await;
    sleep(REST).await;
    let (server_before, redis_before) = (server.cpu_time(), redis_cpu(redis).await);
    sleep(time).await;
    let used = server.cpu_time().saturating_sub(server_before).as_secs_f64();
    let used_by_redis = redis_cpu(redis).await - redis_before;
    drop(open);
    let share = |used: f64| used * 1e3 / time.as_secs_f64();
    Idle { server: share(used), redis: share(used_by_redis) }
}

/// Returns the bytes per open connection.
async fn connection(kind: Kind, size: &Size) -> f64 {
    let server = kind.start(None);
    let jobs = jobs_of(&server, 1).await;
    let before = rested(&server).await;
    let open: Vec<_> = stream::iter(0..size.connections)
        .map(async |_| {
            let connection = Connection::open(server.address).await;
            let _: GetJobResponse = connection.call("JobService/GetJob", &jobs.get_request(0)).await;
            connection
        })
        .buffer_unordered(CONNECTING_MAX)
        .collect()
        .await;
    let after = rested(&server).await;
    drop(open);
    real(after.saturating_sub(before)) / f64::from(size.connections)
}

/// Creates jobs, and waits until the server has answered everything that it starts with.
async fn jobs_of(server: &Server, count: u32) -> Arc<Jobs> {
    let jobs = Arc::new(Jobs::new(count));
    Target::grpc(server.address, 4).await.prepare(&jobs).await;
    jobs
}

async fn open(server: &Server, jobs: &Jobs) -> Vec<Messages> {
    open_watches(server.address, jobs, WATCHES_PER_CONNECTION).await
}

/// Returns the resident memory of a server that is idle.
async fn rested(server: &Server) -> u64 {
    sleep(REST).await;
    server.resident()
}
