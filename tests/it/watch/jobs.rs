//! The stream of many jobs: its scope, and its events.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use jobtrack::proto::v1::{
    CreateJobRequest, Event, JobFilter, PurgeJobsRequest, Removal, WatchJobsRequest, job::State,
};
use tonic::Code;

use super::{all, in_state};
use crate::support::{
    Client, Server,
    clocks::TestClock,
    create, new_job, owned, reason,
    watching::{Seen, Watch, cancel, complete, delete, fail, make, millis, report, try_watch_jobs, watch_jobs},
};

fn only(ids: &[&str]) -> WatchJobsRequest {
    WatchJobsRequest { job_ids: ids.iter().map(ToString::to_string).collect(), ..all() }
}

fn matching(filter: JobFilter) -> WatchJobsRequest {
    WatchJobsRequest { filter: Some(filter), ..all() }
}

/// Watches. Returns the stream, and the ids of the snapshots. Fails unless these come first, each once.
async fn watch_on(client: &Client, request: WatchJobsRequest) -> (Watch, BTreeSet<String>) {
    let mut stream = watch_jobs(client, request).await;
    let mut events = stream.until_bookmark().await;
    let bookmark = events.pop().expect("a bookmark");
    assert!(!bookmark.reset);
    assert!(events.iter().all(|seen| seen.event == Event::Snapshot && !seen.reset), "{events:?}");
    let ids: BTreeSet<_> = events.iter().map(|seen| seen.id().to_owned()).collect();
    assert_eq!(ids.len(), events.len());
    (stream, ids)
}

fn ids(expected: &[&str]) -> BTreeSet<String> {
    expected.iter().map(ToString::to_string).collect()
}

/// Creates the job `fence`. Returns the events before the one of that job.
async fn up_to_fence(stream: &mut Watch, client: &mut Client, fence: CreateJobRequest) -> Vec<Seen> {
    let id = make(client, fence).await.id;
    let mut events = stream.until_job(&id).await;
    events.pop();
    events
}

#[tokio::test]
async fn stream_sends_snapshots_then_a_bookmark_then_changes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (mut stream, found) = watch_on(&client, all()).await;
    assert_eq!(found, ids(&[]));
    let a = create(&mut client, "a").await;
    assert_eq!(stream.update().await, a);
    let b = create(&mut client, "b").await;
    assert_eq!(stream.update().await, b);
    report(&mut client, "b").await;
    stream.update().await;
    let ended = complete(&mut client, "b").await;
    assert_eq!(stream.update().await, ended);

    // An empty filter is the same as none.
    let (mut second, found) = watch_on(&client, matching(JobFilter::default())).await;
    assert_eq!(found, ids(&["a", "b"]));
    delete(&mut client, "b").await;
    for stream in [&mut stream, &mut second] {
        let removed = stream.expect(Event::Removed).await;
        assert_eq!((removed.id(), removed.revision(), removed.removal), ("b", 4, Removal::Deleted));
        assert_eq!(removed.state(), State::Succeeded);
    }
    // The stream continues, although no job of its snapshot is left.
    delete(&mut client, "a").await;
    stream.expect(Event::Removed).await;
    let c = create(&mut client, "c").await;
    assert_eq!(stream.update().await, c);
    server.stop().await;
}

#[tokio::test]
async fn stream_by_ids_waits_for_missing_jobs() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "other"] {
        create(&mut client, id).await;
    }
    let (mut stream, found) = watch_on(&client, only(&["a", "a", "later", "never"])).await;
    assert_eq!(found, ids(&["a"]));
    report(&mut client, "other").await;
    create(&mut client, "another").await;
    let later = create(&mut client, "later").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&later, 0));

    // The stream waits again for a job that is deleted.
    delete(&mut client, "later").await;
    stream.expect(Event::Removed).await;
    let again = create(&mut client, "later").await;
    assert_eq!((again.revision, stream.update().await), (3, again));
    server.stop().await;
}

#[tokio::test]
async fn filter_requires_all_its_criteria() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let labelled = |id: &str, owner: &str, kind: &str, size: &str| CreateJobRequest {
        kind: kind.into(),
        labels: [("size".to_owned(), size.to_owned()), ("colour".to_owned(), "red".to_owned())].into(),
        ..owned(id, owner)
    };
    let filter = JobFilter {
        owner: "us".into(),
        kind: "video".into(),
        labels: [("size".to_owned(), "big".to_owned())].into(),
        ..JobFilter::default()
    };
    for round in ["1", "2"] {
        let name = |name: &str| format!("{name}-{round}");
        let (mut stream, _) = watch_on(&client, matching(filter.clone())).await;
        make(&mut client, labelled(&name("owner"), "them", "video", "big")).await;
        make(&mut client, labelled(&name("kind"), "us", "audio", "big")).await;
        make(&mut client, labelled(&name("label"), "us", "video", "small")).await;
        make(&mut client, CreateJobRequest { kind: "video".into(), ..owned(&name("bare"), "us") }).await;
        let fence = labelled(&name("match"), "us", "video", "big");
        assert_eq!(up_to_fence(&mut stream, &mut client, fence).await, []);
    }
    let (_, found) = watch_on(&client, matching(filter)).await;
    assert_eq!(found, ids(&["match-1", "match-2"]));
    server.stop().await;
}

#[tokio::test]
async fn ids_and_filter_are_both_required() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, owned("a", "us")).await;
    make(&mut client, owned("b", "them")).await;
    make(&mut client, owned("c", "us")).await;
    let filter = Some(JobFilter { owner: "us".into(), ..JobFilter::default() });
    let request = WatchJobsRequest { filter, ..only(&["a", "b", "d", "e"]) };
    let (mut stream, found) = watch_on(&client, request).await;
    assert_eq!(found, ids(&["a"]));
    for id in ["b", "c"] {
        report(&mut client, id).await;
    }
    make(&mut client, owned("d", "them")).await;
    assert_eq!(up_to_fence(&mut stream, &mut client, owned("e", "us")).await, []);
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_starts_to_match_comes_as_an_update() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let (mut stream, found) = watch_on(&client, in_state(&[State::Running, State::Failed])).await;
    assert_eq!(found, ids(&[]));
    let running = report(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&running, 0));
    let failed = fail(&mut client, "a").await;
    assert_eq!(stream.update().await, failed);
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_stops_matching_comes_once_more_and_never_again() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        create(&mut client, id).await;
    }
    let (mut stream, found) = watch_on(&client, in_state(&[State::Pending])).await;
    assert_eq!(found, ids(&["a", "b"]));
    let running = report(&mut client, "a").await;
    assert_eq!(stream.update().await, running);
    let ended = complete(&mut client, "b").await;
    assert_eq!(stream.update().await, ended);

    report(&mut client, "a").await;
    cancel(&mut client, "a", false).await;
    assert_eq!(up_to_fence(&mut stream, &mut client, new_job("fence-1")).await, []);
    cancel(&mut client, "a", true).await;
    assert_eq!(up_to_fence(&mut stream, &mut client, new_job("fence-2")).await, []);
    for id in ["a", "b"] {
        delete(&mut client, id).await;
    }
    assert_eq!(up_to_fence(&mut stream, &mut client, new_job("fence-3")).await, []);

    // Created again, it matches again.
    let anew = create(&mut client, "a").await;
    assert_eq!(stream.update().await, anew);
    server.stop().await;
}

#[tokio::test]
async fn a_job_may_match_again_after_it_did_not() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let (mut stream, _) = watch_on(&client, in_state(&[State::Pending, State::Succeeded])).await;
    assert_eq!((report(&mut client, "a").await.revision, stream.update().await.revision), (2, 2));
    for _ in 0..3 {
        report(&mut client, "a").await;
    }
    let ended = complete(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&ended, 3));
    delete(&mut client, "a").await;
    assert_eq!(stream.expect(Event::Removed).await.revision(), ended.revision + 1);
    server.stop().await;
}

#[tokio::test]
async fn a_purge_is_a_deletion_and_an_expiry_is_not() {
    let clock = Arc::new(TestClock::new());
    let server = Server::with_clock(&["--ttl-succeeded", "1h", "--ttl-active", "1h"], clock.clone()).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    let (mut stream, _) = watch_on(&client, all()).await;
    for id in ["purged", "expired", "abandoned"] {
        create(&mut client, id).await;
        stream.update().await;
    }
    for id in ["purged", "expired"] {
        complete(&mut client, id).await;
        stream.update().await;
        if id == "purged" {
            let answer = admin.purge_jobs(PurgeJobsRequest::default()).await.expect("it can be purged");
            assert_eq!(answer.into_inner().purged_count, 1);
            let removed = stream.expect(Event::Removed).await;
            assert_eq!((removed.id(), removed.removal, removed.skipped), (id, Removal::Deleted, 0));
        }
    }
    clock.advance(Duration::from_secs(3601));
    let mut expired = BTreeSet::new();
    for _ in 0..2 {
        let removed = stream.expect(Event::Removed).await;
        assert_eq!((removed.removal, removed.skipped), (Removal::Expired, 0));
        expired.insert(removed.id().to_owned());
    }
    assert_eq!(expired, ids(&["expired", "abandoned"]));
    server.stop().await;
}

#[tokio::test]
async fn evicted_job_is_removed_as_expired() {
    let server = Server::with(&["--max-memory-jobs", "2"]).await;
    let mut client = server.client().await;
    let (mut stream, _) = watch_on(&client, all()).await;
    for id in ["a", "b"] {
        create(&mut client, id).await;
        stream.update().await;
    }
    complete(&mut client, "a").await;
    stream.update().await;
    create(&mut client, "c").await;
    let removed = stream.expect(Event::Removed).await;
    assert_eq!((removed.id(), removed.removal, removed.revision()), ("a", Removal::Expired, 3));
    assert_eq!(stream.update().await.id, "c");

    server.stop().await;
}

#[tokio::test]
async fn stream_does_not_reuse_the_revisions_of_an_evicted_job() {
    let server = Server::with(&["--max-memory-jobs", "1"]).await;
    let mut client = server.client().await;
    let (mut stream, _) = watch_on(&client, all()).await;
    create(&mut client, "a").await;
    complete(&mut client, "a").await;
    create(&mut client, "b").await;
    complete(&mut client, "b").await;
    create(&mut client, "a").await;
    // The laws of streams require rising revisions, or a reset.
    stream.until(|seen| seen.id() == "a" && seen.event == Event::Removed).await;
    stream.until_job("a").await;
    server.stop().await;
}

#[tokio::test]
async fn skipped_revisions_are_counted_for_each_job() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        create(&mut client, id).await;
        report(&mut client, id).await;
    }
    let hour = millis(3_600_000);
    let (mut stream, _) = watch_on(&client, WatchJobsRequest { min_interval: hour, ..all() }).await;
    report(&mut client, "a").await;
    assert_eq!(stream.update().await.revision, 3);
    // Delayed events of one job do not delay those of another.
    report(&mut client, "a").await;
    report(&mut client, "a").await;
    report(&mut client, "b").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.brief(), seen.skipped), ((Event::Update, "b", 3), 0));
    report(&mut client, "b").await;
    cancel(&mut client, "b", false).await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.brief(), seen.skipped), ((Event::Update, "b", 5), 1));
    complete(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.brief(), seen.skipped), ((Event::Update, "a", 6), 2));
    report(&mut client, "b").await;
    delete(&mut client, "b").await;
    let seen = stream.expect(Event::Removed).await;
    assert_eq!((seen.brief(), seen.skipped), ((Event::Removed, "b", 7), 1));
    server.stop().await;
}

#[tokio::test]
async fn delayed_updates_of_many_jobs_come_after_the_interval() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let names: Vec<_> = (0..20).map(|number| format!("a-{number}")).collect();
    let (mut stream, _) = watch_on(&client, WatchJobsRequest { min_interval: millis(300), ..all() }).await;
    for _ in 0..4 {
        for name in &names {
            if client.create_job(new_job(name)).await.is_err() {
                report(&mut client, name).await;
            }
        }
    }
    let mut behind: BTreeSet<_> = names.into_iter().collect();
    while !behind.is_empty() {
        let seen = stream.expect(Event::Update).await;
        if seen.revision() == 4 {
            behind.remove(seen.id());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn more_than_a_thousand_ids_are_refused() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let names: Vec<_> = (0..1001).map(|number| format!("a-{number}")).collect();
    let request = WatchJobsRequest { job_ids: names.clone(), ..all() };
    let Err(status) = try_watch_jobs(&client, request).await else { panic!("it is accepted") };
    assert_eq!((status.code(), reason(&status)), (Code::InvalidArgument, "INVALID_FIELD".to_owned()));
    let (mut stream, _) = watch_on(&client, WatchJobsRequest { job_ids: names[..1000].to_vec(), ..all() }).await;
    create(&mut client, "a-1000").await;
    create(&mut client, "a-999").await;
    assert_eq!(stream.update().await.id, "a-999");
    server.stop().await;
}

#[tokio::test]
async fn snapshots_of_many_jobs_come_in_pages_and_miss_none() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let names: BTreeSet<_> = (0..1234).map(|number| format!("a-{number}")).collect();
    for name in &names {
        create(&mut client, name).await;
    }
    let (_, found) = watch_on(&client, all()).await;
    assert_eq!(found, names);
    let (_, found) = watch_on(&client, in_state(&[State::Pending, State::Running])).await;
    assert_eq!(found, names);
    let thousand: BTreeSet<_> = names.iter().take(1000).cloned().collect();
    let (_, found) = watch_on(&client, WatchJobsRequest { job_ids: thousand.iter().cloned().collect(), ..all() }).await;
    assert_eq!(found, thousand);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_stream_of_many_jobs_sends_bookmarks_and_draining_ends_it() {
    let server = Server::start().await;
    let client = server.client().await;
    let (mut stream, _) = watch_on(&client, WatchJobsRequest { bookmark_interval: millis(1000), ..all() }).await;
    for _ in 0..2 {
        assert!(!stream.expect(Event::Bookmark).await.reset);
    }
    server.begin_stop();
    let status = stream.outcome().await.expect("an error").expect_err("no event");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "SERVER_DRAINING".to_owned()));
    server.stop().await;
}
