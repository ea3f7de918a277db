//! Servers that share a Redis: changes through one are visible through the others, and outlive each of them.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{
    Durability, Event, GetJobRequest, Progress, Removal, Source, UpdateProgressRequest, WatchJobsRequest,
};
use tokio::join;
use tonic::Code;

use crate::support::{
    create,
    process::Process,
    reason,
    replicas::{Pair, in_time, part_of_shared_redis, read},
    watching::{Seen, Watch, complete, delete, report, resume, watch, watch_jobs},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_job_outlives_the_server() {
    let flags = part_of_shared_redis().await;
    let flags: Vec<_> = flags.iter().map(String::as_str).collect();
    let process = Process::start(&flags);
    let mut client = process.client().await;
    create(&mut client, "a").await;
    let progress = Some(Progress { percent: Some(50.0), ..Progress::default() });
    let half = UpdateProgressRequest { job_id: "a".to_owned(), progress, ..UpdateProgressRequest::default() };
    let before = client.update_progress(half).await.expect("a report").into_inner().job.expect("a job");
    let mut stream = watch(&client, "a").await;
    let token = stream.expect(Event::Snapshot).await.token;
    process.signal("KILL");
    stream.outcome().await.expect("the stream breaks off").expect_err("the stream breaks off");
    process.wait();

    let process = Process::start(&flags);
    let mut client = process.client().await;
    let answer = client.get_job(read("a")).await.expect("it is there").into_inner();
    assert_eq!(answer.source(), Source::Redis);
    let after = answer.job.expect("a job");
    assert_eq!(after, before);
    assert_eq!((after.revision, after.durability()), (2, Durability::Durable));
    assert_eq!(after.progress.and_then(|progress| progress.percent), Some(50.0));
    let mut stream = resume(&client, "a", &token).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    let reported = report(&mut client, "a").await;
    assert_eq!(stream.update().await, reported);
    let ended = complete(&mut client, "a").await;
    assert_eq!(stream.update().await, ended);
    stream.end().await;
}

/// Prints the time that each of 2,000 updates through one server takes to a watcher on the other.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_through_one_reaches_a_watcher_on_the_other() {
    let pair = Pair::start(&[]).await;
    let (mut a, b) = pair.clients().await;
    create(&mut a, "a").await;
    let mut stream = watch(&b, "a").await;
    stream.expect(Event::Snapshot).await;
    let mut latencies = Vec::new();
    for _ in 0..2000 {
        let started = Instant::now();
        let seen = async { (stream.update().await, started.elapsed()) };
        let (reported, (seen, latency)) = join!(report(&mut a, "a"), seen);
        assert_eq!(seen, reported);
        latencies.push(latency);
    }
    latencies.sort_unstable();
    let percentile = |percent: usize| latencies[latencies.len() * percent / 100];
    println!("from the call at one to the event at the other: p50 {:?}, p99 {:?}", percentile(50), percentile(99));
    let ended = complete(&mut a, "a").await;
    assert_eq!((stream.update().await, ended.revision), (ended, 2002));
    stream.end().await;
    pair.stop().await;
}

#[tokio::test]
async fn token_of_a_job_is_valid_on_the_other_replica() {
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    create(&mut a, "a").await;
    let mut stream = watch(&a, "a").await;
    let first = stream.expect(Event::Snapshot).await.token;
    let reported = report(&mut a, "a").await;
    let second = stream.expect(Event::Update).await.token;
    let mut stream = resume(&b, "a", &first).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    assert_eq!(stream.update().await, reported);

    let mut stream = resume(&b, "a", &second).await;
    let bookmark = stream.expect(Event::Bookmark).await;
    let reported = report(&mut b, "a").await;
    assert_eq!(stream.update().await, reported);
    let mut stream = resume(&a, "a", &bookmark.token).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    assert_eq!(stream.update().await, reported);
    delete(&mut b, "a").await;
    assert_eq!(stream.expect(Event::Removed).await.removal, Removal::Deleted);
    stream.end().await;
    let mut stream = resume(&a, "a", &first).await;
    assert_eq!(stream.expect(Event::Removed).await.removal, Removal::Deleted);
    stream.end().await;
    pair.stop().await;
}

/// The jobs and revisions that the reader of a stream of all jobs knows.
#[derive(Default)]
struct Known {
    revisions: BTreeMap<String, i64>,
    starting_over: bool,
}

impl Known {
    fn take(&mut self, seen: &Seen) {
        if seen.reset && !self.starting_over {
            self.revisions.clear();
        }
        self.starting_over = seen.reset && seen.event == Event::Snapshot;
        if seen.event == Event::Removed {
            self.revisions.remove(seen.id());
        } else if seen.event != Event::Bookmark {
            self.revisions.insert(seen.id().to_owned(), seen.revision());
        }
    }

    fn take_all(&mut self, events: &[Seen]) {
        for seen in events {
            self.take(seen);
        }
    }

    /// Reads until these jobs are known.
    async fn until(&mut self, stream: &mut Watch, expected: &[(&str, i64)]) {
        let expected = expected.iter().map(|&(id, revision)| (id.to_owned(), revision)).collect();
        in_time("the right state", async {
            while self.revisions != expected {
                self.take(&stream.next().await);
            }
        })
        .await;
    }
}

#[tokio::test]
async fn token_of_all_jobs_is_valid_on_the_other_replica() {
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    for id in ["changed", "deleted", "same"] {
        create(&mut a, id).await;
    }
    let mut known = Known::default();
    let events = watch_jobs(&a, WatchJobsRequest::default()).await.until_bookmark().await;
    known.take_all(&events);
    let token = events.last().expect("a bookmark").token.clone();
    report(&mut a, "changed").await;
    delete(&mut b, "deleted").await;
    create(&mut b, "new").await;

    let request = WatchJobsRequest { resume_token: token, ..WatchJobsRequest::default() };
    let mut stream = watch_jobs(&b, request).await;
    let events = stream.until_bookmark().await;
    known.take_all(&events);
    known.until(&mut stream, &[("changed", 2), ("new", 1), ("same", 1)]).await;

    report(&mut a, "new").await;
    delete(&mut a, "changed").await;
    create(&mut b, "deleted").await;
    known.until(&mut stream, &[("deleted", 3), ("new", 2), ("same", 1)]).await;
    pair.stop().await;
}

#[tokio::test]
async fn a_job_deleted_through_one_is_gone_at_the_other() {
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    create(&mut a, "a").await;
    let mut one = watch(&b, "a").await;
    one.expect(Event::Snapshot).await;
    let mut all = watch_jobs(&b, WatchJobsRequest::default()).await;
    all.until_bookmark().await;
    delete(&mut a, "a").await;
    for stream in [&mut one, &mut all] {
        let seen = stream.expect(Event::Removed).await;
        assert_eq!((seen.removal, seen.brief()), (Removal::Deleted, (Event::Removed, "a", 2)));
    }
    one.end().await;
    let gone = b.get_job(read("a")).await.expect_err("it is gone");
    assert_eq!((gone.code(), reason(&gone).as_str()), (Code::NotFound, "JOB_NOT_FOUND"));
    assert_eq!(create(&mut b, "a").await.revision, 3);
    assert_eq!(all.expect(Event::Update).await.brief(), (Event::Update, "a", 3));
    pair.stop().await;
}

#[tokio::test]
async fn a_read_waits_for_a_revision_made_through_the_other() {
    let pair = Pair::start(&[]).await;
    let (mut a, mut b) = pair.clients().await;
    create(&mut a, "a").await;
    for revision in 2..=50 {
        let request = GetJobRequest { min_revision: Some(revision), ..read("a") };
        let (answer, reported) = join!(b.get_job(request), report(&mut a, "a"));
        assert_eq!(answer.expect("it comes in time").into_inner().job, Some(reported));
    }
    let started = Instant::now();
    let request = GetJobRequest { min_revision: Some(51), ..read("a") };
    let missing = b.get_job(request).await.expect_err("it does not come");
    assert_eq!((missing.code(), reason(&missing).as_str()), (Code::Unavailable, "REVISION_NOT_REACHED"));
    assert!(started.elapsed() < Duration::from_secs(5));
    pair.stop().await;
}
