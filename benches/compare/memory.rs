//! Memory of an idle watch and of a job.

use std::{sync::Arc, time::Duration};

use jobtrack::proto::v1::GetJobResponse;
use prost::Message;
use tokio::time::sleep;

use crate::{
    load::{
        grpc::Connection,
        unary::{self, Plan, Target, Until},
        watch::{Audience, Subscribers},
    },
    process::{Kind, Server},
    report::{Report, Table, grouped},
    stats::{median, real},
    workload::{Jobs, Operation},
};

const WATCHES: usize = 10_000;

/// At most the server's default limit.
const WATCHES_PER_CONNECTION: usize = 500;

/// Time for allocators to return memory that is freed late.
const REST: Duration = Duration::from_secs(2);

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let (jobs, repetitions) = if report.quick { (100_000, 1) } else { (1_000_000, 3) };
    let mut table = Table::new(&["bytes per", "floor", "jobtrack", "ratio"]);
    let name = format!("idle watch, {} open on one job", grouped(real(WATCHES as u64)));
    let floor = repeated(repetitions, async || per_watch(Kind::Floor).await).await;
    let jobtrack = repeated(repetitions, async || per_watch(Kind::Jobtrack).await).await;
    table.row(row(name, floor, jobtrack));
    let (size, floor) = per_job(Kind::Floor, jobs).await;
    let (_, jobtrack) = per_job(Kind::Jobtrack, jobs).await;
    table.row(row(format!("job, {} in memory", grouped(f64::from(jobs))), floor, jobtrack));
    report.write(
        "memory",
        &format!(
            "## Memory\n\nGrowth of the server's resident memory, in memory mode. The encoded job has {size} bytes and one \
             report; the floor has no index of its jobs.\n\n{}\nThat is {} MB for a million jobs.\n",
            table.render(),
            grouped(jobtrack)
        ),
    );
}

fn row(name: String, floor: f64, jobtrack: f64) -> Vec<String> {
    vec![name, grouped(floor), grouped(jobtrack), format!("{:.2}", jobtrack / floor)]
}

async fn repeated(repetitions: usize, measure: impl AsyncFn() -> f64) -> f64 {
    let mut values = Vec::new();
    for _ in 0..repetitions {
        values.push(measure().await);
    }
    median(&values)
}

/// Returns the bytes per open watch of one job.
async fn per_watch(kind: Kind) -> f64 {
    let server = kind.start(None);
    let jobs = Arc::new(Jobs::new(1));
    Target::grpc(server.address, 1).await.prepare(&jobs).await;
    let before = rested(&server).await;
    let connections = WATCHES / WATCHES_PER_CONNECTION;
    let audience = Audience::gather(server.address, jobs, Subscribers::grpc(WATCHES, connections), 8).await;
    let after = rested(&server).await;
    drop(audience);
    real(after - before) / real(WATCHES as u64)
}

/// Returns the size of a job's response, and the bytes per job with this number of jobs.
async fn per_job(kind: Kind, count: u32) -> (usize, f64) {
    let server = kind.start(None);
    let target = Arc::new(Target::grpc(server.address, 4).await);
    let jobs = Arc::new(Jobs::new(count));
    // Allocates first everything that many concurrent calls need.
    let others = Arc::new(Jobs::new(1024));
    target.prepare(&others).await;
    let plan = Plan { operation: Operation::Get, callers: 64, until: Until::Calls(10_000), rate: None };
    unary::run(target.clone(), others, plan).await;
    let before = rested(&server).await;
    target.prepare(&jobs).await;
    let after = rested(&server).await;
    let connection = Connection::open(server.address).await;
    let answer: GetJobResponse = connection.call("JobService/GetJob", &jobs.get_request(0)).await;
    (answer.encoded_len(), real(after - before) / f64::from(count))
}

/// Returns the resident memory of a server that is idle.
async fn rested(server: &Server) -> u64 {
    sleep(REST).await;
    server.resident()
}
