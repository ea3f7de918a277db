//! A watcher of all jobs on a replica, during all events of a test.

use jobtrack::proto::v1::{Event, Liveness, WatchJobsRequest, job::State};
use tokio::{select, task::JoinHandle};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::Client;
use crate::support::watching::{Seen, watch_jobs};

/// The end of a stream that must stay open.
type Broken = Option<Result<Seen, Status>>;

/// A watcher of all jobs that records what it receives.
pub struct Onlooker {
    stop: CancellationToken,
    watching: JoinHandle<(Vec<Seen>, Option<Broken>)>,
}

impl Onlooker {
    /// Starts to watch.
    pub async fn start(client: &Client) -> Self {
        let mut stream = watch_jobs(client, WatchJobsRequest::default()).await;
        let mut events = stream.until_bookmark().await;
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let watching = tokio::spawn(async move {
            loop {
                select! {
                    outcome = stream.outcome() => match outcome {
                        Some(Ok(seen)) => events.push(seen),
                        broken => return (events, Some(broken)),
                    },
                    () = stopped.cancelled() => return (events, None),
                }
            }
        });
        Self { stop, watching }
    }

    /// Fails if a job was seen to fail or to be removed.
    pub async fn assert_no_job_ended_by_time(self) {
        self.assert_never("ended by time", |seen| seen.event == Event::Removed || seen.state() == State::Failed).await;
    }

    /// Fails if a job was seen to fail or to be removed, or its worker to be lost.
    pub async fn assert_no_worker_lost(self) {
        let harmed = |seen: &Seen| {
            let ended = seen.event == Event::Removed || seen.state() == State::Failed;
            ended || seen.job().liveness() == Liveness::Lost
        };
        self.assert_never("harmed by time", harmed).await;
    }

    async fn assert_never(self, what: &str, harmed: impl Fn(&Seen) -> bool) {
        self.stop.cancel();
        let (events, broken) = self.watching.await.expect("the events are as they must be in every stream");
        assert!(broken.is_none(), "the stream does not go on: {broken:?}");
        let harmed: Vec<_> = events.iter().filter(|seen| seen.job.is_some() && harmed(seen)).collect();
        assert!(harmed.is_empty(), "{} events of jobs {what}, first: {:?}", harmed.len(), harmed[0]);
    }
}
