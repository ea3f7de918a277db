//! Streams during an outage.

use futures_util::{StreamExt, future::join_all, stream};
use jobtrack::proto::v1::{
    Durability, Event, GetJobRequest, UpdateProgressRequest, WatchJobRequest, WatchJobsRequest, job::State,
};
use rstest::rstest;
use tokio::task::JoinHandle;

use super::{assert_stored, job, two_on};
use crate::support::{
    Client, Server, create, new_job,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{degraded, in_time, read, server_on, stats, whole},
    watching::{Seen, complete, delete, millis, report, resume, watch, watch_job, watch_jobs},
    with_long_deadline,
};

/// Returns a request to watch a job with a bookmark each second.
fn talkative(id: &str) -> WatchJobRequest {
    WatchJobRequest { job_id: id.to_owned(), bookmark_interval: millis(1000), ..WatchJobRequest::default() }
}

#[rstest]
#[case::whole(false)]
#[case::empty(true)]
#[tokio::test(flavor = "multi_thread")]
async fn watch_continues_through_an_outage(#[case] comes_back_empty: bool) {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    for id in ["a", "quiet"] {
        create(&mut client, id).await;
        report(&mut client, id).await;
    }
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let mut quiet = watch_job(&client, talkative("quiet")).await;
    quiet.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    all.until_bookmark().await;

    redis.kill();
    degraded(&server).await;
    for revision in 3..=5 {
        let reported = report(&mut client, "a").await;
        assert_eq!((reported.revision, reported.durability()), (revision, Durability::Volatile));
        assert_eq!(stream.update().await, reported);
        all.until(|seen| seen.job.as_ref() == Some(&reported)).await;
    }
    if comes_back_empty {
        redis.restart_empty().await;
    } else {
        redis.restart().await;
    }
    whole(&server).await;
    // No other replica changed the jobs, so their revisions stay, and watchers receive nothing.
    assert_stored(&mut client, "a", 5).await;
    assert_stored(&mut client, "quiet", 2).await;
    let reported = report(&mut client, "a").await;
    assert_eq!((reported.revision, reported.durability()), (6, Durability::Durable));
    assert_eq!(stream.update().await, reported);
    for _ in 0..2 {
        quiet.expect(Event::Bookmark).await;
    }
    let ended = complete(&mut client, "quiet").await;
    quiet.until(|seen| seen.job.as_ref() == Some(&ended)).await;
    quiet.end().await;
    let events = all.until(|seen| seen.id() == "quiet" && seen.revision() == 3).await;
    let events: Vec<_> = events.iter().filter(|seen| seen.event == Event::Update).map(Seen::brief).collect();
    assert_eq!(events.last(), Some(&(Event::Update, "quiet", 3)), "{events:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volatile_end_ends_the_stream() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let [server, other] = two_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["ends", "goes"] {
        create(&mut client, id).await;
    }
    let (mut ends, mut goes) = (watch(&client, "ends").await, watch(&client, "goes").await);
    let mut far = watch(&elsewhere, "ends").await;
    for stream in [&mut ends, &mut goes, &mut far] {
        stream.expect(Event::Snapshot).await;
    }
    redis.kill();
    let ended = complete(&mut client, "ends").await;
    assert_eq!(ended.durability(), Durability::Volatile);
    assert_eq!(ends.update().await, ended);
    ends.end().await;
    delete(&mut client, "goes").await;
    let removed = goes.expect(Event::Removed).await;
    assert_eq!(removed.job().durability(), Durability::Volatile);
    goes.end().await;
    // Watchers on another replica receive the change when Redis is back.
    degraded(&other).await;
    redis.restart().await;
    whole(&server).await;
    whole(&other).await;
    let end = in_time("the end", far.rest()).await;
    assert_eq!(end.last().map(|seen| (seen.state(), seen.revision())), Some((State::Succeeded, ended.revision)));
    assert_stored(&mut elsewhere, "ends", ended.revision).await;
    server.stop().await;
    other.stop().await;
}

/// A watch can be opened while Redis is unavailable, and resumed with a token from before.
#[tokio::test(flavor = "multi_thread")]
async fn a_watch_is_opened_and_resumed_while_redis_is_unavailable() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let token = watch(&client, "a").await.expect(Event::Snapshot).await.token;
    redis.kill();
    degraded(&server).await;
    let mut stream = resume(&client, "a", &token).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    let reported = report(&mut client, "a").await;
    assert_eq!(stream.update().await, reported);
    let mut opened = watch(&client, "a").await;
    let volatile = opened.expect(Event::Snapshot).await;
    assert_eq!(volatile.job(), &reported);
    redis.restart().await;
    whole(&server).await;
    // The token of a volatile revision that was stored unchanged is valid.
    let mut resumed = resume(&client, "a", &volatile.token).await;
    assert!(!resumed.expect(Event::Bookmark).await.reset);
    let reported = report(&mut client, "a").await;
    for stream in [&mut stream, &mut opened, &mut resumed] {
        assert_eq!(stream.update().await, reported);
    }
    server.stop().await;
}

/// The changes that the other replica stored during the outage are sent when the link is back, once.
#[tokio::test(flavor = "multi_thread")]
async fn returned_replica_sends_the_changes_that_it_missed() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let server = Server::with(&["--redis-url", &relay.url()]).await;
    let other = server_on(&redis).await;
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["theirs", "both"] {
        create(&mut client, id).await;
    }
    let (mut theirs, mut both) = (watch(&client, "theirs").await, watch(&client, "both").await);
    for stream in [&mut theirs, &mut both] {
        stream.expect(Event::Snapshot).await;
    }
    relay.set_all(Link::Hole);
    degraded(&server).await;
    let stored = report(&mut elsewhere, "theirs").await;
    complete(&mut elsewhere, "both").await;
    let volatile = report(&mut client, "both").await;
    assert_eq!(both.update().await, volatile);
    relay.set_all(Link::Pass);
    whole(&server).await;
    assert_eq!(in_time("the report", theirs.update()).await, stored);
    // The end that is in Redis wins.
    let end = in_time("the end", both.rest()).await;
    assert_eq!(end.last().map(Seen::state), Some(State::Succeeded));
    let here = job(&mut client, "both").await;
    let request = GetJobRequest { min_revision: Some(here.revision), ..read("both") };
    let there = elsewhere.get_job(request).await.expect("it comes in time").into_inner().job;
    assert_eq!(there, Some(here));
    server.stop().await;
    other.stop().await;
}

/// Reports on a job `count` times.
async fn report_often(mut client: Client, id: String, count: usize) -> i64 {
    let mut revision = 0;
    for _ in 0..count {
        let report = UpdateProgressRequest { job_id: id.clone(), ..UpdateProgressRequest::default() };
        let stored = client.update_progress(with_long_deadline(report)).await.expect("it can be reported on");
        revision = stored.into_inner().job.expect("a job").revision;
    }
    revision
}

/// Waits until a job has reached `revision`. Fails if its `reports` end before, because one of them failed.
async fn until_revision<T>(client: &mut Client, id: &str, revision: i64, reports: &JoinHandle<T>) {
    loop {
        let have_ended = reports.is_finished();
        let answer = client.get_job(with_long_deadline(read(id))).await.expect("it can be read").into_inner();
        if answer.job.expect("a job").revision >= revision {
            return;
        }
        assert!(!have_ended, "a report failed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_active_jobs_survive_an_emptied_redis_and_every_watcher_reaches_the_end() {
    const JOBS: usize = 1000;
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(server.client().await);
    }
    let ids: Vec<_> = (0..JOBS).map(|number| format!("j{number}")).collect();
    let of = |number: usize| clients[number % clients.len()].clone();
    let streams = join_all(ids.iter().enumerate().map(|(number, id)| async move {
        let mut client = of(number);
        client.create_job(with_long_deadline(new_job(id))).await.expect("a job can be created");
        let mut stream = watch(&client, id).await;
        stream.expect(Event::Snapshot).await;
        stream
    }));
    let streams = streams.await;
    let watching = tokio::spawn(join_all(streams.into_iter().map(async |mut stream| stream.rest().await)));

    let begun = std::time::Instant::now();
    let updates = tokio::spawn(join_all(
        ids.iter().enumerate().map(|(number, id)| report_often(of(number), id.clone(), 20)).collect::<Vec<_>>(),
    ));
    let mut first = of(0);
    until_revision(&mut first, "j0", 5, &updates).await;
    redis.kill();
    until_revision(&mut first, "j0", 10, &updates).await;
    redis.restart_empty().await;
    let revisions = updates.await.expect("no report fails");
    println!("{} reports of {JOBS} jobs in {:?}", JOBS * 20, begun.elapsed());
    whole(&server).await;
    let reported = stats(&mut server.admin().await).await.last_reconciliation.expect("there was one");
    println!(
        "merged {}, conflicted {}, dropped {}",
        reported.merged_count, reported.conflicted_count, reported.dropped_count
    );
    assert_eq!((reported.conflicted_count, reported.dropped_count), (0, 0));

    let other = server_on(&redis).await;
    let elsewhere = other.client().await;
    // In batches: an answer that is late because of their number would count as an outage.
    let finished = stream::iter(ids.iter().zip(&revisions)).map(|(id, revision)| {
        let mut client = elsewhere.clone();
        async move {
            assert_stored(&mut client, id, *revision).await;
            assert_eq!(complete(&mut client, id).await.durability(), Durability::Durable);
        }
    });
    finished.buffer_unordered(16).for_each(async |()| {}).await;
    let ends = in_time("the ends", watching).await.expect("no watch fails");
    assert!(ends.iter().all(|events| events.last().is_some_and(|seen| seen.state() == State::Succeeded)));
    server.stop().await;
    other.stop().await;
}
