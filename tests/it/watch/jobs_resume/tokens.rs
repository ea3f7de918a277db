//! Tokens: their position, their scope, and those that start over.

use std::collections::BTreeSet;

use jobtrack::{
    proto::v1::{Event, JobFilter, WatchJobsRequest, job::State},
    watch::JobsToken,
};

use super::{
    super::{all, in_state},
    behind, known_by_fence, owned_by, resume, token,
};
use crate::support::{
    Client, Server, create, new_job,
    watching::{Seen, delete, millis, report, watch, watch_jobs},
};

#[tokio::test]
async fn token_does_not_skip_delayed_updates() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["held", "other"] {
        create(&mut client, id).await;
        report(&mut client, id).await;
    }
    let paced = WatchJobsRequest { min_interval: millis(3_600_000), bookmark_interval: millis(1000), ..all() };
    let mut stream = watch_jobs(&client, paced.clone()).await;
    stream.until_bookmark().await;
    report(&mut client, "held").await;
    assert_eq!(stream.update().await.id, "held");
    let newest = report(&mut client, "held").await;
    report(&mut client, "other").await;
    let by_event = stream.expect(Event::Update).await;
    assert_eq!(by_event.id(), "other");
    let by_bookmark = stream.expect(Event::Bookmark).await;
    for (number, token) in [by_event.token, by_bookmark.token].iter().enumerate() {
        let mut stream = resume(&client, token, &paced).await;
        let known = known_by_fence(&mut stream, &mut client, new_job(&format!("fence-{number}"))).await;
        assert_eq!(known.get("held").map(Seen::job), Some(&newest));
    }
    server.stop().await;
}

#[tokio::test]
async fn token_is_bound_to_the_scope_and_not_to_its_spelling() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let ids = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
    let filter = |states: &[State]| in_state(states).filter;
    let request =
        WatchJobsRequest { job_ids: ids(&["a", "b"]), filter: filter(&[State::Pending, State::Running]), ..all() };
    let own = token(&client, &request).await;
    let same = WatchJobsRequest {
        job_ids: ids(&["b", "a", "b"]),
        filter: filter(&[State::Running, State::Pending]),
        min_interval: millis(5),
        ..all()
    };
    resume(&client, &own, &same).await;
    let unfiltered = token(&client, &all()).await;
    resume(&client, &unfiltered, &WatchJobsRequest { filter: Some(JobFilter::default()), ..all() }).await;

    for other in [
        WatchJobsRequest { job_ids: ids(&["a"]), ..request.clone() },
        WatchJobsRequest { job_ids: ids(&[]), ..request.clone() },
        WatchJobsRequest { filter: None, ..request.clone() },
        WatchJobsRequest { filter: filter(&[State::Pending]), ..request.clone() },
    ] {
        assert_starts_over(&client, &own, &other, &["a"]).await;
    }
    server.stop().await;
}

async fn assert_starts_over(client: &Client, token: &str, request: &WatchJobsRequest, expected: &[&str]) {
    let mut stream = watch_jobs(client, behind(token, request)).await;
    let mut events = stream.until_bookmark().await;
    assert!(events.iter().all(|seen| seen.reset), "{token:?}: {events:?}");
    events.pop();
    assert!(events.iter().all(|seen| seen.event == Event::Snapshot), "{token:?}: {events:?}");
    let found: BTreeSet<_> = events.iter().map(Seen::id).collect();
    assert_eq!(found, expected.iter().copied().collect(), "{token:?}");
}

#[tokio::test]
async fn a_token_that_cannot_be_honoured_starts_over() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    for id in ["a", "b"] {
        create(&mut client, id).await;
        create(&mut elsewhere, id).await;
    }
    let own = token(&client, &all()).await;
    let decoded = JobsToken::decode(&own).expect("a token can be decoded");
    let position = decoded.position.expect("it is behind the snapshots");
    let before_the_bookmark = watch_jobs(&client, all()).await.expect(Event::Snapshot).await.token;
    for token in [
        token(&elsewhere, &all()).await,
        before_the_bookmark,
        watch(&client, "a").await.expect(Event::Snapshot).await.token,
        JobsToken { position: Some(position + 1), ..decoded.clone() }.encode(),
        JobsToken { position: Some(u64::MAX), ..decoded.clone() }.encode(),
        JobsToken { epoch: decoded.epoch.wrapping_add(1), ..decoded }.encode(),
        own[..own.len() - 1].to_owned(),
        format!("{own} "),
        "\u{0}".to_owned(),
        "...".to_owned(),
        "x".repeat(100_000),
    ] {
        assert_starts_over(&client, &token, &all(), &["a", "b"]).await;
    }
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn bookmark_advances_with_changes_of_other_jobs() {
    let server = Server::with(&["--max-memory-jobs", "2"]).await;
    let mut client = server.client().await;
    let request = WatchJobsRequest { bookmark_interval: millis(1000), ..owned_by("us") };
    let mut stream = watch_jobs(&client, request.clone()).await;
    let old = stream.until_bookmark().await.pop().expect("a bookmark").token;
    for id in ["a", "b", "c", "d"] {
        create(&mut client, id).await;
        delete(&mut client, id).await;
    }
    let fresh = stream.until_bookmark().await.pop().expect("a bookmark").token;
    for (token, reset) in [(fresh, false), (old, true)] {
        let mut resumed = watch_jobs(&client, WatchJobsRequest { resume_token: token, ..request.clone() }).await;
        let first = resumed.until_bookmark().await.pop().expect("a bookmark");
        assert_eq!(first.reset, reset, "of four tombstones two are left");
    }
    server.stop().await;
}
