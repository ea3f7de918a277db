//! What was once wrong with jobs in Redis, and must not be again.

mod large;
mod legacy;
mod refused;
mod streams;

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{CompleteJobRequest, Event, UpdateProgressRequest, WatchJobsRequest, job::State};
use redis::{FromRedisValue, from_redis_value};
use serde_json::json;
use tokio::time::timeout;
use tonic::{Code, Request, Status};

use crate::redis_link::set_version;
use crate::support::{
    Client, Server, create,
    redis::Redis,
    relay::{
        Carrying::{Commands, Messages},
        Link, Relay,
    },
    replicas::{assert_away, in_time, read, strict_server_on},
    watching::{Watch, report, watch, watch_jobs},
};

/// How soon a watcher hears of what was committed, even where nobody knows at first that it was. What is watched is
/// read again a little later than that anyway.
const SOON: Duration = Duration::from_secs(4);

/// Longer than the server waits for an answer.
const TOO_LATE: Duration = Duration::from_secs(5);

/// How many partitions ids are spread over.
const PARTITIONS: usize = 16;

/// What Redis answers to a command.
async fn ask<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    from_redis_value(redis.command(words).await).expect("an answer of this type")
}

/// The partition of an id, which is part of the format of the data.
fn partition(id: &str) -> usize {
    let hash = id.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    (hash >> 16 ^ hash) as usize % PARTITIONS
}

/// A key under which Redis keeps what it knows of the partition of a job.
fn beside(id: &str, name: &str) -> String {
    format!("jobs:{{{}}}:{name}", partition(id))
}

/// Stores another version of a running job as a replica does, `step` revisions later, but tells nobody. Returns its revision.
async fn rewrite(redis: &Redis, id: &str, step: i64) -> i64 {
    set_version(redis, &format!("job:{{{}}}:{id}", partition(id)), step).await
}

/// Counts a commit as a replica does. Returns the notification of it.
async fn hint_of(redis: &Redis, id: &str, revision: i64) -> String {
    let number: i64 = ask(redis, &["INCR", &beside(id, "commits")]).await;
    let hint = json!({ "id": id, "rev": revision, "state": "RUNNING", "kind": "test.work" });
    format!("{number} somebody {hint}")
}

async fn try_report(client: &mut Client, id: &str) -> Result<(), Status> {
    client.update_progress(UpdateProgressRequest { job_id: id.to_owned(), ..Default::default() }).await.map(drop)
}

/// A server that is to reach Redis through a relay.
async fn behind(relay: &Relay) -> Server {
    Server::with(&["--redis-url", &relay.url(), "--fallback", "reject"]).await
}

/// A server with a running job that is watched, where the answer to its completion comes too late.
struct Unanswered {
    redis: Redis,
    relay: Relay,
    server: Server,
    stream: Watch,
}

impl Unanswered {
    async fn start() -> Self {
        let redis = Redis::start().await;
        let relay = Relay::to(redis.port).await;
        let server = behind(&relay).await;
        let mut client = server.client().await;
        create(&mut client, "a").await;
        report(&mut client, "a").await;
        let mut stream = watch(&client, "a").await;
        stream.expect(Event::Snapshot).await;
        relay.set_at("SUCCEEDED", Commands, Link::Late(TOO_LATE));
        Self { redis, relay, server, stream }
    }

    /// Fails unless the end is committed, and seen soon from now on.
    async fn ends_soon(mut self) {
        let called = Instant::now();
        self.relay.set(Commands, Link::Pass);
        assert_eq!(ask::<i64>(&self.redis, &["ZCARD", &beside("a", "state:SUCCEEDED")]).await, 1, "it is committed");
        let seen = self.stream.expect(Event::Update).await;
        assert_eq!((seen.state(), seen.revision()), (State::Succeeded, 3));
        assert!(called.elapsed() < SOON, "it was seen after {:?}", called.elapsed());
        self.stream.end().await;
        self.server.stop().await;
    }
}

fn completion() -> CompleteJobRequest {
    CompleteJobRequest { job_id: "a".to_owned(), ..CompleteJobRequest::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_whose_caller_left_is_seen_soon() {
    let unanswered = Unanswered::start().await;
    let mut client = unanswered.server.client().await;
    let mut request = Request::new(completion());
    request.set_timeout(Duration::from_millis(150));
    let status = client.complete_job(request).await.expect_err("it takes longer");
    assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
    in_time("the write", unanswered.relay.said()).await;
    // When this ends, the server has given up the one before too.
    client.get_job(read("elsewhere")).await.expect_err("it takes longer");
    unanswered.ends_soon().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_an_answer_is_seen_soon() {
    let unanswered = Unanswered::start().await;
    let status = unanswered.server.client().await.complete_job(completion()).await.expect_err("it takes longer");
    assert_away("complete_job", &status);
    unanswered.ends_soon().await;
}

/// The same where even the hint is late: it is on its way when the caller hears that Redis is away.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_an_answer_and_a_hint_is_seen_soon() {
    let unanswered = Unanswered::start().await;
    unanswered.relay.set(Messages, Link::Hole);
    let status = unanswered.server.client().await.complete_job(completion()).await.expect_err("it takes longer");
    assert_away("complete_job", &status);
    unanswered.ends_soon().await;
}

/// It shows that Redis has lost the one before.
#[tokio::test(flavor = "multi_thread")]
async fn a_revision_in_place_of_the_same_revision_is_merged_with_it() {
    let redis = Redis::start().await;
    let server = strict_server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut one = watch(&client, "a").await;
    one.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    report(&mut client, "a").await;
    one.expect(Event::Update).await;
    // It starts over if the server subscribes only now, so more may come than what is waited for.
    all.until(|seen| seen.job.as_ref().is_some_and(|job| job.revision == 2)).await;

    let revision = rewrite(&redis, "a", 0).await;
    redis.command(&["PUBLISH", &beside("a", "changes:0"), &hint_of(&redis, "a", revision).await]).await;
    let seen = one.expect(Event::Update).await;
    assert_eq!((seen.revision(), seen.skipped), (3, 0));
    all.until(|seen| seen.reset && seen.brief() == (Event::Snapshot, "a", 3)).await;
    in_time("a report", async { while try_report(&mut client, "a").await.is_err() {} }).await;
    assert_eq!(one.expect(Event::Update).await.revision(), 4);
    all.until(|seen| seen.brief() == (Event::Update, "a", 4)).await;
    server.stop().await;
}

/// A stream subscribes before it reads, so that nothing falls between the two.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_while_a_stream_begins_is_seen_soon() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&["--redis-url", &relay.url(), "--redis-timeout", "2s"]).await;
    let other = strict_server_on(&redis).await;
    let (client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut elsewhere, "a").await;
    relay.set_at("HMGET", Commands, Link::Late(Duration::from_millis(300)));
    let change = async {
        in_time("the read", relay.said()).await;
        report(&mut elsewhere, "a").await
    };
    let (mut stream, changed) = tokio::join!(watch(&client, "a"), change);
    relay.set(Commands, Link::Pass);
    // What is watched is read again after 5 s anyway.
    let seen = timeout(Duration::from_secs(2), stream.until(|seen| seen.revision() == changed.revision)).await;
    seen.expect("the change is seen");
    server.stop().await;
    other.stop().await;
}
