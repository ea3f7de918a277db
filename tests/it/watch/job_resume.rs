//! The stream of one job, resumed with a token.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    domain::{ChangeId, TOMBSTONE_LIFE},
    proto::v1::{CreateJobRequest, Event, GetJobRequest, Removal, WatchJobRequest, WatchJobsRequest, job::State},
    watch::JobToken,
};
use tonic::Code;

use crate::support::{
    Client, Server,
    clocks::TestClock,
    create, new_job,
    watching::{
        about, assert_not_found, complete, delete, make, millis, report, resume, try_watch_job, watch, watch_job,
        watch_jobs,
    },
};

/// Returns a token of the current version of a job.
async fn token(client: &Client, id: &str) -> String {
    watch(client, id).await.expect(Event::Snapshot).await.token
}

/// Waits until callers no longer see the job.
async fn gone(client: &mut Client, id: &str) {
    let request = GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() };
    while let Ok(answer) = client.get_job(request.clone()).await {
        assert!(answer.into_inner().job.is_some_and(|job| job.expire_time.is_some()), "it is kept");
    }
}

#[tokio::test]
async fn resumed_stream_sends_a_bookmark_and_then_only_newer_versions() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let token = token(&client, "a").await;
    let mut stream = resume(&client, "a", &token).await;
    let bookmark = stream.expect(Event::Bookmark).await;
    assert!(!bookmark.reset);
    let reported = report(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&reported, 0));

    // The missed revisions are one update, counted from the token, however often it is used.
    for _ in 0..4 {
        report(&mut client, "a").await;
    }
    let newest = report(&mut client, "a").await;
    for token in [&token, &bookmark.token] {
        let mut stream = resume(&client, "a", token).await;
        stream.expect(Event::Bookmark).await;
        let seen = stream.expect(Event::Update).await;
        assert_eq!((seen.job(), seen.skipped), (&newest, 5));
    }
    server.stop().await;
}

#[tokio::test]
async fn interval_does_not_delay_missed_updates() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let token = token(&client, "a").await;
    let running = report(&mut client, "a").await;
    let request = WatchJobRequest { min_interval: millis(3_600_000), ..about("a", &token) };
    let mut stream = watch_job(&client, request).await;
    stream.expect(Event::Bookmark).await;
    assert_eq!(stream.update().await, running);
    report(&mut client, "a").await;
    let ended = complete(&mut client, "a").await;
    assert_eq!(stream.update().await, ended);
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn resumed_stream_sends_only_an_end_that_was_missed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let before = token(&client, "a").await;
    let ended = complete(&mut client, "a").await;
    let mut stream = resume(&client, "a", &before).await;
    stream.expect(Event::Bookmark).await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&ended, 0));
    stream.end().await;

    let mut stream = resume(&client, "a", &seen.token).await;
    let bookmark = stream.expect(Event::Bookmark).await;
    stream.end().await;
    let mut stream = resume(&client, "a", &bookmark.token).await;
    stream.expect(Event::Bookmark).await;
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn a_token_that_cannot_be_honoured_starts_over() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["a", "b", "ended"] {
        create(&mut client, id).await;
        create(&mut elsewhere, id).await;
    }
    report(&mut client, "a").await;
    complete(&mut client, "ended").await;

    let own = token(&client, "a").await;
    let decoded = JobToken::decode(&own).expect("a token can be decoded");
    let change_id = ChangeId { counter: decoded.change_id.counter + 1, ..decoded.change_id };
    let tokens = [
        token(&client, "b").await,
        token(&elsewhere, "a").await,
        JobToken { revision: decoded.revision + 1, ..decoded.clone() }.encode(),
        JobToken { revision: i64::MAX, ..decoded.clone() }.encode(),
        JobToken { epoch: decoded.epoch.wrapping_add(1), ..decoded.clone() }.encode(),
        JobToken { change_id, ..decoded }.encode(),
        watch_jobs(&client, WatchJobsRequest::default()).await.until_bookmark().await.remove(0).token,
        own[..own.len() - 1].to_owned(),
        format!("{own} "),
        "\u{0}".to_owned(),
        "ünlesbar".to_owned(),
        "....".to_owned(),
        "-1.-1.-1.-1.a".to_owned(),
        "x".repeat(100_000),
    ];
    for token in &tokens {
        for id in ["a", "ended"] {
            let mut stream = resume(&client, id, token).await;
            let seen = stream.expect(Event::Snapshot).await;
            assert!(seen.reset, "{token:?}");
            assert_eq!((seen.id(), seen.revision()), (id, 2));
            if id == "ended" {
                stream.end().await;
            }
        }
    }

    // After that it is a stream like any other.
    let mut stream = resume(&client, "a", "nonsense").await;
    stream.expect(Event::Snapshot).await;
    let reported = report(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped, seen.reset), (&reported, 0, false));
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_job_deleted_since_is_removed() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let first = token(&client, "a").await;
    report(&mut client, "a").await;
    complete(&mut client, "a").await;
    let ended = token(&client, "a").await;
    delete(&mut client, "a").await;
    for (token, skipped) in [(&first, 2), (&ended, 0)] {
        let mut stream = resume(&client, "a", token).await;
        let removed = stream.expect(Event::Removed).await;
        assert_eq!((removed.removal, removed.skipped, removed.revision()), (Removal::Deleted, skipped, 4));
        assert_eq!(removed.state(), State::Succeeded);
        stream.end().await;
        // The subscriber is up to date, which is neither an error nor a reason to start over.
        for seen in resume(&client, "a", &removed.token).await.rest().await {
            assert!(matches!(seen.event, Event::Bookmark | Event::Removed), "{seen:?}");
        }
    }
    assert_not_found(&client, "a", "nonsense").await;
    create(&mut client, "b").await;
    let others = token(&client, "b").await;
    assert_not_found(&client, "a", &others).await;
    server.stop().await;
}

#[tokio::test]
async fn a_job_expired_since_is_removed() {
    let server = Server::with(&["--ttl-succeeded", "1ms"]).await;
    let mut client = server.client().await;
    create(&mut client, "by-the-server").await;
    make(&mut client, CreateJobRequest { retention: millis(1), ..new_job("by-its-own") }).await;
    for id in ["by-the-server", "by-its-own"] {
        let first = token(&client, id).await;
        complete(&mut client, id).await;
        gone(&mut client, id).await;
        let mut stream = resume(&client, id, &first).await;
        let removed = stream.expect(Event::Removed).await;
        assert_eq!((removed.removal, removed.skipped, removed.revision()), (Removal::Expired, 1, 3));
        stream.end().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn expired_job_is_removed_before_it_is_swept() {
    let clock = Arc::new(TestClock::new());
    let server = Server::with_clock(&["--ttl-active", "1h"], clock.clone()).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let token = token(&client, "a").await;
    clock.advance(Duration::from_secs(3601));
    let mut stream = resume(&client, "a", &token).await;
    assert_eq!(stream.expect(Event::Removed).await.removal, Removal::Expired);
    stream.end().await;
    assert_not_found(&client, "a", "").await;
    server.stop().await;
}

#[tokio::test]
async fn stream_of_a_recreated_job_resumes_from_the_token() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let first = token(&client, "a").await;
    delete(&mut client, "a").await;
    let anew = create(&mut client, "a").await;
    assert_eq!(anew.revision, 4);
    let mut stream = resume(&client, "a", &first).await;
    stream.expect(Event::Bookmark).await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&anew, 1));
    let ended = complete(&mut client, "a").await;
    assert_eq!(stream.update().await, ended);
    stream.end().await;

    let mut stream = resume(&client, "a", &first).await;
    stream.expect(Event::Bookmark).await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&ended, 2));
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn token_older_than_the_tombstone_starts_over() {
    let clock = Arc::new(TestClock::new());
    let server = Server::with_clock(&[], clock.clone()).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let old = token(&client, "a").await;
    delete(&mut client, "a").await;
    clock.advance(TOMBSTONE_LIFE.saturating_sub(Duration::from_secs(1)));
    resume(&client, "a", &old).await.expect(Event::Removed).await;
    clock.advance(Duration::from_secs(2));
    loop {
        match try_watch_job(&client, about("a", &old)).await {
            Ok(mut stream) => _ = stream.expect(Event::Removed).await,
            Err(status) => break assert_eq!(status.code(), Code::NotFound),
        }
    }
    assert_eq!(create(&mut client, "a").await.revision, 1);
    let mut stream = resume(&client, "a", &old).await;
    assert!(stream.expect(Event::Snapshot).await.reset, "the token is of the future");
    report(&mut client, "a").await;
    let mut stream = resume(&client, "a", &old).await;
    assert!(stream.expect(Event::Snapshot).await.reset, "the token is of another job's version");
    server.stop().await;
}
