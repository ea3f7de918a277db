//! Commits whose answer, notification or first snapshot is late or lost: watchers receive them nevertheless.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{CompleteJobRequest, Event, WatchJobsRequest, job::State};
use tokio::time::timeout;
use tonic::{Code, Request};

use super::{SOON, behind, notification_of};
use crate::support::{
    Server, create,
    records::{ask, partition_key, set_version},
    redis::Redis,
    relay::{
        Carrying::{Commands, Messages},
        Link, Relay,
    },
    replicas::{assert_away, in_time, read, strict_server_on},
    watching::{Watch, report, try_report, watch, watch_jobs},
};

/// Longer than the server waits for an answer.
const TOO_LATE: Duration = Duration::from_secs(5);

/// A server with a watched running job, to whose completion the answer comes too late.
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

    /// Fails unless the end is committed, and received soon from now on.
    async fn ends_soon(mut self) {
        let called = Instant::now();
        self.relay.set(Commands, Link::Pass);
        assert_eq!(
            ask::<i64>(&self.redis, &["ZCARD", &partition_key("a", "state:SUCCEEDED")]).await,
            1,
            "it is committed"
        );
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
    // After this call the server has given up the one before, too.
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

/// The notification is late, too: it is under way when the caller is told that Redis is unavailable.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_without_an_answer_and_a_notification_is_seen_soon() {
    let unanswered = Unanswered::start().await;
    unanswered.relay.set(Messages, Link::Hole);
    let status = unanswered.server.client().await.complete_job(completion()).await.expect_err("it takes longer");
    assert_away("complete_job", &status);
    unanswered.ends_soon().await;
}

/// The revision shows that Redis has lost the version before.
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
    // The stream starts over if the server subscribes only now, so other events may come first.
    all.until(|seen| seen.job.as_ref().is_some_and(|job| job.revision == 2)).await;

    let revision = set_version(&redis, "a", 0).await;
    redis.command(&["PUBLISH", &partition_key("a", "changes:0"), &notification_of(&redis, "a", revision).await]).await;
    let seen = one.expect(Event::Update).await;
    assert_eq!((seen.revision(), seen.skipped), (3, 0));
    all.until(|seen| seen.reset && seen.brief() == (Event::Snapshot, "a", 3)).await;
    in_time("a report", async { while try_report(&mut client, "a").await.is_err() {} }).await;
    assert_eq!(one.expect(Event::Update).await.revision(), 4);
    all.until(|seen| seen.brief() == (Event::Update, "a", 4)).await;
    server.stop().await;
}

/// A stream subscribes before it reads, so that it misses no change in between.
#[tokio::test(flavor = "multi_thread")]
async fn change_while_a_stream_begins_is_seen_soon() {
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
    // Watched jobs are read again after 5 s in any case.
    let seen = timeout(Duration::from_secs(2), stream.until(|seen| seen.revision() == changed.revision)).await;
    seen.expect("the change is seen");
    server.stop().await;
    other.stop().await;
}
