//! One reporter, and many subscribers of its job.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use hdrhistogram::Histogram;
use http::Version;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jobtrack::proto::v1::{Event, UpdateProgressResponse};
use tokio::time::{sleep, sleep_until, timeout};

use super::{
    api::ApiClient,
    grpc::{Connection, Messages},
    unary::histogram,
};
use crate::{stats::real, workload::Jobs};

/// Maximum time until all subscribers have the last event.
const DELIVERY_TIMEOUT: Duration = Duration::from_secs(60);

/// The fields of an event that are needed here. Skipping the others is cheaper than decoding them.
#[derive(prost::Message)]
struct Seen {
    #[prost(enumeration = "Event", tag = "1")]
    event: i32,
    #[prost(message, optional, tag = "2")]
    job: Option<SeenJob>,
}

#[derive(prost::Message)]
struct SeenJob {
    #[prost(message, optional, tag = "8")]
    progress: Option<SeenProgress>,
}

#[derive(prost::Message)]
struct SeenProgress {
    #[prost(int64, optional, tag = "2")]
    completed: Option<i64>,
}

/// The subscribers of a job.
#[derive(Clone, Copy)]
pub struct Subscribers {
    pub count: usize,
    pub connections: usize,
    /// They read server-sent events over this version of HTTP; `None`: a stream of gRPC.
    pub events: Option<Version>,
}

impl Subscribers {
    /// Returns subscribers that read streams of gRPC.
    pub const fn grpc(count: usize, connections: usize) -> Self {
        Self { count, connections, events: None }
    }
}

/// The number and the rate of the reports.
#[derive(Clone, Copy)]
pub struct Reports {
    pub count: usize,
    /// Reports per second; `None`: each report follows the last response.
    pub rate: Option<f64>,
}

/// The events that subscribers received.
pub struct Delivery {
    /// Number of events of all subscribers.
    pub events: u64,
    pub elapsed: Duration,
    /// Time from before a report was sent until a subscriber has its event, in nanoseconds.
    pub latencies: Histogram<u64>,
}

impl Delivery {
    /// Returns the events per second.
    pub fn rate(&self) -> f64 {
        real(self.events) / self.elapsed.as_secs_f64()
    }

    /// Returns the time within which this share of the events arrived, in milliseconds.
    pub fn latency(&self, share: f64) -> f64 {
        real(self.latencies.value_at_quantile(share)) / 1e6
    }
}

/// Subscribers of the first of some jobs, all of which have received its snapshot.
pub struct Audience {
    jobs: Arc<Jobs>,
    reporter: Connection,
    board: Arc<Board>,
}

/// Measurements of all subscribers.
struct Board {
    origin: Instant,
    /// Time at which each report was sent, by its `completed`, in nanoseconds since `origin`.
    sent: Vec<AtomicU64>,
    latencies: Mutex<Histogram<u64>>,
    events: AtomicU64,
    /// The last report, and the number of subscribers that have it.
    last: AtomicUsize,
    done: AtomicUsize,
    subscribers: usize,
}

impl Audience {
    /// Opens subscriptions. The job exists, and can be reported on until `completed` reaches `room`.
    pub async fn gather(address: SocketAddr, jobs: Arc<Jobs>, subscribers: Subscribers, room: usize) -> Self {
        let board = Arc::new(Board::new(subscribers.count, room));
        match subscribers.events {
            None => gather_streams(address, &jobs, subscribers, &board).await,
            Some(version) => gather_events(address, &jobs, subscribers, version, &board).await,
        }
        Self { jobs, reporter: Connection::open(address).await, board }
    }

    /// Reports on the job until all subscribers have the last report.
    pub async fn report(&self, reports: Reports) -> Delivery {
        self.board.reset();
        let started = Instant::now();
        for turn in 0..reports.count {
            if let Some(rate) = reports.rate {
                let pause = Duration::from_secs_f64(real(turn as u64) / rate);
                sleep_until((started + pause).into()).await;
            }
            self.report_once(turn + 1 == reports.count).await;
        }
        let all_done = async {
            while self.board.done.load(Relaxed) < self.board.subscribers {
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(DELIVERY_TIMEOUT, all_done).await.expect("every subscriber gets the newest event");
        Delivery {
            events: self.board.events.load(Relaxed),
            elapsed: started.elapsed(),
            latencies: self.board.latencies.lock().unwrap_or_else(PoisonError::into_inner).clone(),
        }
    }

    async fn report_once(&self, is_last: bool) {
        let request = self.jobs.update_request(0);
        let completed = request.progress.as_ref().and_then(|progress| progress.completed).unwrap_or(0);
        let number = usize::try_from(completed).expect("it rises from 1");
        if is_last {
            self.board.last.store(number, Relaxed);
        }
        self.board.sent[number].store(self.board.now(), Relaxed);
        let answer: UpdateProgressResponse = self.reporter.call("JobService/UpdateProgress", &request).await;
        assert!(answer.applied, "each report is newer than the last");
    }
}

impl Board {
    fn new(subscribers: usize, room: usize) -> Self {
        Self {
            origin: Instant::now(),
            sent: (0..room).map(|_| AtomicU64::new(0)).collect(),
            latencies: Mutex::new(histogram()),
            events: AtomicU64::new(0),
            last: AtomicUsize::new(usize::MAX),
            done: AtomicUsize::new(0),
            subscribers,
        }
    }

    /// Resets the measurements.
    fn reset(&self) {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).reset();
        self.events.store(0, Relaxed);
        self.last.store(usize::MAX, Relaxed);
        self.done.store(0, Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Records that a subscriber has the report with this `completed`.
    fn note(&self, number: i64) {
        let number = usize::try_from(number).expect("it rises from 1");
        let latency = self.now().saturating_sub(self.sent[number].load(Relaxed));
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner).saturating_record(latency);
        self.events.fetch_add(1, Relaxed);
        if number == self.last.load(Relaxed) {
            self.done.fetch_add(1, Relaxed);
        }
    }
}

/// Opens a watch of each job at once, and waits for their first events.
pub async fn open_watches(address: SocketAddr, jobs: &Jobs, per_connection: usize) -> Vec<Messages> {
    let count = jobs.count as usize;
    let links = join_all((0..count.div_ceil(per_connection)).map(|_| Connection::open(address))).await;
    let links = &links;
    join_all((0..jobs.count).map(async |job| {
        let link = &links[job as usize % links.len()];
        let mut messages = link.stream("JobService/WatchJob", &jobs.watch_request(job)).await;
        let first: Seen = messages.next().await.expect("a watch begins with an event");
        assert_eq!(first.event(), Event::Snapshot);
        messages
    }))
    .await
}

/// Opens streams of gRPC.
async fn gather_streams(address: SocketAddr, jobs: &Jobs, subscribers: Subscribers, board: &Arc<Board>) {
    let links = join_all((0..subscribers.connections).map(|_| Connection::open(address))).await;
    let request = jobs.watch_request(0);
    let streams = (0..subscribers.count).map(async |subscriber| {
        let mut messages = links[subscriber % links.len()].stream("JobService/WatchJob", &request).await;
        let first: Seen = messages.next().await.expect("a watch begins with an event");
        assert_eq!(first.event(), Event::Snapshot);
        messages
    });
    for messages in join_all(streams).await {
        tokio::spawn(follow(messages, board.clone()));
    }
}

/// Records the events of one subscriber, until the server ends.
async fn follow(mut messages: Messages, board: Arc<Board>) {
    while let Some(seen) = messages.try_next::<Seen>().await {
        if seen.event() == Event::Update {
            let progress = seen.job.as_ref().and_then(|job| job.progress.as_ref());
            board.note(progress.and_then(|progress| progress.completed).unwrap_or(0));
        }
    }
}

/// Opens streams of server-sent events. A client of HTTP/2 has one connection, one of HTTP/1.1 as many as it needs.
async fn gather_events(
    address: SocketAddr,
    jobs: &Jobs,
    subscribers: Subscribers,
    version: Version,
    board: &Arc<Board>,
) {
    let clients = if version == Version::HTTP_2 { subscribers.connections } else { 1 };
    let clients: Vec<_> = (0..clients).map(|_| ApiClient::new(address, version)).collect();
    let streams = (0..subscribers.count).map(|subscriber| clients[subscriber % clients.len()].events(jobs, 0));
    for stream in join_all(streams).await {
        let mut events = EventTexts { stream, text: String::new() };
        while !events.next().await.expect("a stream begins with a snapshot").contains("\"SNAPSHOT\"") {}
        tokio::spawn(follow_events(events, board.clone()));
    }
}

/// The texts of events.
struct EventTexts {
    stream: Incoming,
    text: String,
}

impl EventTexts {
    /// Returns the next text; a server that is killed ends the stream.
    async fn next(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                return Some(self.text.drain(..end + 2).collect());
            }
            let data = self.stream.frame().await?.ok()?.into_data().ok()?;
            self.text.push_str(std::str::from_utf8(&data).expect("events are text"));
        }
    }
}

/// Records the events of one subscriber, until the server ends.
async fn follow_events(mut events: EventTexts, board: Arc<Board>) {
    while let Some(text) = events.next().await {
        if text.contains("\"UPDATE\"") {
            let (_, rest) = text.split_once("\"completed\":\"").expect("each report has a number");
            let number = rest.split('"').next().and_then(|number| number.parse().ok());
            board.note(number.expect("it is a number"));
        }
    }
}
