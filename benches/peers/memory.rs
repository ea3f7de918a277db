//! Resident memory per job and per idle watch.

use std::{sync::Arc, time::Duration};

use tokio::time::sleep;

use crate::{
    contender::{Contender, Name},
    load::{
        board::Board,
        unary::{self, Plan, Until},
    },
    report::{Report, Table, grouped},
    stats::real,
    tables::{missing, versions},
    watchers::{Subject, subscribe},
    workload::{Jobs, Operation},
};

const NAMES: [Name; 8] = [
    Name::Jobtrack,
    Name::Floor,
    Name::GrpcGo,
    Name::Etcd,
    Name::Nats,
    Name::JobtrackRedis,
    Name::FloorRedis,
    Name::Redis,
];

/// Time for allocators to return memory that is freed late.
const REST: Duration = Duration::from_secs(2);

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let (jobs, watches) = if report.quick { (20_000, 2000) } else { (100_000, 10_000) };
    let heads = ["server", "bytes per job", "in Redis", "bytes per watch", "in Redis"];
    let mut table = Table::new(&heads);
    let mut absent = Vec::new();
    for name in NAMES {
        let (per_job, per_watch) = match (per_job(name, jobs).await, per_watch(name, watches).await) {
            (Ok(per_job), per_watch) => (per_job, per_watch),
            (Err(reason), _) => {
                absent.push((name, reason));
                continue;
            }
        };
        let mut cells = vec![name.label().to_owned()];
        cells.extend(per_job.map(cell));
        match per_watch {
            Ok(per_watch) => cells.extend(per_watch.map(cell)),
            Err(reason) => {
                cells.extend(["–".to_owned(), "–".to_owned()]);
                absent.push((name, format!("watches: {reason}")));
            }
        }
        table.row(cells);
    }
    let text = format!(
        "## Memory, in comparison with peers\n\nGrowth of the resident memory of a server, and of its Redis, with {} jobs \
         of some 300 bytes, each created and reported on once; and with {} open watches of one job that does not change, \
         at most 500 on a connection. etcd keeps both versions of each job, and its resident memory includes the mapped \
         file of its database. Go returns memory late, so that figures of etcd, NATS and grpc-go include what its garbage \
         collector has not freed.\n\n{}\n{}{}",
        grouped(f64::from(jobs)),
        grouped(real(watches as u64)),
        versions(),
        table.render(),
        missing(&absent)
    );
    report.write("peers-memory", &text);
}

/// Formats a number of bytes. A process that has not grown is not told apart from one that does not exist.
fn cell(bytes: f64) -> String {
    if bytes >= 1.0 { grouped(bytes) } else { "–".to_owned() }
}

/// Returns the bytes per job, of the server and of its Redis.
async fn per_job(name: Name, count: u32) -> Result<[f64; 2], String> {
    let contender = Contender::start(name).await?;
    // Allocates first everything that many concurrent calls need.
    let others = Arc::new(Jobs::new(1024));
    unary::prepare(&*contender.client, &others).await;
    let plan = Plan { operation: Operation::Get, callers: 64, until: Until::Calls(10_000), rate: None };
    unary::run(contender.client.clone(), others, plan).await;
    let before = rested(&contender).await;
    unary::prepare(&*contender.client, &Jobs::new(count)).await;
    Ok(growth(before, rested(&contender).await, f64::from(count)))
}

/// Returns the bytes per open watch of one job, of the server and of its Redis.
async fn per_watch(name: Name, count: usize) -> Result<[f64; 2], String> {
    match name {
        Name::GrpcGo => return Err("it has none".to_owned()),
        Name::FloorRedis => return Err("as without Redis".to_owned()),
        Name::Redis => return Err("each subscriber needs a connection".to_owned()),
        _ => {}
    }
    let contender = Contender::start(name).await?;
    let jobs = Jobs::new(2);
    unary::prepare(&*contender.client, &jobs).await;
    let before = rested(&contender).await;
    let board = Arc::new(Board::new(count, 8));
    subscribe(&contender, &jobs, Subject::Job(0), count, &board).await;
    Ok(growth(before, rested(&contender).await, real(count as u64)))
}

fn growth(before: [u64; 2], after: [u64; 2], count: f64) -> [f64; 2] {
    [0, 1].map(|at| (real(after[at]) - real(before[at])) / count)
}

/// Returns the resident memory of a server that is idle.
async fn rested(contender: &Contender) -> [u64; 2] {
    sleep(REST).await;
    contender.resident()
}
