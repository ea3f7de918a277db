//! Subscribers that do not read.

use std::collections::BTreeSet;

use jobtrack::proto::v1::{CreateJobRequest, Event, JobFilter, Removal, WatchJobsRequest, job::State};
use tokio::task::JoinSet;

use super::all;
use crate::support::{
    Client, Server, create, new_job,
    watching::{Seen, clog, complete, delete, large, make, narrow, report, watch, watch_jobs},
};

/// Reported in much less than the minute for which a reader may read nothing.
const UPDATES: usize = 2_000;

/// Reports this many times, over several connections.
async fn report_often(server: &Server, id: &'static str, times: usize) {
    let mut tasks = JoinSet::new();
    for _ in 0..8 {
        let mut client = server.client().await;
        tasks.spawn(async move {
            for _ in 0..times / 8 {
                report(&mut client, id).await;
            }
        });
    }
    tasks.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_does_not_read_delays_nobody_and_gets_the_end() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, large("a")).await;
    let slow_client = narrow(&server).await;
    let mut slow = watch(&slow_client, "a").await;
    let slow_jobs_client = narrow(&server).await;
    let mut slow_jobs = watch_jobs(&slow_jobs_client, all()).await;
    let eager_client = server.client().await;
    let mut eager = watch(&eager_client, "a").await;
    let mut eager_jobs = watch_jobs(&eager_client, all()).await;
    let eager = tokio::spawn(async move { eager.rest().await.pop() });
    let eager_jobs = tokio::spawn(async move {
        eager_jobs.until(|seen| seen.job.as_ref().is_some_and(|job| job.state() == State::Succeeded)).await.pop()
    });

    report_often(&server, "a", UPDATES).await;
    let ended = complete(&mut client, "a").await;
    assert_eq!(ended.revision, i64::try_from(UPDATES).expect("not that many") + 2);
    for last in [eager.await, eager_jobs.await] {
        assert_eq!(last.expect("it does not fail").expect("it got something").job(), &ended);
    }

    let events = slow.rest().await;
    assert_eq!(events.last().expect("an end").job(), &ended);
    assert!(events.len() < 100, "{} events were kept for a subscriber that did not read", events.len());
    let events = slow_jobs.until(|seen| seen.job.as_ref().is_some_and(|job| job.state() == State::Succeeded)).await;
    assert_eq!(events.last().expect("an end").job(), &ended);
    assert!(events.len() < 100, "{} events were kept for a subscriber that did not read", events.len());
    server.stop().await;
}

/// Fills a narrow connection with the stream of the job `a`.
async fn clog_job(client: &mut Client) {
    for _ in 0..40 {
        report(client, "a").await;
    }
}

#[tokio::test]
async fn unread_end_and_deletion_are_sent_as_the_end() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for anew in [false, true] {
        make(&mut client, large("a")).await;
        let mut stream = watch(&narrow(&server).await, "a").await;
        clog_job(&mut client).await;
        let ended = complete(&mut client, "a").await;
        delete(&mut client, "a").await;
        if anew {
            create(&mut client, "a").await;
            report(&mut client, "a").await;
        }
        let events = stream.rest().await;
        let last = events.last().expect("an end");
        assert_eq!((last.event, last.job()), (Event::Update, &ended));
        assert!(events.len() < 40, "it was not slow");
    }
    server.stop().await;
}

#[tokio::test]
async fn unread_deletion_and_recreation_are_sent_as_a_removal() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, large("a")).await;
    let mut stream = watch(&narrow(&server).await, "a").await;
    clog_job(&mut client).await;
    delete(&mut client, "a").await;
    let anew = create(&mut client, "a").await;
    complete(&mut client, "a").await;
    delete(&mut client, "a").await;
    let last = stream.rest().await.pop().expect("an end");
    assert_eq!((last.brief(), last.removal), ((Event::Removed, "a", anew.revision - 1), Removal::Deleted));
    server.stop().await;
}

#[tokio::test]
async fn unread_end_and_deletion_are_both_sent_in_a_stream_of_many_jobs() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch_jobs(&narrow(&server).await, all()).await;
    stream.until_bookmark().await;
    clog(&mut client).await;
    report(&mut client, "a").await;
    report(&mut client, "a").await;
    let ended = complete(&mut client, "a").await;
    delete(&mut client, "a").await;
    let seen = stream.until_job("a").await.pop().expect("an event");
    assert_eq!((seen.event, seen.job(), seen.skipped), (Event::Update, &ended, 2));
    let removed = stream.until_job("a").await.pop().expect("an event");
    assert_eq!((removed.brief(), removed.skipped), ((Event::Removed, "a", ended.revision + 1), 0));
    server.stop().await;
}

#[tokio::test]
async fn a_token_between_an_end_and_a_removal_brings_the_removal() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch_jobs(&narrow(&server).await, all()).await;
    stream.until_bookmark().await;
    clog(&mut client).await;
    complete(&mut client, "a").await;
    delete(&mut client, "a").await;
    create(&mut client, "b").await;
    let ended = stream.until_job("a").await.pop().expect("an event");
    assert_eq!(ended.brief(), (Event::Update, "a", 2));
    drop(stream);

    let mut stream = watch_jobs(&client, WatchJobsRequest { resume_token: ended.token, ..all() }).await;
    stream.expect(Event::Bookmark).await;
    create(&mut client, "fence").await;
    let events = stream.until_job("fence").await;
    let brief: Vec<_> = events.iter().map(Seen::brief).collect();
    assert!(brief.contains(&(Event::Removed, "a", 3)), "the removal behind the token is lost: {brief:?}");
    server.stop().await;
}

#[tokio::test]
async fn unread_end_of_a_job_recreated_for_another_owner_is_sent() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let owned = |id: &str, owner: &str| CreateJobRequest { owner: owner.into(), ..new_job(id) };
    make(&mut client, owned("a", "us")).await;
    let filter = Some(JobFilter { owner: "us".into(), ..JobFilter::default() });
    let mut stream = watch_jobs(&narrow(&server).await, WatchJobsRequest { filter, ..all() }).await;
    stream.until_bookmark().await;
    for number in 0..40 {
        make(&mut client, CreateJobRequest { owner: "us".into(), ..large(&format!("clog-{number}")) }).await;
    }
    complete(&mut client, "a").await;
    delete(&mut client, "a").await;
    make(&mut client, owned("a", "them")).await;
    make(&mut client, owned("fence", "us")).await;
    let events = stream.until_job("fence").await;
    let of_a: Vec<_> = events.iter().filter(|seen| seen.id() == "a").collect();
    assert_eq!(of_a.first().map(|seen| seen.brief()), Some((Event::Update, "a", 2)));
    let gone = of_a.iter().any(|seen| seen.event == Event::Removed || seen.job().owner == "them");
    assert!(gone, "the subscriber still believes that its job is there: {of_a:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_too_far_behind_is_caught_up() {
    const JOBS: usize = 11_000;
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "before").await;
    let mut stream = watch_jobs(&narrow(&server).await, all()).await;
    stream.until_bookmark().await;
    clog(&mut client).await;
    let mut tasks = JoinSet::new();
    for part in 0..8 {
        let mut client = server.client().await;
        tasks.spawn(async move {
            for number in 0..JOBS / 8 {
                create(&mut client, &format!("a-{part}-{number}")).await;
            }
        });
    }
    tasks.join_all().await;
    delete(&mut client, "before").await;

    create(&mut client, "fence").await;

    let events = stream.until_job("fence").await;
    assert!(events.iter().all(|seen| !seen.reset), "the store knows what came meanwhile");
    let of = |event| events.iter().filter(move |seen| seen.event == event).map(Seen::id).collect::<BTreeSet<_>>();
    assert_eq!(of(Event::Removed), ["before"].into());
    let updated = of(Event::Update);
    assert_eq!(updated.len(), JOBS + 40 + 1, "each new job, and the fence");
    assert_eq!(events.iter().filter(|seen| seen.event == Event::Update).count(), updated.len(), "each of them once");
    server.stop().await;
}
