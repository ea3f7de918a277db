//! Streams when Redis becomes unavailable, or comes back with other data.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use jobtrack::proto::v1::{CreateJobRequest, Event, JobFilter, WatchJobsRequest};
use rstest::rstest;

use super::behind;
use crate::support::{
    create, new_job,
    records::{PARTITIONS, ask},
    redis::Redis,
    relay::{Carrying::Commands, Link, Relay},
    replicas::{in_time, strict_server_on},
    watching::{Seen, Watch, large, make, millis, narrow, report, resume, watch, watch_jobs},
};

/// Loses all data and restores the commit counts, so that the counts do not reveal the loss.
const FLUSH: &str = "local counts = redis.call('MGET', unpack(KEYS)) redis.call('FLUSHALL') \
                     for at, key in ipairs(KEYS) do redis.call('SET', key, counts[at] or 0) end";

/// More jobs than a stream reads at a time.
const MANY: usize = 1100;

/// Returns a request for a stream with a bookmark every second.
fn talkative() -> WatchJobsRequest {
    WatchJobsRequest { bookmark_interval: millis(1000), ..WatchJobsRequest::default() }
}

/// Reads until the stream has sent several bookmarks: long enough for it to ask Redis.
async fn stays_open(stream: &mut Watch) {
    for _ in 0..2 {
        in_time("a bookmark", stream.until(|seen| seen.event == Event::Bookmark)).await;
    }
}

fn is_at(revision: i64) -> impl Fn(&Seen) -> bool {
    move |seen| seen.job.as_ref().is_some_and(|job| job.revision == revision)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_jobs_stays_open_while_redis_is_unavailable() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = strict_server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut all = watch_jobs(&client, talkative()).await;
    all.until_bookmark().await;
    for revision in 2..=3 {
        redis.kill();
        stays_open(&mut all).await;
        redis.restart().await;
        // Uses another server, because this one may not have noticed yet that Redis is back.
        let other = strict_server_on(&redis).await;
        report(&mut other.client().await, "a").await;
        in_time("the report", all.until(is_at(revision))).await;
        other.stop().await;
    }
    server.stop().await;
}

/// The outage is noticed by a new subscription, after which notifications may be lost; or by a read of the stream.
#[rstest]
#[case::subscribing("SUBSCRIBE")]
#[case::listing("ZREVRANGEBYSCORE")]
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_jobs_that_starts_over_stays_open_while_redis_is_unavailable(#[case] word: &'static str) {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (server, other) = (behind(&relay).await, strict_server_on(&redis).await);
    let mut client = other.client().await;
    create(&mut client, "a").await;
    let mut all = watch_jobs(&server.client().await, talkative()).await;
    all.until_bookmark().await;
    for revision in 2..=3 {
        relay.set_at(word, Commands, Link::Hole);
        redis.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
        in_time("the outage", relay.said()).await;
        stays_open(&mut all).await;
        report(&mut client, "a").await;
        relay.set(Commands, Link::Pass);
        in_time("the report", all.until(is_at(revision))).await;
        all.until_bookmark().await;
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupted_snapshots_continue_after_an_outage() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let maker = strict_server_on(&redis).await;
    let mut client = maker.client().await;
    for number in 0..MANY {
        make(&mut client, large(&format!("job-{number}"))).await;
    }
    maker.stop().await;
    // The server has none of the jobs in memory, and does not ask Redis for jobs that the stream does not read.
    let server = strict_server_on(&redis).await;
    let mut all = watch_jobs(&narrow(&server).await, talkative()).await;
    let mut seen = vec![all.expect(Event::Snapshot).await];
    redis.kill();
    seen.extend(all.until_bookmark().await);
    let before = seen.len() - 1;
    assert!(before < MANY, "the outage came too late");
    redis.restart().await;
    let mut known: BTreeSet<_> = seen.iter().map(|seen| seen.id().to_owned()).filter(|id| !id.is_empty()).collect();
    in_time("the other jobs", async {
        while known.len() < MANY {
            let seen = all.next().await;
            known.extend(seen.job.map(|job| job.id));
        }
    })
    .await;
    println!("{before} of {MANY} snapshots came before the outage");
    server.stop().await;
}

/// Waits until a server has renamed the data set from `before`, and knows the new name.
async fn renamed(redis: &Redis, before: &str) {
    in_time("a name of the data set", async {
        while ask::<Option<String>>(redis, &["GET", "jobtrack:epoch"]).await.is_none_or(|name| name == before) {}
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_of_a_lost_data_set_are_reset() {
    let redis = Redis::start().await;
    let maker = strict_server_on(&redis).await;
    let mut client = maker.client().await;
    create(&mut client, "a").await;
    let token = watch(&client, "a").await.expect(Event::Snapshot).await.token;
    maker.stop().await;
    // The server has nothing in memory that it could restore.
    let server = strict_server_on(&redis).await;
    let mut client = server.client().await;
    let mut all = watch_jobs(&client, talkative()).await;
    all.until_bookmark().await;
    let epoch: String = ask(&redis, &["GET", "jobtrack:epoch"]).await;

    let counts: Vec<_> = (0..PARTITIONS).map(|partition| format!("jobs:{{{partition}}}:commits")).collect();
    let count = counts.len().to_string();
    let flush = [&["EVAL", FLUSH, &count][..], &counts.iter().map(String::as_str).collect::<Vec<_>>()].concat();
    redis.command(&flush).await;
    in_time("a new beginning without jobs", async {
        let is_begun = |seen: &Seen| seen.reset && seen.event == Event::Bookmark;
        while all.until(is_begun).await.iter().any(|seen| seen.event == Event::Snapshot) {}
    })
    .await;

    renamed(&redis, &epoch).await;
    in_time("a job", async { while client.create_job(new_job("a")).await.is_err() {} }).await;
    for revision in 1..=3 {
        let mut stream = resume(&client, "a", &token).await;
        let seen = stream.expect(Event::Snapshot).await;
        assert_eq!((seen.reset, seen.revision()), (true, revision));
        report(&mut client, "a").await;
        assert_eq!(stream.update().await.revision, revision + 1);
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stream_sends_bookmarks_while_it_examines_many_jobs_that_do_not_match() {
    /// More than a call without a deadline has the time to examine.
    const OTHERS: usize = 4000;
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = behind(&relay).await;
    let client = server.client().await;
    let labels = HashMap::from([("rare".to_owned(), "yes".to_owned())]);
    make(&mut client.clone(), CreateJobRequest { labels: labels.clone(), ..new_job("the-oldest") }).await;
    let others = stream::iter(0..OTHERS).map(|number| {
        let mut client = client.clone();
        async move { create(&mut client, &format!("other-{number}")).await }
    });
    others.buffer_unordered(64).for_each(async |_| {}).await;
    // A hundred jobs are read with two consecutive commands.
    relay.set(Commands, Link::Late(Duration::from_millis(80)));
    let filter = Some(JobFilter { labels, ..JobFilter::default() });
    let mut rare = watch_jobs(&client, WatchJobsRequest { filter, ..talkative() }).await;
    let events = rare.until(|seen| seen.event == Event::Bookmark && !seen.pending).await;
    let [early @ .., snapshot, _] = &*events else { panic!("{events:?}") };
    assert_eq!(snapshot.brief(), (Event::Snapshot, "the-oldest", 1));
    assert!(!early.is_empty() && early.iter().all(|seen| seen.pending), "{early:?}");
    server.stop().await;
}
