//! A graceful stop pushes the dirty jobs to Redis; jobs that are left are counted and named, and the exit code is 1.

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{Durability, job::State};
use prost::Message;
use redis::from_redis_value;
use tokio::{task::JoinSet, time::sleep};
use tonic::Code;

use super::{each, ids};
use crate::support::{
    Client, Server, new_job,
    process::{Process, count_left},
    raw::{Raw, answer, frame},
    reason,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{degraded, try_get, whole},
    until,
    watching::try_complete,
};

/// Maximum duration of a stop.
const DRAIN: Duration = Duration::from_secs(25);

/// Time from the return of the link to the stop.
const AT_ONCE_AFTER: Duration = Duration::from_millis(100);

/// Number of partitions.
const PARTITIONS: usize = 16;

/// Number of callers that continue while the process stops.
const CALLERS: usize = 4;

/// A process whose link to Redis can be cut.
struct World {
    redis: Redis,
    relay: Relay,
    process: Process,
}

impl World {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let relay = Relay::to(redis.port).await;
        let process = Process::start(&["--redis-url", &relay.url()]);
        whole(&process).await;
        Self { redis, relay, process }
    }

    async fn cut(&self) {
        self.relay.set_all(Link::Cut);
        degraded(&self.process).await;
    }

    /// Creates jobs that are stored in Redis.
    async fn record(&self, ids: &[String]) {
        let client = self.process.client().await;
        let made = each(&client, ids, async |mut client, id| client.create_job(new_job(&id)).await);
        for made in made.await {
            let job = made.expect("it can be created").into_inner().job.expect("a job");
            assert_eq!(job.durability(), Durability::Durable, "{job:?}");
        }
    }

    /// Ends jobs in the replica's memory, unknown to others.
    async fn end(&self, ids: &[String]) {
        let client = self.process.client().await;
        let ended = each(&client, ids, async |mut client, id| try_complete(&mut client, &id, None).await);
        for ended in ended.await {
            assert_eq!(ended.expect("it is held").durability(), Durability::Volatile);
        }
    }

    /// Stops the process. Returns its exit code and its log from then on.
    fn stop(self) -> (Redis, Option<i32>, String) {
        let begun = Instant::now();
        self.process.signal("TERM");
        let (status, log) = self.process.wait();
        assert!(begun.elapsed() < DRAIN, "it took {:?}", begun.elapsed());
        assert!(!log.contains("panicked"), "{log}");
        let drained = log.find("draining").unwrap_or_else(|| panic!("it does not say that it stops: {log}"));
        (self.redis, status.code(), log[drained..].to_owned())
    }
}

/// Callers that create jobs until they are rejected, and return the ids of those that were acknowledged.
struct Callers {
    tasks: JoinSet<Vec<String>>,
    stopping: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Callers {
    async fn start(process: &Process) -> Self {
        let (mut tasks, stopping) = (JoinSet::new(), Arc::<AtomicBool>::default());
        let acknowledged = Arc::<AtomicUsize>::default();
        for caller in 0..CALLERS {
            tasks.spawn(create_until_refused(process.client().await, caller, stopping.clone(), acknowledged.clone()));
        }
        Self { tasks, stopping, acknowledged }
    }

    /// Waits until changes were acknowledged that a stop may lose.
    async fn are_at_work(&self) {
        until("callers are at work", async || (self.acknowledged.load(Relaxed) >= CALLERS).then_some(())).await;
    }

    /// Allows rejections from now on.
    fn expect_stop(&self) {
        self.stopping.store(true, Relaxed);
    }

    async fn acknowledged(self) -> Vec<String> {
        self.tasks.join_all().await.concat()
    }
}

async fn create_until_refused(
    mut client: Client,
    caller: usize,
    stopping: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
) -> Vec<String> {
    let mut acknowledged = Vec::new();
    loop {
        let id = format!("late-{caller}-{}", acknowledged.len());
        match client.create_job(new_job(&id)).await {
            Ok(_) => {
                acknowledged.push(id);
                count.fetch_add(1, Relaxed);
            }
            Err(refused) => {
                assert!(stopping.load(Relaxed), "{refused:?}");
                // A transport error has a source: the connection is closed, or can't be opened any more.
                let is_answer = refused.source().is_none();
                assert!(!is_answer || refused.code() == Code::Unavailable, "{refused:?}");
                assert!(!is_answer || reason(&refused) == "SERVER_DRAINING", "{refused:?}");
                return acknowledged;
            }
        }
        sleep(Duration::from_millis(5)).await;
    }
}

/// Fails unless Redis has all these jobs in this state, read through a replica that never had them in memory.
async fn assert_all_stored(redis: &Redis, ids: &[String], state: State) {
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    let found = each(&server.client().await, ids, async |mut client, id| try_get(&mut client, &id).await).await;
    let found = found.into_iter().flatten();
    let count = found.filter(|job| job.state() == state && job.durability() == Durability::Durable).count();
    assert_eq!(count, ids.len(), "so many of {} reached Redis", ids.len());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_just_after_the_link_is_back_loses_nothing() {
    let world = World::start().await;
    let ids = ids("end", 200);
    world.record(&ids).await;
    world.cut().await;
    world.end(&ids).await;
    world.relay.set_all(Link::Pass);
    sleep(AT_ONCE_AFTER).await;
    let (redis, code, log) = world.stop();
    assert_all_stored(&redis, &ids, State::Succeeded).await;
    assert_eq!(code, Some(0), "{log}");
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains("end-"), "it names jobs as if they were left: {log}");
}

/// Changes that are accepted during the stop are stored as well.
#[tokio::test(flavor = "multi_thread")]
async fn call_that_comes_during_a_stop_is_refused_or_stored() {
    let world = World::start().await;
    let ids = ids("end", 200);
    world.record(&ids).await;
    world.cut().await;
    world.end(&ids).await;
    let callers = Callers::start(&world.process).await;
    world.relay.set_all(Link::Pass);
    sleep(AT_ONCE_AFTER).await;
    callers.expect_stop();
    let (redis, code, log) = tokio::task::spawn_blocking(|| world.stop()).await.expect("it stops");
    let acknowledged = callers.acknowledged().await;
    println!("{} jobs were acknowledged meanwhile", acknowledged.len());
    assert_all_stored(&redis, &ids, State::Succeeded).await;
    assert_all_stored(&redis, &acknowledged, State::Pending).await;
    assert_eq!(code, Some(0), "{log}");
}

/// Everything that it acknowledged is stored, so no time-driven decision has to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_has_stopped_is_not_waited_for() {
    let world = World::start().await;
    world.record(&ids("job", 20)).await;
    until("each partition knows that the replica serves", async || {
        (count_marks(&world.redis).await == PARTITIONS).then_some(())
    })
    .await;
    let (redis, code, log) = world.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(count_marks(&redis).await, 0, "partitions wait for a replica that has stopped");
}

/// A call that was under way when the stop began may be accepted when everything else has been pushed.
#[tokio::test(flavor = "multi_thread")]
async fn change_that_is_accepted_last_is_counted() {
    let world = World::start().await;
    world.cut().await;
    let raw = Raw::connect(world.process.address).await;
    let (response, mut request) = raw.open("JobService/CreateJob", &[]).await;
    world.process.signal("TERM");
    world.process.logged(&["draining"]).await;
    // A process that did not wait for the call would have counted by then.
    sleep(Duration::from_secs(1)).await;
    request.send_data(frame(&new_job("last").encode_to_vec()).into(), true).expect("the connection is open");
    answer(response).await.outcome().expect("it is accepted");
    // The second signal ends the wait for Redis.
    let (_, code, log) = world.stop();
    assert_eq!((code, count_left(&log)), (Some(1), Some(1)), "{log}");
}

/// Decisions wait for a replica that stopped with changes that Redis does not have, as they would after a crash.
#[tokio::test(flavor = "multi_thread")]
async fn replica_that_has_stopped_with_changes_is_waited_for() {
    let world = World::start().await;
    let ids = ids("job", 5);
    world.record(&ids).await;
    until("each partition knows that the replica serves", async || {
        (count_marks(&world.redis).await == PARTITIONS).then_some(())
    })
    .await;
    world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let client = world.process.client().await;
    let made = each(&client, &["full".to_owned()], async |mut client, id| client.create_job(new_job(&id)).await).await;
    let job = made.into_iter().next().expect("one").expect("it is accepted").into_inner().job.expect("a job");
    assert_eq!(job.durability(), Durability::Volatile, "{job:?}");
    world.process.signal("TERM");
    world.process.logged(&["draining"]).await;
    // The second one ends the wait for Redis.
    let (redis, code, log) = world.stop();
    assert_eq!((code, count_left(&log)), (Some(1), Some(1)), "{log}");
    assert!(count_marks(&redis).await >= 1, "nobody waits for a replica that lost a change");
}

/// Counts the partitions in which a replica has a mark.
async fn count_marks(redis: &Redis) -> usize {
    let mut count = 0;
    for partition in 0..PARTITIONS {
        let key = format!("jobs:{{{partition}}}:beat");
        let fields: Vec<String> = from_redis_value(redis.command(&["HKEYS", &key]).await).expect("names");
        count += usize::from(fields.iter().any(|field| field.starts_with("mark:")));
    }
    count
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_left_behind_in_an_outage_are_counted_and_named() {
    let world = World::start().await;
    let ids = ids("end", 50);
    world.record(&ids).await;
    world.cut().await;
    world.end(&ids).await;
    let (_, code, log) = world.stop();
    assert_eq!(code, Some(1), "{log}");
    assert_eq!(count_left(&log), Some(ids.len()), "{log}");
    assert!(ids.iter().any(|id| log.contains(id)), "it names no job: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_change_is_accepted_after_the_count_of_jobs_left_behind() {
    let world = World::start().await;
    world.cut().await;
    let callers = Callers::start(&world.process).await;
    callers.are_at_work().await;
    callers.expect_stop();
    let (_, code, log) = tokio::task::spawn_blocking(|| world.stop()).await.expect("it stops");
    let acknowledged = callers.acknowledged().await.len();
    assert_eq!(code, Some(1), "{log}");
    let left = count_left(&log).expect("the log counts what is left");
    // A call may have been accepted without its answer having been received.
    assert!((acknowledged..=acknowledged + CALLERS).contains(&left), "{acknowledged} were acknowledged: {log}");
}
