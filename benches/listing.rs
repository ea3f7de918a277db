//! Cost of a page as the number of jobs grows: `cargo bench --bench listing`.
//!
//! Prints the median time of a page of 50 among a thousand and a million jobs, and the ratio of the two: as a caller
//! sees it, over a real connection, and in the store alone, where a large number of jobs costs cache misses.

use std::{hint::black_box, sync::Arc, time::Instant};

use jobtrack::{
    auth::Authenticator,
    clock::{Clock, SystemClock},
    domain::{
        ANYONE, Change, Cursor, Filter, JobId, ListQuery, NewJob, Order, Owners, Report, Retention, State, Timestamp,
        View,
    },
    grpc::{self, GrpcServer},
    proto::v1::{self, JobFilter, ListJobsRequest, job_service_client::JobServiceClient},
    store::{JobStore, MemoryStore},
    tracker::Tracker,
    watch::Hub,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::transport::{Channel, Endpoint};

const SIZES: [u32; 2] = [1_000, 1_000_000];
const PAGES: u32 = 2_001;

/// A server in this process, and its store.
struct Bench {
    client: JobServiceClient<Channel>,
    store: Arc<MemoryStore>,
    /// Creation times of the first and of the last job.
    span: (Timestamp, Timestamp),
}

#[tokio::main]
async fn main() {
    let states = [State::Running];
    let filters = [
        ("all", Filter::default()),
        ("running", Filter { states: states.into(), ..Filter::default() }),
        ("owner", Filter { owners: Owners::one("owner-3"), ..Filter::default() }),
        ("owner, running", Filter { owners: Owners::one("owner-3"), states: states.into(), ..Filter::default() }),
    ];
    let mut medians = Vec::new();
    for size in SIZES {
        let before = resident();
        let mut bench = Bench::with(size).await;
        println!("{size} jobs: {} bytes each in memory", (resident() - before) / u64::from(size));
        for (_, filter) in &filters {
            medians.push((bench.call(filter).await, bench.store(filter).await));
        }
    }
    println!("{:<16} {:>14} {:>14} {:>6}", "a page of 50", "of 1,000", "of 1,000,000", "ratio");
    for (at, (name, _)) in filters.iter().enumerate() {
        let (few, many) = (medians[at], medians[at + filters.len()]);
        println!("{name:<16} {:>11.1} µs {:>11.1} µs {:>6.2}", few.0, many.0, many.0 / few.0);
        println!("{:<16} {:>11.1} µs {:>11.1} µs {:>6.2}", "  in the store", few.1, many.1, many.1 / few.1);
    }
}

impl Bench {
    /// Serves `size` jobs of ten owners, every other one running.
    async fn with(size: u32) -> Self {
        let hub = Arc::new(Hub::default());
        let store = Arc::new(MemoryStore::new(usize::MAX, hub.clone()));
        let zero = std::time::Duration::ZERO;
        let retention = Retention { succeeded: zero, failed: zero, cancelled: zero, active: zero };
        let tracker = Arc::new(Tracker::new(store.clone(), hub, Arc::new(SystemClock), retention));
        let first = SystemClock.now();
        for n in 0..size {
            let new = NewJob {
                id: JobId::parse(&format!("job-{n:08}")),
                kind: "video.render".into(),
                owner: format!("owner-{}", n % 10),
                labels: [("team".to_owned(), "media".to_owned())].into(),
                ..NewJob::default()
            };
            let stored = tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room").into_stored();
            if n % 2 == 1 {
                let heartbeat = Change::Report(Report::default());
                tracker.on_behalf_of(&ANYONE).change(&stored.job.id, &heartbeat).await.expect("a heartbeat is allowed");
            }
        }
        let span = (first, SystemClock.now());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let quotas = tracker.quotas().clone();
        let service = GrpcServer::new(tracker, Authenticator::open_to_all(), true).await.service;
        let (connections, never) = (TaskTracker::new(), CancellationToken::new());
        tokio::spawn(grpc::serve(listener, None, service, connections, quotas, never, std::future::pending()));
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
        Self { client: JobServiceClient::new(endpoint.connect().await.expect("it listens")), store, span }
    }

    /// Returns a position in the newer half of the list, a different one for each `n`.
    fn place(&self, n: u32) -> Cursor {
        let (first, last) = self.span;
        let back = last.since(first).mul_f64((f64::from(n) * 0.618).fract() / 2.0);
        Cursor { create_time: last - back, id: JobId::parse("z").expect("valid") }
    }

    /// Returns the median time of a call, in microseconds.
    async fn call(&mut self, filter: &Filter) -> f64 {
        let states = filter.states.iter().map(|_| v1::job::State::Running.into()).collect();
        let owner = match &filter.owners {
            Owners::All => String::new(),
            Owners::Only(owners) => owners.first().cloned().unwrap_or_default(),
        };
        let wire = JobFilter { states, owner, ..JobFilter::default() };
        let mut times = Vec::new();
        for n in 0..PAGES {
            let page_token = self.place(n).to_token(filter.digest(&ANYONE));
            let request = ListJobsRequest { filter: Some(wire.clone()), page_token, ..ListJobsRequest::default() };
            let started = Instant::now();
            let page = self.client.list_jobs(request).await.expect("a page").into_inner();
            times.push(started.elapsed().as_secs_f64() * 1e6);
            assert!(page.jobs.len() >= 25, "a full page, or the last one of few");
        }
        median(times)
    }

    /// Returns the median time in the store alone, in microseconds.
    async fn store(&self, filter: &Filter) -> f64 {
        let mut times = Vec::new();
        for n in 0..PAGES {
            let query = ListQuery {
                view: View::Full,
                filter: filter.clone(),
                order: Order::Newest,
                limit: 50,
                max_bytes: usize::MAX,
                after: Some(self.place(n)),
                now: SystemClock.now(),
                confined: false,
            };
            let started = Instant::now();
            black_box(self.store.list(&query).await.expect("the store answers"));
            times.push(started.elapsed().as_secs_f64() * 1e6);
        }
        median(times)
    }
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or(0) * 1024
}
