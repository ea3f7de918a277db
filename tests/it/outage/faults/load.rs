//! Callers that report on their jobs and read them, whatever happens.

use std::{
    ops::AddAssign,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::proto::v1::{Durability, Job};
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};
use tonic::{Code, Status};

use super::job;
use crate::support::{Client, create, replicas::get, watching::try_report};

/// Pause of a caller between two calls.
const PACE: Duration = Duration::from_millis(5);

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Callers, each with a job of its own.
pub struct Load {
    callers: JoinSet<(String, Tally)>,
    stop: watch::Sender<bool>,
    /// Start times of the last durable report of each caller.
    durable: Vec<watch::Receiver<Instant>>,
}

/// The outcomes of the calls.
#[derive(Debug, Default)]
pub struct Tally {
    pub calls: usize,
    pub volatile: usize,
    /// The last acknowledged revision.
    pub revision: i64,
    pub slowest: Duration,
    pub errors: Vec<(Code, String)>,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.calls += other.calls;
        self.volatile += other.volatile;
        self.revision = self.revision.max(other.revision);
        self.slowest = self.slowest.max(other.slowest);
        self.errors.extend(other.errors);
    }
}

impl Tally {
    fn take(&mut self, begun: Instant, outcome: Result<Job, Status>) -> Option<Job> {
        self.calls += 1;
        self.slowest = self.slowest.max(begun.elapsed());
        match outcome {
            Ok(job) => {
                self.volatile += usize::from(job.durability() == Durability::Volatile);
                self.revision = self.revision.max(job.revision);
                Some(job)
            }
            Err(status) => {
                self.errors.push((status.code(), status.message().to_owned()));
                None
            }
        }
    }

    /// Fails if a call failed, or took too long.
    pub fn assert_good(&self, what: &str, limit: Duration) {
        println!(
            "{what}: {} calls, {} volatile, {} failed, the slowest took {:?}",
            self.calls,
            self.volatile,
            self.errors.len(),
            self.slowest
        );
        assert_eq!(self.errors, [], "{what}");
        assert!(self.slowest < limit, "{what}: a call took {:?}", self.slowest);
    }
}

impl Load {
    /// Starts `count` callers on these connections in turn, each of which reports on a job and reads it.
    pub async fn start(clients: &[Client], count: usize) -> Self {
        let (stop, stopped) = watch::channel(false);
        let mut load = Self { callers: JoinSet::new(), stop, durable: Vec::new() };
        for (number, client) in (0..count).zip(clients.iter().cycle()) {
            let (id, mut client) = (format!("load-{number}"), client.clone());
            create(&mut client, &id).await;
            let (told, durable) = watch::channel(Instant::now());
            load.durable.push(durable);
            load.callers.spawn(call(client, id, told, stopped.clone()));
        }
        load.durable_since(Instant::now()).await;
        load
    }

    /// Waits until every caller has a report stored in Redis that it began after `time`.
    pub async fn durable_since(&self, time: Instant) {
        let all = join_all(self.durable.iter().map(|durable| async {
            let mut durable = durable.clone();
            durable.wait_for(|begun| *begun > time).await.expect("the callers go on");
        }));
        timeout(WAIT_TIMEOUT, all).await.expect("every caller has a report stored in Redis");
    }

    /// Lets the callers continue for a while, during the fault.
    pub async fn go_on(&self, time: Duration) {
        sleep(time).await;
    }

    /// Stops the callers. Fails unless `client` reads every job at its last acknowledged revision from Redis. Returns
    /// the outcomes of all calls.
    pub async fn stop(mut self, client: &mut Client) -> Tally {
        self.stop.send_replace(true);
        let mut all = Tally::default();
        while let Some(caller) = self.callers.join_next().await {
            let (id, tally) = caller.expect("a caller ends without a panic");
            let job = job(client, &id).await;
            assert_eq!(job.durability(), Durability::Durable, "{id}");
            assert_eq!(job.revision, tally.revision, "{id} is not what was acknowledged last");
            all += tally;
        }
        all
    }
}

async fn call(
    mut client: Client,
    id: String,
    durable: watch::Sender<Instant>,
    stop: watch::Receiver<bool>,
) -> (String, Tally) {
    let mut tally = Tally::default();
    while !*stop.borrow() {
        let begun = Instant::now();
        let outcome = try_report(&mut client, &id).await;
        if tally.take(begun, outcome).is_some_and(|job| job.durability() == Durability::Durable) {
            durable.send_replace(begun);
        }
        let begun = Instant::now();
        let read = get(&mut client, &id).await;
        tally.take(begun, Ok(read.job.expect("a job")));
        sleep(PACE).await;
    }
    (id, tally)
}
