//! `clients/rust`: workers and watchers, across outages and restarts.

mod outages;

use std::{net::SocketAddr, panic, path::Path, time::Duration};

use jobtrack_client::{Code, Event, Failure, Job, JobFilter, Report, State, Stop, Tracker, Work};
use serde_json::json;
use tokio::{sync::mpsc::unbounded_channel, time::timeout};

use crate::support::{
    Server,
    credentials::{Folder, holder, identities},
    redis::next_port,
    watching::until_version,
};

/// Maximum wait for what is expected; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

fn tracker(address: SocketAddr) -> Tracker {
    tracker_at(format!("http://{address}"))
}

fn tracker_at(url: String) -> Tracker {
    Tracker::builder(url).timeout(WAIT_TIMEOUT).connect_lazy().expect("the URL is valid")
}

async fn work(tracker: &Tracker) -> Work {
    tracker.create("test.work").lease(Duration::from_secs(30)).work().start().await.expect("it is claimed")
}

/// Waits until a version of the job is so. The job may not exist yet.
async fn until(tracker: &Tracker, id: &str, is_so: impl Fn(&Job) -> bool) -> Job {
    until_version(tracker.watch_many(JobFilter::default()).ids([id]), WAIT_TIMEOUT, is_so).await
}

/// Fails unless each event has a later version than the one before. Returns the last job.
async fn follow(tracker: &Tracker, id: &str) -> Job {
    let mut watch = tracker.watch(id);
    let mut last = Job::default();
    while let Some(event) = timeout(WAIT_TIMEOUT, watch.next()).await.expect("it is not silent") {
        if let Event::Job { job, .. } = event.expect("it resumes") {
            assert!(job.revision > last.revision, "{} after {}", job.revision, last.revision);
            last = job;
        }
    }
    last
}

/// Returns an address that nobody listens on.
fn unused() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], next_port()))
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_reports_and_watcher_follows_to_the_end() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let job = tracker.create("test.work").title("A").label("a", "b").metadata(json!({"size": 3}));
    let work = job.work().worker("worker-1").start().await.expect("it is claimed");
    assert_eq!(work.attempt(), Some(1));
    let id = work.job_id().to_owned();
    let following = tokio::spawn({
        let (tracker, id) = (tracker.clone(), id.clone());
        async move { follow(&tracker, &id).await }
    });
    work.report(Report::units(3, 4).stage("encode").message("three"));
    let job = until(&tracker, &id, |job| job.percent() == Some(75.0)).await;
    assert_eq!((job.state(), job.worker.as_str(), job.title.as_str()), (State::Running, "worker-1", "A"));
    let ended = work.finish(json!({"url": "s3://a", "sizes": [1, 2]})).await.expect("it ends");
    assert_eq!(ended.state(), State::Succeeded);
    let followed = following.await.expect("no panic");
    assert_eq!(followed.revision, ended.revision);
    assert_eq!(followed.result().expect("JSON"), Some(json!({"url": "s3://a", "sizes": [1, 2]})));
    assert_eq!(tracker.wait(&id).await.expect("it has ended").state(), State::Succeeded);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn newest_of_many_reports_is_sent_and_few_are() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    for count in 1..=100_000 {
        work.report(Report::units(count, 200_000));
    }
    let job = until(&tracker, &id, |job| job.progress.as_ref().is_some_and(|progress| progress.completed() == 100_000));
    // The loop took less than 10 reports at two a second, even on a slow machine.
    assert!(job.await.revision < 12);
    work.retry(Failure::of("AGAIN", "")).await.expect("it ends");
    let job = tracker.get(&id).await.expect("it exists");
    assert_eq!((job.state(), job.last_failure.expect("a failure").reason.as_str()), (State::Pending, "AGAIN"));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_renew_the_lease_without_reports() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let job = tracker.create("test.work").lease(Duration::from_secs(1)).fail_when_lost(true);
    let work = job.work().start().await.expect("it is claimed");
    let expires = |job: &Job| job.lease_expire_time.map(|time| (time.seconds, time.nanos));
    let mut last = expires(&tracker.get(work.job_id()).await.expect("it exists"));
    for _ in 0..4 {
        let renewed = until(&tracker, work.job_id(), |job| expires(job) > last).await;
        last = expires(&renewed);
    }
    work.finish(()).await.expect("it is not lost");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancellation_reaches_the_worker() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    assert!(work.stop_reason().is_none());
    tracker.cancel(&id, "too late").await.expect("it runs");
    work.report(Report::new().percent(1.0));
    let stop = timeout(WAIT_TIMEOUT, work.cancelled()).await.expect("it is told");
    assert!(matches!(&stop, Stop::Requested { reason, .. } if reason == "too late"), "{stop:?}");
    let job = work.confirm_cancel(Some("stopped".to_owned())).await.expect("it ends");
    assert_eq!(job.state(), State::Cancelled);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_whose_attempt_was_taken_over_is_told_to_stop() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let first = work(&tracker).await;
    let refused = tracker.work(first.job_id()).start().await.expect_err("another worker runs it");
    assert_eq!((refused.code, refused.reason.as_str()), (Code::FailedPrecondition, "ATTEMPT_RUNNING"));
    let second = tracker.work(first.job_id()).takeover(true).start().await.expect("it takes over");
    assert_eq!(second.attempt(), Some(2));
    first.report(Report::new().percent(99.0));
    let stop = timeout(WAIT_TIMEOUT, first.cancelled()).await.expect("it is told");
    assert!(matches!(&stop, Stop::Fenced(error) if error.reason == "STALE_ATTEMPT"), "{stop:?}");
    let refused = first.finish(()).await.expect_err("it is not its attempt");
    assert_eq!(refused.reason, "STALE_ATTEMPT");
    let job = second.finish(()).await.expect("it is its attempt");
    assert_eq!((job.state(), job.attempt), (State::Succeeded, 2));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_work_ends_its_job() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let abandoned = work(&tracker).await;
    let id = abandoned.job_id().to_owned();
    drop(abandoned);
    let job = tracker.wait(&id).await.expect("it ends");
    assert_eq!(job.failure().expect("it failed").reason, "ABANDONED");

    let panicking = work(&tracker).await;
    let id = panicking.job_id().to_owned();
    let task = tokio::spawn(async move {
        let _work = panicking;
        panic::panic_any("a worker's panic");
    });
    assert!(task.await.expect_err("it panics").is_panic());
    let job = tracker.wait(&id).await.expect("it ends");
    assert_eq!(job.failure().expect("it failed").reason, "PANIC");

    let cancelled = work(&tracker).await;
    let id = cancelled.job_id().to_owned();
    tracker.cancel(&id, "").await.expect("it runs");
    cancelled.report(Report::new().percent(1.0));
    timeout(WAIT_TIMEOUT, cancelled.cancelled()).await.expect("it is told");
    drop(cancelled);
    assert_eq!(tracker.wait(&id).await.expect("it ends").state(), State::Cancelled);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_that_starts_again_with_its_claim_is_heard() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    tracker.create("test.work").id("a").send().await.expect("it is created");
    let start = async || tracker.work("a").request_id("delivery-1").start().await.expect("it is its attempt");
    let first = start().await;
    first.report(Report::units(1, 4));
    until(&tracker, "a", |job| job.percent() == Some(25.0)).await;
    let second = start().await;
    assert_eq!((first.attempt(), second.attempt()), (Some(1), Some(1)));
    second.report(Report::units(2, 4));
    until(&tracker, "a", |job| job.percent() == Some(50.0)).await;
    second.finish(()).await.expect("it ends");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn result_that_is_refused_does_not_lose_the_work() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    for result in [json!("no object"), json!({"text": "x".repeat(3 << 19)})] {
        let work = work(&tracker).await;
        let id = work.job_id().to_owned();
        let refused = work.finish(result).await.expect_err("it is no result");
        assert_eq!(refused.code, Code::InvalidArgument);
        assert_eq!(tracker.get(&id).await.expect("it exists").state(), State::Succeeded);
    }
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    let refused = work.confirm_cancel(None).await.expect_err("nobody has requested it");
    assert_eq!(refused.reason, "CANCEL_NOT_REQUESTED");
    assert_eq!(tracker.get(&id).await.expect("it exists").failure().expect("it failed").reason, "STOPPED");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_report_does_not_keep_the_end_from_being_sent() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let work = work(&tracker).await;
    let id = work.job_id().to_owned();
    work.report(Report::new().percent(f64::NAN).message("invalid"));
    work.report(Report::new().unit("x".repeat(1000)));
    work.report(Report::units(1, 4));
    assert_eq!(work.finish(()).await.expect("it ends").state(), State::Succeeded);
    assert!(tracker.get(&id).await.expect("it exists").has_ended());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn work_begins_with_a_token_that_is_refused_and_goes_on_with_the_next_one() {
    let files = Folder::new();
    let tokens = files.write("identities", &identities(&[holder("right", "reporter", &json!("*"))]));
    let server = Server::with(&["--auth-tokens", &tokens]).await;
    let token = files.write("token", "wrong\n");
    let tracker = Tracker::builder(format!("http://{}", server.address)).token_file(&token).connect_lazy();
    let tracker = tracker.expect("the file is read later");
    let (told, mut troubles) = unbounded_channel();
    let work = tracker.create("test.work").work().on_trouble(move |trouble| {
        told.send(trouble.map(|error| error.code)).expect("the test waits");
    });
    let work = work.start().await.expect("it begins all the same");
    assert_eq!(troubles.recv().await, Some(Some(Code::Unauthenticated)));
    files.write("token", "right\n");
    assert_eq!(troubles.recv().await, Some(None));
    let id = work.job_id().to_owned();
    assert_eq!(work.finish(()).await.expect("it ends").state(), State::Succeeded);
    assert!(tracker.get(&id).await.expect("it exists").has_ended());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_name_what_is_wrong() {
    let server = Server::start().await;
    let tracker = tracker(server.address);
    let error = tracker.create("").id("ä").send().await.expect_err("it is invalid");
    assert_eq!((error.code, error.reason.as_str()), (Code::InvalidArgument, "INVALID_FIELD"));
    let fields: Vec<_> = error.violations.iter().map(|violation| violation.field.as_str()).collect();
    assert_eq!(fields, ["job_id", "kind"]);
    assert!(error.to_string().contains("job_id") && error.to_string().contains("kind"), "{error}");
    let error = tracker.wait("missing").await.expect_err("it does not exist");
    assert_eq!((error.code, error.reason.as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    let error = tracker.create("test.work").metadata(3).send().await.expect_err("no object");
    assert_eq!(error.reason, "INVALID_DOCUMENT");
    let builder = Tracker::builder(format!("http://{}", server.address));
    let error = builder.token_file("/missing").connect_lazy().expect("it is read later").get("a").await;
    assert!(error.as_ref().is_err_and(|error| error.to_string().contains("/missing")), "{error:?}");
    for (url, problem) in [("localhost:50051", "http://"), ("https://a b", "invalid"), ("", "http://")] {
        let error = Tracker::builder(url).connect_lazy().expect_err("no URL").to_string();
        assert!(error.contains(&format!("{url:?}")) && error.contains(problem), "{error}");
    }
    let error = Tracker::builder("https://a").ca_file(Path::new("/missing")).connect_lazy().expect_err("no file");
    assert!(error.to_string().starts_with("/missing: "), "{error}");
    server.stop().await;
}
