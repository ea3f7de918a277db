//! Time and memory of a purge.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use jobtrack::proto::{
    EncodedStruct,
    v1::{
        CompleteJobRequest, CompleteJobResponse, CreateJobRequest, CreateJobResponse, PurgeJobsRequest,
        PurgeJobsResponse,
    },
};
use prost_types::{Struct, Value, value::Kind as Text};
use tokio::time::sleep;

use crate::{
    load::grpc::Connection,
    process::{Kind, Server},
    report::{Report, Table, grouped},
    stats::real,
    workload::Jobs,
};

/// Callers that make the jobs.
const MAKERS: u32 = 16;

/// Bytes of text in each of the two documents of a job.
const DOCUMENT: usize = 500;

/// Time for allocators to return memory that is freed late.
const REST: Duration = Duration::from_secs(2);

/// The measurements of one purge.
struct Measured {
    /// Microseconds for each job.
    time: f64,
    /// Bytes of memory for each job before the purge.
    job: f64,
    /// Bytes of memory for each job after the purge.
    tombstone: f64,
}

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let sizes: &[u32] = if report.quick { &[1_000, 10_000] } else { &[10_000, 100_000, 1_000_000] };
    let mut table =
        Table::new(&["finished jobs", "purged a second", "µs per job", "bytes per job before", "bytes per job after"]);
    for &size in sizes {
        let Measured { time, job, tombstone } = purge(size).await;
        let values = [f64::from(size), 1e6 / time, time, job, tombstone];
        table.row(values.map(|value| if value < 100.0 { format!("{value:.1}") } else { grouped(value) }).to_vec());
    }
    report.write(
        "purge",
        &format!(
            "## Purge\n\nJobs that succeeded, each with two documents of {DOCUMENT} bytes, in memory. One caller purges them \
             all: each call continues from the token of the last answer. After it, tombstones are left for a day. Bytes \
             are those resident in the server.\n\n{}",
            table.render()
        ),
    );
}

async fn purge(count: u32) -> Measured {
    let server = Kind::Jobtrack.start(None);
    let connections = join_all((0..4).map(|_| Connection::open(server.address))).await;
    // Allocates first everything that many concurrent calls need.
    make(&connections, 1024).await;
    purge_all(&connections[0]).await;
    let before = rested(&server).await;
    make(&connections, count).await;
    let held = rested(&server).await - before;
    let started = Instant::now();
    let purged = purge_all(&connections[0]).await;
    let elapsed = started.elapsed();
    assert_eq!(purged, i64::from(count), "all of them are purged");
    let left = rested(&server).await.saturating_sub(before);
    let each = |value: f64| value / f64::from(count);
    Measured { time: each(elapsed.as_secs_f64() * 1e6), job: each(real(held)), tombstone: each(real(left)) }
}

/// Makes jobs that have succeeded.
async fn make(connections: &[Connection], count: u32) {
    let jobs = Jobs::new(count);
    let text = Value { kind: Some(Text::StringValue("x".repeat(DOCUMENT))) };
    let document = EncodedStruct::from(Struct { fields: [("text".to_owned(), text)].into() });
    join_all((0..MAKERS).map(async |maker| {
        let connection = &connections[maker as usize % connections.len()];
        for job in (maker..count).step_by(MAKERS as usize) {
            let create = CreateJobRequest { metadata: Some(document.clone()), ..jobs.create_request(job) };
            connection.call::<CreateJobResponse>("JobService/CreateJob", &create).await;
            let result = Some(document.clone());
            let complete = CompleteJobRequest { job_id: jobs.id(job), result, ..CompleteJobRequest::default() };
            connection.call::<CompleteJobResponse>("JobService/CompleteJob", &complete).await;
        }
    }))
    .await;
}

/// Purges all jobs that have ended. Returns their number.
async fn purge_all(connection: &Connection) -> i64 {
    let (mut request, mut count) = (PurgeJobsRequest::default(), 0);
    loop {
        let part: PurgeJobsResponse = connection.call("AdminService/PurgeJobs", &request).await;
        assert!(!part.partial, "memory knows all jobs");
        count += part.purged_count;
        request.page_token = part.next_page_token;
        if request.page_token.is_empty() {
            return count;
        }
    }
}

/// Returns the memory of a server that has nothing to do, in bytes.
async fn rested(server: &Server) -> u64 {
    sleep(REST).await;
    server.resident()
}
