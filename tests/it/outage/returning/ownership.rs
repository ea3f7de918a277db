//! A creation that could not be checked never replaces a recorded job.

use jobtrack::proto::v1::{
    CompleteJobRequest, CreateJobRequest, DeleteJobRequest, Durability, Event, GetStatsRequest, Job, Progress,
    UpdateProgressRequest, WatchJobRequest, WatchJobResponse, job::State, reconciled_job::Outcome,
};
use rstest::rstest;
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Status, Streaming};

use super::{WAIT_TIMEOUT, outcomes};
use crate::support::{
    Client,
    credentials::{Folder, bearer, holder, identities},
    large_document, new_job,
    process::Process,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{assert_away, degraded, read, whole},
    until,
};

/// The ids that another client tries to take.
const TAKEN: [&str; 2] = ["running", "ended"];

/// The data of Redis when it comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Back {
    WithData,
    Empty,
}

/// Two replicas on one Redis. `owner` can be cut off from it, and has two jobs of Bob's in memory; `other` has none.
struct World {
    redis: Redis,
    relay: Relay,
    owner: Process,
    other: Process,
    _folder: Folder,
}

impl World {
    async fn start() -> Self {
        let redis = Redis::with(&["--appendonly", "yes"]).await;
        let relay = Relay::to(redis.port).await;
        let folder = Folder::new();
        let entries = [
            holder("alice", "admin", &json!(["alice"])),
            holder("bob", "admin", &json!(["bob"])),
            holder("root", "admin", &json!("*")),
        ];
        let file = folder.write("identities.json", &identities(&entries));
        let start = |url: String| Process::start(&["--redis-url", &url, "--auth-tokens", &file]);
        let (owner, other) = (start(relay.url()), start(redis.url()));
        Self { redis, relay, owner, other, _folder: folder }
    }

    /// Kills Redis, and waits until both replicas have noticed.
    async fn lose(&mut self) {
        self.redis.kill();
        degraded(&self.owner).await;
        degraded(&self.other).await;
    }

    /// Restarts Redis. The replica that could not check the creations reconciles first.
    async fn heal(&mut self, back: Back) {
        self.relay.set_all(Link::Cut);
        match back {
            Back::WithData => self.redis.restart().await,
            Back::Empty => self.redis.restart_empty().await,
        }
        whole(&self.other).await;
        self.relay.set_all(Link::Pass);
        whole(&self.owner).await;
    }

    /// Returns the outcomes of a job in the reports of both replicas, first those of the one that could not check.
    async fn reports(&self, id: &str) -> [Vec<Outcome>; 2] {
        let mut told = [Vec::new(), Vec::new()];
        for (told, process) in told.iter_mut().zip([&self.other, &self.owner]) {
            let stats = process.admin().await.get_stats(bearer("root", GetStatsRequest {})).await;
            *told = outcomes(&stats.expect("root may ask").into_inner(), id);
        }
        told
    }
}

async fn create_as(client: &mut Client, token: &str, id: &str) -> Result<Job, Status> {
    let request = CreateJobRequest { owner: token.to_owned(), ..new_job(id) };
    let answer = client.create_job(bearer(token, request)).await?.into_inner();
    Ok(answer.job.expect("a job"))
}

async fn get_as(client: &mut Client, token: &str, id: &str) -> Result<Job, Status> {
    Ok(client.get_job(bearer(token, read(id))).await?.into_inner().job.expect("a job"))
}

/// Creates Bob's jobs of [`TAKEN`]. Returns them as they are then.
async fn record(client: &mut Client) -> [Job; 2] {
    for id in TAKEN {
        create_as(client, "bob", id).await.expect("it can be created");
        let progress = Some(Progress { percent: Some(40.0), ..Progress::default() });
        let report = UpdateProgressRequest {
            job_id: id.to_owned(),
            worker: "bob's worker".to_owned(),
            progress,
            ..UpdateProgressRequest::default()
        };
        client.update_progress(bearer("bob", report)).await.expect("it can be reported on");
    }
    let end = CompleteJobRequest { job_id: "ended".to_owned(), result: Some(large_document(10)), ..Default::default() };
    client.complete_job(bearer("bob", end)).await.expect("it can be completed");
    let mut recorded = Vec::new();
    for id in TAKEN {
        recorded.push(get_as(client, "bob", id).await.expect("it is there"));
    }
    assert!(recorded.iter().all(|job| job.durability() == Durability::Durable), "{recorded:?}");
    recorded.try_into().expect("there are two")
}

/// Creates a job under an id that can't be checked, and deletes and creates it again: `times` times in all. Every
/// creation but the first may be rejected, because the tombstone of the one before is in memory. Returns whether the
/// job exists in the end.
async fn take(client: &mut Client, token: &str, id: &str, times: usize) -> bool {
    let job = create_as(client, token, id).await.expect("nothing is known of it here");
    assert_eq!(job.durability(), Durability::Volatile, "{job:?}");
    for _ in 1..times {
        let gone = DeleteJobRequest { job_id: id.to_owned(), force: true };
        client.delete_job(bearer(token, gone)).await.expect("it is the caller's own");
        if let Err(refused) = create_as(client, token, id).await {
            assert_away("a creation under a tombstone", &refused);
            return false;
        }
    }
    true
}

async fn watch_as(client: &mut Client, token: &str, id: &str) -> Streaming<WatchJobResponse> {
    let request = WatchJobRequest { job_id: id.to_owned(), ..WatchJobRequest::default() };
    let mut stream = client.watch_job(bearer(token, request)).await.expect("it can be watched").into_inner();
    let first = stream.message().await.expect("an event").expect("an event");
    assert_eq!(first.event(), Event::Snapshot, "{first:?}");
    stream
}

/// Reads the stream of a watcher whose job lost to another one. Fails if it shows nothing, or another owner's job.
async fn assert_watcher_is_told(mut stream: Streaming<WatchJobResponse>, token: &str, stands: &Job) {
    let told = timeout(WAIT_TIMEOUT, async {
        loop {
            match stream.message().await {
                Err(end) => {
                    assert_eq!(end.code(), Code::NotFound, "{end:?}");
                    assert_ne!(token, stands.owner, "the job is the watcher's own");
                    return;
                }
                Ok(None) => panic!("{} ended as if nothing had happened", stands.id),
                Ok(Some(event)) => {
                    let Some(job) = &event.job else { continue };
                    assert_eq!(job.owner, token, "another's job is shown: {event:?}");
                    let is_gone = event.event() == Event::Removed && token != stands.owner;
                    let is_replaced = job.create_time == stands.create_time && job.state() == stands.state();
                    if is_gone || is_replaced {
                        return;
                    }
                }
            }
        }
    });
    told.await.unwrap_or_else(|_| panic!("the watcher of {} is told nothing", stands.id));
}

/// Waits until the owner reads the job as it was recorded.
async fn assert_stands(client: &mut Client, recorded: &Job) {
    let id = &recorded.id;
    let what = format!("{id} stands as it was recorded");
    let stands = until(&what, async || {
        let job = get_as(client, "bob", id).await.ok()?;
        (job.durability() == Durability::Durable && job.state() == recorded.state()).then_some(job)
    });
    let job = stands.await;
    let content = |job: &Job| {
        let job = job.clone();
        (job.owner, job.create_time, job.worker, job.attempt, job.progress, job.outcome)
    };
    assert_eq!(content(&job), content(recorded));
    assert!(job.revision >= recorded.revision, "{job:?}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn recorded_job_stands_against_a_creation_that_could_not_be_checked(
    #[values("alice", "bob")] taker: &str,
    #[values(1, 5)] times: usize,
    #[values(Back::WithData, Back::Empty)] back: Back,
) {
    let mut world = World::start().await;
    let (mut client, mut elsewhere) = (world.owner.client().await, world.other.client().await);
    let recorded = record(&mut client).await;
    world.lose().await;
    let (mut streams, mut taken) = (Vec::new(), true);
    for id in TAKEN {
        taken &= take(&mut elsewhere, taker, id, times).await;
        if times == 1 {
            streams.push(watch_as(&mut elsewhere, taker, id).await);
        }
    }
    world.heal(back).await;
    for job in &recorded {
        assert_stands(&mut client, job).await;
        assert_stands(&mut elsewhere, job).await;
        let seen = get_as(&mut elsewhere, "alice", &job.id).await;
        assert_eq!(seen.expect_err("it is not Alice's").code(), Code::NotFound);
        let told = world.reports(&job.id).await;
        // If Redis is empty, the recorded job is the second to be stored.
        let told = if back == Back::Empty { told.concat() } else { told[0].clone() };
        let named = if taken { told.contains(&Outcome::Conflicted) } else { !told.is_empty() };
        assert!(named, "the report says of {}: {told:?}", job.id);
    }
    for (stream, job) in streams.into_iter().zip(&recorded) {
        assert_watcher_is_told(stream, taker, job).await;
    }
    let mut log = end(world.other);
    if back == Back::Empty {
        log.push_str(&end(world.owner));
    }
    for id in TAKEN {
        let named = log.lines().any(|line| line.contains("job_id") && line.contains(id));
        assert!(named || !taken, "no line about {id}: {log}");
    }
}

/// Stops a process. Returns what it logged.
fn end(process: Process) -> String {
    process.signal("TERM");
    process.wait().1
}

/// Of two jobs that one request created on both sides, the recorded one continues, with the changes of either side.
#[rstest]
#[case::with_an_id_of_the_server("")]
#[case::with_an_id_of_the_caller("named")]
#[tokio::test(flavor = "multi_thread")]
async fn request_that_is_retried_where_it_can_not_be_checked_makes_one_job(#[case] id: &str) {
    let mut world = World::start().await;
    let (mut client, mut elsewhere) = (world.owner.client().await, world.other.client().await);
    let request = || {
        let request = CreateJobRequest { request_id: "r".to_owned(), owner: "bob".to_owned(), ..new_job(id) };
        bearer("bob", request)
    };
    let first = client.create_job(request()).await.expect("it can be created").into_inner().job.expect("a job");
    world.lose().await;
    let retried = elsewhere.create_job(request()).await.expect("it is accepted").into_inner().job.expect("a job");
    assert_eq!((&retried.id, retried.durability()), (&first.id, Durability::Volatile));
    let end = CompleteJobRequest { job_id: first.id.clone(), result: Some(large_document(10)), ..Default::default() };
    elsewhere.complete_job(bearer("bob", end)).await.expect("it is accepted");
    world.heal(Back::WithData).await;
    for client in [&mut client, &mut elsewhere] {
        let one = until("one job that has ended", async || {
            let job = get_as(client, "bob", &first.id).await.ok()?;
            (job.state() == State::Succeeded && job.durability() == Durability::Durable).then_some(job)
        });
        assert_eq!(one.await.create_time, first.create_time, "the first creation is the job's");
        let again = client.create_job(request()).await.expect("it is there").into_inner();
        assert_eq!((again.created, again.job.expect("a job").id), (false, first.id.clone()));
    }
}
