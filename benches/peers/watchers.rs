//! Subscribers of a job or of all jobs, at each server.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::join_all;
use jobtrack::proto::v1::{Event, WatchJobsRequest};
use prost::Message;
use tokio::time::sleep;

use crate::{
    contender::{Contender, Name},
    direct, etcd,
    load::{
        board::Board,
        grpc::{Connection, Messages},
        watch::{Seen, SeenJob, Subscribers, follow, gather_streams},
    },
    nats,
    workload::Jobs,
};

/// Maximum number of watches on a connection: at most the default limit of jobtrack.
const WATCHES_PER_CONNECTION: usize = 500;

/// Minimum number of connections, if there are as many subscribers.
const CONNECTIONS_MIN: usize = 10;

/// Maximum number of subscribers of Redis, each of which needs a connection.
pub const REDIS_SUBSCRIBERS_MAX: usize = 1000;

/// Time after which subscriptions are complete, and first states have arrived, at servers that do not say so.
const SUBSCRIBE_PAUSE: Duration = Duration::from_millis(500);

/// The jobs that are watched.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    Job(u32),
    All,
}

/// Opens subscriptions, whose events are noted on the board.
pub async fn subscribe(contender: &Contender, jobs: &Jobs, subject: Subject, count: usize, board: &Arc<Board>) {
    let connections = count.div_ceil(WATCHES_PER_CONNECTION).max(CONNECTIONS_MIN).min(count);
    match (contender.name, subject) {
        (Name::Etcd, _) => watch_etcd(contender.address(), jobs, subject, [count, connections], board).await,
        (Name::Nats | Name::NatsCore, _) => watch_nats(contender, jobs, subject, [count, connections], board).await,
        (Name::Redis, _) => {
            let url = contender.store.as_ref().expect("it has a Redis").url();
            join_all((0..count).map(|_| direct::subscribe(&url, jobs, subject, noting(board)))).await;
        }
        (_, Subject::Job(0)) => {
            gather_streams(contender.address(), jobs, Subscribers::grpc(count, connections), board).await;
        }
        (_, Subject::Job(_)) => unreachable!("the first job is watched"),
        (_, Subject::All) => watch_all(contender.address(), [count, connections], board).await,
    }
    sleep(SUBSCRIBE_PAUSE).await;
}

/// Returns a function that notes the report in each value that it receives.
fn noting(board: &Arc<Board>) -> impl FnMut(Bytes) + Send + use<> {
    let board = board.clone();
    move |value| {
        let job = SeenJob::decode(value).expect("values are jobs");
        board.note(job.number());
    }
}

async fn watch_etcd(address: SocketAddr, jobs: &Jobs, subject: Subject, numbers: [usize; 2], board: &Arc<Board>) {
    let [count, connections] = numbers;
    let links = join_all((0..connections).map(|_| etcd::Watch::connect(address))).await;
    let watches = (0..count).map(|at| etcd::Watch::open(&links[at % connections], jobs, subject));
    for mut watch in join_all(watches).await {
        let mut note = noting(board);
        tokio::spawn(async move {
            while let Some(values) = watch.next().await {
                values.into_iter().for_each(&mut note);
            }
        });
    }
}

async fn watch_nats(contender: &Contender, jobs: &Jobs, subject: Subject, numbers: [usize; 2], board: &Arc<Board>) {
    let [count, connections] = numbers;
    let links = join_all((0..connections).map(|_| nats::Connection::open(contender.address()))).await;
    for at in 0..count {
        let link = &links[at % connections];
        match contender.name {
            Name::NatsCore => nats::subscribe(link, jobs, subject, noting(board)),
            _ => nats::watch(link, jobs, subject, noting(board)).await,
        }
    }
}

/// Opens watches of all jobs of a jobtrack server.
async fn watch_all(address: SocketAddr, [count, connections]: [usize; 2], board: &Arc<Board>) {
    let links = join_all((0..connections).map(|_| Connection::open(address))).await;
    let bookmark_interval = Some(prost_types::Duration { seconds: 3600, nanos: 0 });
    let request = WatchJobsRequest { bookmark_interval, ..WatchJobsRequest::default() };
    let open = async |at: usize| -> Messages {
        let mut messages = links[at % connections].stream("JobService/WatchJobs", &request).await;
        // The snapshot ends with a bookmark.
        while messages.next::<Seen>().await.expect("a watch begins with a snapshot").event() != Event::Bookmark {}
        messages
    };
    for messages in join_all((0..count).map(open)).await {
        tokio::spawn(follow(messages, board.clone()));
    }
}
