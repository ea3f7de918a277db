//! Replicas that change the same job while neither knows of the other.

use jobtrack::proto::v1::{
    CreateJobRequest, Durability, Event, Job, UpdateProgressRequest, job::State, reconciled_job::Outcome,
};
use tonic::Code;

use super::{assert_gone, job, told, two_on};
use crate::support::{
    Client, Server, create, new_job,
    redis::Redis,
    replicas::{degraded, get, whole},
    watching::{cancel, complete, delete, fail, make, report, try_report, watch},
};

/// Two servers with job `a` in their memory, while Redis is unavailable.
pub struct Apart {
    redis: Redis,
    servers: [Server; 2],
    pub clients: [Client; 2],
}

impl Apart {
    pub async fn start() -> Self {
        let mut redis = Redis::with(&["--appendonly", "yes"]).await;
        let servers = two_on(&redis).await;
        let mut clients = [servers[0].client().await, servers[1].client().await];
        create(&mut clients[0], "a").await;
        get(&mut clients[1], "a").await;
        redis.kill();
        for server in &servers {
            degraded(server).await;
        }
        Self { redis, servers, clients }
    }

    /// Restarts Redis. Returns the job, which must be the same on both, and its outcomes in the reports.
    pub async fn meet(&mut self, id: &str) -> (Job, Vec<Outcome>) {
        self.redis.restart().await;
        for server in &self.servers {
            whole(server).await;
        }
        let one = job(&mut self.clients[0], id).await;
        assert_eq!(one, job(&mut self.clients[1], id).await);
        assert_eq!(one.durability(), Durability::Durable);
        (one, self.told(id).await)
    }

    async fn told(&self, id: &str) -> Vec<Outcome> {
        let mut all = told(&self.servers[0], id).await;
        all.extend(told(&self.servers[1], id).await);
        all.sort();
        all
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_one_side_is_no_conflict() {
    let mut apart = Apart::start().await;
    let mut streams = [watch(&apart.clients[0], "a").await, watch(&apart.clients[1], "a").await];
    for stream in &mut streams {
        stream.expect(Event::Snapshot).await;
    }
    for revision in 2..=4 {
        assert_eq!(report(&mut apart.clients[0], "a").await.revision, revision);
    }
    let (job, told) = apart.meet("a").await;
    assert_eq!((job.revision, told), (4, vec![Outcome::Merged]));
    for stream in &mut streams {
        stream.until(|seen| seen.revision() == 4).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn higher_attempt_wins_and_the_report_names_it() {
    let mut apart = Apart::start().await;
    let attempt = |attempt| UpdateProgressRequest {
        job_id: "a".to_owned(),
        worker: format!("worker {attempt}"),
        attempt: Some(attempt),
        ..UpdateProgressRequest::default()
    };
    apart.clients[0].update_progress(attempt(2)).await.expect("it is taken");
    for _ in 0..3 {
        apart.clients[1].update_progress(attempt(1)).await.expect("it is taken");
    }
    let (job, told) = apart.meet("a").await;
    assert_eq!((job.attempt, job.worker.as_str()), (2, "worker 2"));
    assert!(job.revision > 4, "it is new to both: {job:?}");
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
    let late = apart.clients[1].update_progress(attempt(1)).await.expect_err("it is fenced");
    assert_eq!(late.code(), Code::FailedPrecondition);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_ends_wins_on_all_replicas() {
    let mut apart = Apart::start().await;
    let mut streams = [watch(&apart.clients[0], "a").await, watch(&apart.clients[1], "a").await];
    let ended = complete(&mut apart.clients[0], "a").await;
    assert_eq!((ended.state(), ended.durability()), (State::Succeeded, Durability::Volatile));
    let ended = fail(&mut apart.clients[1], "a").await;
    assert_eq!((ended.state(), ended.durability()), (State::Failed, Durability::Volatile));
    for (stream, state) in streams.iter_mut().zip([State::Succeeded, State::Failed]) {
        assert_eq!(stream.rest().await.last().expect("an end").state(), state, "a volatile end ends the stream");
    }
    let (job, told) = apart.meet("a").await;
    assert!(matches!(job.state(), State::Succeeded | State::Failed));
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
    for client in &mut apart.clients {
        assert!(try_report(client, "a").await.is_err(), "a report after the end");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_of_one_side_is_kept() {
    let mut apart = Apart::start().await;
    report(&mut apart.clients[0], "a").await;
    report(&mut apart.clients[1], "a").await;
    cancel(&mut apart.clients[0], "a", false).await;
    report(&mut apart.clients[1], "a").await;
    let (job, _) = apart.meet("a").await;
    assert!(job.cancel.is_some(), "{job:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_request_made_on_both_sides_makes_one_job() {
    let mut apart = Apart::start().await;
    let request = CreateJobRequest { request_id: "r".to_owned(), owner: "o".to_owned(), ..new_job("") };
    let one = make(&mut apart.clients[0], request.clone()).await;
    let other = make(&mut apart.clients[1], request.clone()).await;
    assert_eq!(one.id, other.id);
    let (job, told) = apart.meet(&one.id).await;
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
    for client in &mut apart.clients {
        assert_eq!(make(client, request.clone()).await, job);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn id_created_on_both_sides_is_one_job_and_the_report_names_it() {
    let mut apart = Apart::start().await;
    for (client, owner) in apart.clients.iter_mut().zip(["one", "other"]) {
        make(client, CreateJobRequest { owner: owner.to_owned(), ..new_job("b") }).await;
    }
    let (_, told) = apart.meet("b").await;
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletion_wins_over_reports() {
    let mut apart = Apart::start().await;
    let mut stream = watch(&apart.clients[1], "a").await;
    stream.expect(Event::Snapshot).await;
    delete(&mut apart.clients[0], "a").await;
    report(&mut apart.clients[1], "a").await;
    assert_eq!(stream.update().await.revision, 2);
    apart.redis.restart().await;
    for server in &apart.servers {
        whole(server).await;
    }
    for client in &mut apart.clients {
        assert_gone(client, "a").await;
    }
    stream.expect(Event::Removed).await;
    stream.end().await;
    let told = apart.told("a").await;
    assert_eq!(told.iter().filter(|outcome| **outcome == Outcome::Conflicted).count(), 1, "{told:?}");
}
