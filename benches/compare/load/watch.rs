//! One reporter, and many subscribers of its job.

use std::{net::SocketAddr, sync::Arc};

use futures_util::future::join_all;
use http::Version;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use jobtrack::proto::v1::{Event, UpdateProgressResponse};

use super::{
    api::ApiClient,
    board::{Board, Delivery, Reports},
    grpc::{Connection, Messages},
};
use crate::workload::Jobs;

/// The fields of an event that are needed here. Skipping the others is cheaper than decoding them.
#[derive(prost::Message)]
pub struct Seen {
    #[prost(enumeration = "Event", tag = "1")]
    pub event: i32,
    #[prost(message, optional, tag = "2")]
    pub job: Option<SeenJob>,
}

impl Seen {
    /// Returns the number of the report, if it is the event of one.
    fn number(&self) -> Option<i64> {
        (self.event() == Event::Update).then(|| self.job.as_ref().map_or(0, SeenJob::number))
    }
}

impl SeenJob {
    /// Returns the number of its last report.
    pub fn number(&self) -> i64 {
        self.progress.as_ref().and_then(|progress| progress.completed).unwrap_or(0)
    }
}

/// The fields of a job that are needed here.
#[derive(prost::Message)]
pub struct SeenJob {
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

/// Subscribers of the first job. Each of them has received the snapshot of the job.
pub struct Audience {
    jobs: Arc<Jobs>,
    reporter: Connection,
    board: Arc<Board>,
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
        let report = async |_: usize, is_last: bool| {
            let request = self.jobs.update_request(0);
            self.board.announce(&request, is_last);
            let answer: UpdateProgressResponse = self.reporter.call("JobService/UpdateProgress", &request).await;
            assert!(answer.applied, "each report is newer than the last");
        };
        self.board.measure(reports, report).await
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
pub async fn gather_streams(address: SocketAddr, jobs: &Jobs, subscribers: Subscribers, board: &Arc<Board>) {
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
pub async fn follow(mut messages: Messages, board: Arc<Board>) {
    while let Some(seen) = messages.try_next::<Seen>().await {
        if let Some(number) = seen.number() {
            board.note(number);
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
