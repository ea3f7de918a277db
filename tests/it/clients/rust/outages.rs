//! Servers that are absent, silent, killed or replaced.

use std::{net::TcpListener, time::Duration};

use jobtrack_client::{Code, Event, JobFilter, Report, State, Tracker};
use tokio::{sync::mpsc::unbounded_channel, time::timeout};

use super::{WAIT_TIMEOUT, follow, tracker, tracker_at, until, unused, work};
use crate::support::{
    Server,
    process::{Process, command},
    redis::Redis,
};

#[tokio::test(flavor = "multi_thread")]
async fn work_begins_without_the_tracker_and_is_told_when_it_is_there() {
    let address = unused();
    let tracker = Tracker::builder(format!("http://{address}")).connect_lazy().expect("the URL is valid");
    let (told, mut troubles) = unbounded_channel();
    let job = tracker.create("test.work").id("early").work().on_trouble(move |trouble| {
        told.send(trouble.map(ToString::to_string)).expect("the test waits");
    });
    let work = job.start().await.expect("it begins all the same");
    assert_eq!(work.attempt(), None);
    work.report(Report::units(3, 4));
    let message = troubles.recv().await.expect("it is told").expect("an error");
    assert!(message.contains("can't connect") && message.contains("refused"), "{message}");

    let server = Process::run_on(command(&[]), &address.to_string());
    let job = until(&tracker_at(format!("http://{address}")), "early", |job| job.percent() == Some(75.0)).await;
    assert_eq!((job.attempt, job.state()), (1, State::Running));
    assert_eq!(work.finish(()).await.expect("it ends").state(), State::Succeeded);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn strict_work_does_not_begin_without_the_tracker() {
    let address = unused();
    let tracker = Tracker::builder(format!("http://{address}")).wait_for_ready(false).connect_lazy().expect("a URL");
    let error = tracker.create("test.work").work().strict(true).start().await.expect_err("nobody listens");
    assert_eq!((error.code, error.is_unsent), (Code::Unavailable, true), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_replica_costs_no_report() {
    let redis = Redis::start().await;
    let url = redis.url();
    let [first, second] = [(), ()].map(|()| Process::start(&["--redis-url", &url]));
    let tracker = tracker_at(format!("http://{},http://{}", first.address, second.address));
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    first.signal("STOP");
    work.report(Report::units(1, 4));
    let elsewhere = self::tracker(second.address);
    until(&elsewhere, &id, |job| job.percent() == Some(25.0)).await;
    assert_eq!(work.finish(()).await.expect("it ends").state(), State::Succeeded);
    first.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_says_when_what_it_knew_no_longer_counts() {
    let address = unused();
    let start = || Process::run_on(command(&[]), &address.to_string());
    let server = start();
    let tracker = tracker(address);
    tracker.create("test.work").id("a").send().await.expect("it is created");
    let mut watch = tracker.watch_many(JobFilter::default());
    let mut next = async || timeout(WAIT_TIMEOUT, watch.next()).await.expect("not silent").expect("it goes on");
    assert!(matches!(next().await, Ok(Event::Job { job, .. }) if job.id == "a"));
    assert!(matches!(next().await, Ok(Event::Synced)));
    server.signal("KILL");
    server.wait();
    let server = start();
    assert!(matches!(next().await, Ok(Event::Reset)));
    assert!(matches!(next().await, Ok(Event::Synced)));
    tracker.create("test.work").id("b").send().await.expect("it is created");
    assert!(matches!(next().await, Ok(Event::Job { job, .. }) if job.id == "b"));
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_are_tried_in_turn_by_calls_that_do_not_wait() {
    let server = Server::start().await;
    let url = format!("http://{},http://{}", unused(), server.address);
    let tracker = Tracker::builder(url).wait_for_ready(false).connect_lazy().expect("the URLs are valid");
    let job = tracker.create("test.work").send().await.expect("the second one answers");
    assert_eq!(tracker.get(&job.id).await.expect("it answers again").id, job.id);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn end_is_given_up_when_the_server_is_silent() {
    // Connections are made by the kernel, and nobody reads them.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let tracker = tracker(silent.local_addr().expect("it is bound"));
    let work = tracker.create("test.work").work().flush_timeout(Duration::from_millis(200)).start_detached();
    let error = timeout(WAIT_TIMEOUT, work.expect("it begins").finish(())).await.expect("it does not hang");
    assert_eq!(error.expect_err("nobody answers").reason, "NOT_FLUSHED");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_watcher_go_on_after_the_server_was_killed() {
    let redis = Redis::start().await;
    let url = redis.url();
    let address = unused();
    let flags = ["--redis-url", &url];
    let start = || Process::run_on(command(&flags), &address.to_string());
    let server = start();
    let tracker = tracker(address);
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    let following = tokio::spawn({
        let (tracker, id) = (tracker.clone(), id.clone());
        async move { follow(&tracker, &id).await }
    });
    work.report(Report::units(1, 4));
    until(&tracker, &id, |job| job.percent() == Some(25.0)).await;
    server.signal("KILL");
    server.wait();
    work.report(Report::units(2, 4));
    let server = start();
    until(&tracker, &id, |job| job.percent() == Some(50.0)).await;
    let ended = work.finish(()).await.expect("it ends");
    assert_eq!((ended.state(), ended.attempt), (State::Succeeded, 1));
    assert_eq!(following.await.expect("no panic").revision, ended.revision);
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_and_watcher_go_on_at_another_replica() {
    let redis = Redis::start().await;
    let url = redis.url();
    let [first, second] = [(), ()].map(|()| Process::start(&["--redis-url", &url]));
    let tracker = tracker_at(format!("http://{},http://{}", first.address, second.address));
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    let following = tokio::spawn({
        let (tracker, id) = (tracker.clone(), id.clone());
        async move { follow(&tracker, &id).await }
    });
    work.report(Report::units(1, 4));
    until(&tracker, &id, |job| job.percent() == Some(25.0)).await;
    first.signal("KILL");
    first.wait();
    work.report(Report::units(2, 4));
    let elsewhere = self::tracker(second.address);
    until(&elsewhere, &id, |job| job.percent() == Some(50.0)).await;
    let ended = work.finish(()).await.expect("it ends");
    assert_eq!(following.await.expect("no panic").revision, ended.revision);
}

#[tokio::test(flavor = "multi_thread")]
async fn watch_of_many_sends_what_matches_and_then_changes() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let created = tracker.create("test.a").send().await.expect("it is created");
    tracker.create("test.b").send().await.expect("it is created");
    let filter = JobFilter { kind: "test.a".to_owned(), ..Default::default() };
    let mut watch = tracker.watch_many(filter);
    let mut next = async || timeout(WAIT_TIMEOUT, watch.next()).await.expect("not silent").expect("it goes on");
    assert!(matches!(next().await, Ok(Event::Job { job, .. }) if job.id == created.id));
    assert!(matches!(next().await, Ok(Event::Synced)));
    tracker.complete(&created.id, ()).await.expect("it ends");
    assert!(matches!(next().await, Ok(Event::Job { job, .. }) if job.has_ended()));
    tracker.delete(&created.id, false).await.expect("it has ended");
    assert!(matches!(next().await, Ok(Event::Removed { job, .. }) if job.id == created.id));
    server.stop().await;
}
