//! Reads that are answered from memory while Redis serves: their cost, and their delay.

use std::time::{Duration, Instant};

use jobtrack::{
    proto::v1::{Durability, Event, GetStatsRequest, Job, Source, UpdateProgressRequest},
    store::RedisStore,
};
use tokio::time::sleep;
use tonic::Code;

use crate::support::{
    Client, Server, create,
    jobs::id,
    redis::Redis,
    relay::{Carrying::Messages, Link, Relay},
    replicas::{get, in_time, read, server_on, whole},
    watching::{complete, delete, report, watch},
};

/// Maximum age of an answer, on a busy machine.
const LAG: Duration = Duration::from_secs(3);

/// Waits until reads of a job are answered from memory. Returns the job.
async fn from_memory(client: &mut Client, id: &str) -> Job {
    in_time("an answer from memory", async {
        loop {
            let answer = get(client, id).await;
            if answer.source() == Source::Memory {
                return answer.job.expect("a job");
            }
        }
    })
    .await
}

/// Counts the reads and writes of jobs.
async fn commands(redis: &Redis) -> [i64; 2] {
    // A write counts one commit.
    redis.calls(["hmget", "incr"]).await
}

async fn cache(server: &Server) -> (i64, i64) {
    let stats = server.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    let cache = stats.cache.expect("there is a cache");
    (cache.hits, cache.misses)
}

#[tokio::test(flavor = "multi_thread")]
async fn cached_job_is_read_without_redis_and_changed_with_one_command() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    whole(&server).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let job = from_memory(&mut client, "a").await;
    assert_eq!((job.revision, job.durability()), (1, Durability::Durable));

    let (before, (hits, misses)) = (commands(&redis).await, cache(&server).await);
    let (mut asked, mut written) = (0, 0);
    for revision in 2..=51 {
        assert_eq!(report(&mut client, "a").await.revision, revision);
        written += 1;
        let answer = get(&mut client, "a").await;
        asked += i64::from(answer.source() == Source::Redis);
        assert_eq!(answer.job.expect("a job").revision, revision);
    }
    let [reads, writes] = commands(&redis).await;
    // The script of a write reads the version, too.
    let reads = reads - written;
    // On a very busy machine the check of Redis may be late; then Redis is asked.
    assert_eq!(writes - before[1], written);
    assert!(reads - before[0] <= 2 * asked + 2, "{} reads for {asked} answers of Redis", reads - before[0]);
    assert!(asked < 10, "{asked} of 50 answers came from Redis");
    let (hits_now, misses_now) = cache(&server).await;
    assert!(hits_now - hits >= 90, "{} hits", hits_now - hits);
    assert!(misses_now - misses <= 2 * asked + 2, "{} misses", misses_now - misses);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_by_others_are_soon_read_from_memory() {
    let redis = Redis::start().await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    from_memory(&mut client, "a").await;
    for revision in 2..=20 {
        report(&mut elsewhere, "a").await;
        in_time("the report", async { while from_memory(&mut client, "a").await.revision < revision {} }).await;
    }
    complete(&mut elsewhere, "a").await;
    delete(&mut elsewhere, "a").await;
    in_time("the deletion", async { while client.get_job(read("a")).await.is_ok() {} }).await;
    let gone = client.get_job(read("a")).await.expect_err("it is deleted");
    assert_eq!(gone.code(), Code::NotFound);
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_notifications_leave_no_stale_answer_for_long() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (server, other) = (Server::with(&["--redis-url", &relay.url()]).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    for revision in 2..=4 {
        from_memory(&mut client, "a").await;
        relay.set(Messages, Link::Hole);
        report(&mut elsewhere, "a").await;
        let changed = Instant::now();
        let answer = in_time("the report", async {
            loop {
                let answer = get(&mut client, "a").await;
                if answer.job.as_ref().is_some_and(|job| job.revision == revision) {
                    return answer;
                }
            }
        })
        .await;
        let took = changed.elapsed();
        println!("read after {took:?} from {:?}", answer.source());
        assert!(took < LAG, "behind for {took:?}");
        relay.set(Messages, Link::Pass);
    }
    server.stop().await;
    other.stop().await;
}

/// A change that a caller knows from another replica is accepted by a replica that has not received it yet.
#[tokio::test(flavor = "multi_thread")]
async fn change_is_checked_against_the_version_in_redis() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (server, other) = (Server::with(&["--redis-url", &relay.url()]).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    for _ in 0..5 {
        from_memory(&mut client, "a").await;
        relay.set(Messages, Link::Hole);
        let revision = report(&mut elsewhere, "a").await.revision;
        let expected = UpdateProgressRequest {
            job_id: "a".to_owned(),
            expected_revision: Some(revision),
            ..UpdateProgressRequest::default()
        };
        let next = client.update_progress(expected).await.expect("that is the revision").into_inner();
        assert_eq!(next.job.expect("a job").revision, revision + 1);
        relay.set(Messages, Link::Pass);
    }
    server.stop().await;
    other.stop().await;
}

/// The commit counts show that nothing has changed.
#[tokio::test(flavor = "multi_thread")]
async fn watched_jobs_that_do_not_change_are_not_read_again() {
    const WATCHED: usize = 20;
    /// Reads of the commit counts in each of the 16 partitions: more than in the 5 s after which watched jobs would be
    /// read again.
    const COUNTS: i64 = 30 * 16;
    let redis = Redis::start().await;
    let server = Server::with(&["--redis-url", &redis.url(), "--redis-timeout", "4s"]).await;
    whole(&server).await;
    let mut client = server.client().await;
    let mut streams = Vec::new();
    for number in 0..WATCHED {
        let id = format!("watched-{number}");
        create(&mut client, &id).await;
        let mut stream = watch(&client, &id).await;
        stream.expect(Event::Snapshot).await;
        streams.push(stream);
    }
    let [reads, counts] = redis.calls(["hmget", "get"]).await;
    in_time("looks at the counts", async {
        while redis.calls(["get"]).await[0] < counts + COUNTS {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(redis.calls(["hmget"]).await[0], reads, "jobs were read again");
    drop(streams);
    server.stop().await;
}

/// A fresh cached job is sent without a read from Redis, however many streams of it are opened at once.
#[tokio::test(flavor = "multi_thread")]
async fn watch_of_a_job_that_is_held_is_opened_without_redis() {
    const WATCHES: i64 = 50;
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    whole(&server).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    from_memory(&mut client, "a").await;
    let [before] = redis.calls(["hmget"]).await;
    for _ in 0..WATCHES {
        let mut stream = watch(&client, "a").await;
        assert_eq!(stream.expect(Event::Snapshot).await.job.expect("a job").revision, 1);
    }
    let [after] = redis.calls(["hmget"]).await;
    // On a very busy machine the check of Redis may be late; then Redis is asked.
    assert!(after - before < WATCHES / 5, "{} reads for {WATCHES} streams", after - before);
    server.stop().await;
}

/// After a loss of notifications in one partition, the jobs of the others are not read again.
#[tokio::test(flavor = "multi_thread")]
async fn lost_notification_concerns_its_partition_alone() {
    const OTHERS: usize = 20;
    let redis = Redis::start().await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    whole(&server).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    let partition_of = |name: &str| (RedisStore::PARTITIONING.of)(&id(name));
    let elsewhere_ids = (0..).map(|number| format!("other-{number}"));
    let others = elsewhere_ids.filter(|name| partition_of(name) != partition_of("a")).take(OTHERS);
    let mut streams = Vec::new();
    for name in others.chain(["a".to_owned()]) {
        create(&mut client, &name).await;
        let mut stream = watch(&client, &name).await;
        stream.expect(Event::Snapshot).await;
        streams.push(stream);
    }
    let [before] = redis.calls(["hmget"]).await;
    redis.command(&["INCR", &format!("jobs:{{{}}}:commits", partition_of("a"))]).await;
    report(&mut elsewhere, "a").await;
    assert_eq!(streams[OTHERS].update().await.revision, 2);
    let [after] = redis.calls(["hmget"]).await;
    let reads = usize::try_from(after - before).expect("a count");
    assert!((1..OTHERS).contains(&reads), "{reads} jobs were read again");
    server.stop().await;
    other.stop().await;
}
