//! Unary calls by many callers, as fast as they are answered or at a rate, with the latency of each.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use jobtrack::proto::v1::{CreateJobResponse, GetJobResponse, Source, UpdateProgressResponse};
use tokio::time::{Instant, sleep_until};

use super::{api::ApiClient, grpc::Connection, http::JsonClient};
use crate::{
    stats::real,
    workload::{Jobs, Operation},
};

/// The longest latency that is measured exactly, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;

/// The end of a load.
#[derive(Clone, Copy)]
pub enum Until {
    /// Ends after exactly this number of calls.
    Calls(u64),
    /// Ends with the calls that began within this time.
    Time(Duration),
}

/// The plan of a load.
#[derive(Clone, Copy)]
pub struct Plan {
    pub operation: Operation,
    pub callers: u32,
    pub until: Until,
    /// Calls per second of all callers together; `None`: each caller calls again as soon as it has its response.
    pub rate: Option<f64>,
}

/// The results of a load.
pub struct Outcome {
    pub calls: u64,
    pub elapsed: Duration,
    /// Time from when a call was due to its response, in nanoseconds.
    pub latencies: Histogram<u64>,
    /// Number of reads that were answered from memory.
    pub from_memory: u64,
}

impl Outcome {
    /// Returns the calls per second.
    pub fn rate(&self) -> f64 {
        real(self.calls) / self.elapsed.as_secs_f64()
    }

    /// Returns the time within which this share of the calls was answered, in microseconds.
    pub fn latency(&self, share: f64) -> f64 {
        real(self.latencies.value_at_quantile(share)) / 1000.0
    }
}

/// A client that makes the measured calls.
pub trait Calls: Send + Sync + 'static {
    /// Makes one call. Returns whether it was a read that was answered from memory.
    fn call(&self, caller: u32, operation: Operation, jobs: &Jobs, job: u32) -> impl Future<Output = bool> + Send;
}

/// The connection to a server.
pub enum Target {
    Grpc(Vec<Connection>),
    Json(Box<JsonClient>),
    Api(Box<ApiClient>),
}

impl Target {
    /// Connects to a gRPC server, with this number of connections.
    pub async fn grpc(address: SocketAddr, connections: usize) -> Self {
        Self::Grpc(join_all((0..connections).map(|_| Connection::open(address))).await)
    }

    /// Returns a client of a server that speaks JSON.
    pub fn json(address: SocketAddr) -> Self {
        Self::Json(Box::new(JsonClient::new(address)))
    }

    /// Creates all jobs, and reports on each once.
    pub async fn prepare(&self, jobs: &Jobs) {
        prepare(self, jobs).await;
    }
}

impl Calls for Target {
    async fn call(&self, caller: u32, operation: Operation, jobs: &Jobs, job: u32) -> bool {
        match self {
            Self::Grpc(connections) => {
                let connection = &connections[caller as usize % connections.len()];
                grpc_call(connection, operation, jobs, job).await
            }
            Self::Json(client) => {
                client.call(operation, jobs, job).await;
                false
            }
            Self::Api(client) => {
                client.call(operation, jobs, job).await;
                false
            }
        }
    }
}

/// Creates all jobs, and reports on each once.
pub async fn prepare(target: &impl Calls, jobs: &Jobs) {
    let callers = 16;
    join_all((0..callers).map(async |caller| {
        for job in (caller..jobs.count).step_by(16) {
            target.call(caller, Operation::Create, jobs, job).await;
            target.call(caller, Operation::Update, jobs, job).await;
        }
    }))
    .await;
}

/// Makes one call to a server of jobtrack's services. Returns whether it was a read that was answered from memory.
pub async fn grpc_call(connection: &Connection, operation: Operation, jobs: &Jobs, job: u32) -> bool {
    match operation {
        Operation::Get => {
            let answer: GetJobResponse = connection.call("JobService/GetJob", &jobs.get_request(job)).await;
            answer.source() == Source::Memory
        }
        Operation::Update => {
            let request = jobs.update_request(job);
            let answer: UpdateProgressResponse = connection.call("JobService/UpdateProgress", &request).await;
            assert!(answer.applied, "each report is newer than the last");
            false
        }
        Operation::Create => {
            let request = jobs.create_request(job);
            let answer: CreateJobResponse = connection.call("JobService/CreateJob", &request).await;
            assert!(answer.created, "each job is new");
            false
        }
    }
}

/// Calls `target` according to `plan`. Each caller has jobs of its own, so that callers never conflict.
pub async fn run<T: Calls>(target: Arc<T>, jobs: Arc<Jobs>, plan: Plan) -> Outcome {
    let started = Instant::now();
    let begun = Arc::new(AtomicU64::new(0));
    let callers = (0..plan.callers).map(|number| {
        let caller = Caller { target: target.clone(), jobs: jobs.clone(), plan, number, started, begun: begun.clone() };
        tokio::spawn(caller.run())
    });
    let callers: Vec<_> = callers.collect();
    let mut latencies = histogram();
    let mut from_memory = 0;
    for caller in callers {
        let (times, memory) = caller.await.expect("no call fails");
        latencies.add(times).expect("the bounds are the same");
        from_memory += memory;
    }
    Outcome { calls: latencies.len(), elapsed: started.elapsed(), latencies, from_memory }
}

/// Returns a histogram of nanoseconds with an error of at most one percent.
pub fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST, 2).expect("the bounds are valid")
}

struct Caller<T> {
    target: Arc<T>,
    jobs: Arc<Jobs>,
    plan: Plan,
    number: u32,
    started: Instant,
    /// Number of calls of all callers.
    begun: Arc<AtomicU64>,
}

impl<T: Calls> Caller<T> {
    async fn run(self) -> (Histogram<u64>, u64) {
        let mut latencies = histogram();
        let mut from_memory = 0;
        for turn in 0_u32.. {
            let due = self.due(turn).await;
            if self.is_over() {
                break;
            }
            let memory = self.target.call(self.number, self.plan.operation, &self.jobs, self.job(turn)).await;
            from_memory += u64::from(memory);
            latencies.saturating_record(u64::try_from(due.elapsed().as_nanos()).unwrap_or(LONGEST));
        }
        (latencies, from_memory)
    }

    /// Waits until the next call is due, and returns the time at which it was due. Thus a latency includes the time for
    /// which the call had to wait because the server was slow.
    async fn due(&self, turn: u32) -> Instant {
        let Some(rate) = self.plan.rate else { return Instant::now() };
        let calls = f64::from(turn) * f64::from(self.plan.callers) + f64::from(self.number);
        let due = self.started + Duration::from_secs_f64(calls / rate);
        sleep_until(due).await;
        due
    }

    fn is_over(&self) -> bool {
        match self.plan.until {
            Until::Calls(calls) => self.begun.fetch_add(1, Relaxed) >= calls,
            Until::Time(time) => self.started.elapsed() >= time,
        }
    }

    /// Returns the job of the next call.
    fn job(&self, turn: u32) -> u32 {
        if self.plan.operation == Operation::Create {
            return self.jobs.fresh();
        }
        let own = (self.jobs.count / self.plan.callers).max(1);
        (self.number + turn % own * self.plan.callers) % self.jobs.count
    }
}
