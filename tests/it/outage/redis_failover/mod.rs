//! Redis fails over or moves slots under load: the results of the calls, the time until writes are durable again on
//! every replica, and the fate of every acknowledged write.

mod load;
mod nodes;
mod record;
mod sentinels;
mod slots;
mod subscriptions;

use std::time::Duration;

use futures_util::future::join_all;
use jobtrack::proto::v1::job::State;
use tokio::task::JoinHandle;

use crate::support::{
    Server,
    records::{PARTITIONS, partition},
    replicas::try_get,
    watching::{Seen, Watch, complete, watch},
};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Maximum time from an election until writes succeed.
const SOON: Duration = Duration::from_secs(2);

/// Pause of a caller between two calls.
const PACE: Duration = Duration::from_millis(5);

/// Two servers that share a Redis.
struct Replicas {
    a: Server,
    b: Server,
}

impl Replicas {
    async fn start(url: &str) -> Self {
        Self::with(&["--redis-url", url]).await
    }

    /// Starts servers with a long timeout, for tests that do not measure how soon a call fails.
    async fn start_patient(url: &str) -> Self {
        Self::with(&["--redis-url", url, "--redis-timeout", "2s"]).await
    }

    async fn with(flags: &[&str]) -> Self {
        Self { a: Server::with(flags).await, b: Server::with(flags).await }
    }

    async fn stop(self) {
        tokio::join!(self.a.stop(), self.b.stop());
    }
}

/// Returns `count` ids of one partition.
fn ids_of(wanted: usize, count: usize) -> Vec<String> {
    (0..).map(|number| format!("job-{number}")).filter(|id| partition(id) == wanted).take(count).collect()
}

/// Returns `count` ids of every partition.
fn ids(count: usize) -> Vec<String> {
    (0..PARTITIONS).flat_map(|partition| ids_of(partition, count)).collect()
}

/// Opens watches of jobs on `server`.
async fn watches(server: &Server, ids: &[String]) -> Vec<Watch> {
    let client = server.client().await;
    join_all(ids.iter().map(|id| watch(&client, id))).await
}

/// Reads streams to their ends in the background: the client library gives up on a stream that is not read for long.
fn follow(watches: Vec<Watch>) -> Vec<JoinHandle<Vec<Seen>>> {
    watches.into_iter().map(|mut watch| tokio::spawn(async move { watch.rest().await })).collect()
}

/// Completes jobs through `server`. Fails unless the watchers receive each end at the acknowledged revision.
async fn complete_all(server: &Server, watches: Vec<JoinHandle<Vec<Seen>>>, ids: &[String]) {
    let mut client = server.client().await;
    for (id, watch) in ids.iter().zip(watches) {
        let before = try_get(&mut client, id).await.expect("it is there");
        let done = complete(&mut client, id).await;
        assert!(done.revision > before.revision);
        let events = watch.await.expect("the stream ends");
        let last = events.last().expect("an event");
        assert_eq!((last.revision(), last.state()), (done.revision, State::Succeeded), "{id}");
    }
}
