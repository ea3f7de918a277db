//! Time until a Redis that lost all data has all jobs again.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{GetStatsRequest, GetStatsResponse, StorageMode};
use tokio::time::{sleep, timeout};

use super::Finding;
use crate::{
    load::{
        grpc::Connection,
        unary::{self, Plan, Target, Until},
    },
    process::{Kind, REDIS_TIMEOUT, Server},
    servers::Redis,
    svg::Line,
    workload::{Jobs, Operation},
};

/// Timeout of a reconciliation.
const RECONCILIATION_TIMEOUT: Duration = Duration::from_secs(300);

pub async fn measure(quick: bool) -> Finding {
    let sizes: &[u32] = if quick { &[1_000, 10_000] } else { &[1_000, 10_000, 100_000] };
    let mut points = Vec::new();
    for &size in sizes {
        points.push((f64::from(size), reconcile(size).await));
    }
    Finding {
        name: "recovery",
        title: "A reconciliation, by the number of dirty jobs",
        text:
            "Redis is killed, jobs are created, and an empty Redis is started. Time from when it serves until all jobs \
               are in it and are served from it. Part of that is the pause between two probes, at most half a second."
                .to_owned(),
        size: "jobs created while Redis was unavailable",
        value: "time, ms",
        lines: vec![Line { name: "reconciliation".to_owned(), points }],
    }
}

/// Returns the milliseconds until this number of jobs is reconciled.
async fn reconcile(count: u32) -> f64 {
    let mut redis = Redis::start().await;
    let mut command = Kind::Jobtrack.command(Some(&redis.url()), &[]);
    command.env_remove(REDIS_TIMEOUT);
    let server = Server::start(command);
    let connection = Connection::open(server.address).await;
    redis.kill();
    until(&connection, |stats| stats.storage_mode() == StorageMode::Degraded).await;
    create(&server, count).await;
    until(&connection, |stats| stats.dirty_jobs == i64::from(count)).await;
    redis.restart_empty().await;
    let started = Instant::now();
    until(&connection, |stats| stats.dirty_jobs == 0 && stats.storage_mode() == StorageMode::Redis).await;
    started.elapsed().as_secs_f64() * 1e3
}

async fn create(server: &Server, count: u32) {
    let target = Arc::new(Target::grpc(server.address, 4).await);
    let plan = Plan { operation: Operation::Create, callers: 64, until: Until::Calls(u64::from(count)), rate: None };
    unary::run(target, Arc::new(Jobs::new(0)), plan).await;
}

/// Waits until the statistics fulfil a condition.
async fn until(connection: &Connection, probe: impl Fn(&GetStatsResponse) -> bool) {
    let found = timeout(RECONCILIATION_TIMEOUT, async {
        while !probe(&connection.call("AdminService/GetStats", &GetStatsRequest {}).await) {
            sleep(Duration::from_millis(5)).await;
        }
    });
    found.await.expect("it takes no longer");
}
