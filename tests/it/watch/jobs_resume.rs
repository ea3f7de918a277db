//! The stream of many jobs, resumed with a token.

use std::collections::{BTreeMap, BTreeSet};

use jobtrack::{
    proto::v1::{CreateJobRequest, Event, FailJobRequest, Failure, JobFilter, Removal, WatchJobsRequest, job::State},
    watch::JobsToken,
};

use crate::support::{
    Client, Server, create, new_job,
    watching::{Seen, Watch, cancel, complete, delete, large, make, millis, report, watch, watch_jobs},
};

fn all() -> WatchJobsRequest {
    WatchJobsRequest::default()
}

fn in_state(states: &[State]) -> WatchJobsRequest {
    let states = states.iter().map(|state| *state as i32).collect();
    WatchJobsRequest { filter: Some(JobFilter { states, ..JobFilter::default() }), ..all() }
}

fn owned_by(owner: &str) -> WatchJobsRequest {
    WatchJobsRequest { filter: Some(JobFilter { owner: owner.into(), ..JobFilter::default() }), ..all() }
}

fn behind(token: &str, request: &WatchJobsRequest) -> WatchJobsRequest {
    WatchJobsRequest { resume_token: token.to_owned(), ..request.clone() }
}

/// Returns the token of the bookmark after the snapshots.
async fn token(client: &Client, request: &WatchJobsRequest) -> String {
    let mut events = watch_jobs(client, request.clone()).await.until_bookmark().await;
    events.pop().expect("a bookmark").token
}

/// Resumes, and reads the bookmark.
async fn resume(client: &Client, token: &str, request: &WatchJobsRequest) -> Watch {
    let mut stream = watch_jobs(client, behind(token, request)).await;
    assert!(!stream.expect(Event::Bookmark).await.reset);
    stream
}

/// Creates the job `fence`. Returns the last event of each job before the one of that job.
async fn known_by_fence(stream: &mut Watch, client: &mut Client, fence: CreateJobRequest) -> BTreeMap<String, Seen> {
    let id = make(client, fence).await.id;
    let mut events = stream.until_job(&id).await;
    events.pop();
    events.into_iter().map(|seen| (seen.id().to_owned(), seen)).collect()
}

#[tokio::test]
async fn resumed_stream_sends_a_bookmark_and_then_changes_since() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["same", "changed", "deleted", "anew", "ended"] {
        create(&mut client, id).await;
    }
    let token = token(&client, &all()).await;
    for id in ["changed", "deleted", "anew"] {
        report(&mut client, id).await;
    }
    for id in ["deleted", "anew"] {
        delete(&mut client, id).await;
    }
    for id in ["anew", "created"] {
        create(&mut client, id).await;
    }
    complete(&mut client, "ended").await;

    for _ in 0..2 {
        let mut stream = resume(&client, &token, &all()).await;
        let fence = new_job(&format!("fence-{}", uuid::Uuid::new_v4()));
        let mut known = known_by_fence(&mut stream, &mut client, fence).await;
        known.retain(|id, _| !id.starts_with("fence"));
        let brief: Vec<_> = known.values().map(Seen::brief).collect();
        assert_eq!(
            brief,
            [
                (Event::Update, "anew", 4),
                (Event::Update, "changed", 2),
                (Event::Update, "created", 1),
                (Event::Removed, "deleted", 3),
                (Event::Update, "ended", 2),
            ]
        );
        assert_eq!(known["deleted"].removal, Removal::Deleted);
    }
    server.stop().await;
}

#[tokio::test]
async fn resumed_stream_catches_up_with_more_than_a_page_of_changes() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let names: BTreeSet<_> = (1000..2234).map(|number| format!("a-{number}")).collect();
    let token = token(&client, &all()).await;
    for name in &names {
        create(&mut client, name).await;
    }
    let mut stream = resume(&client, &token, &all()).await;
    let known = known_by_fence(&mut stream, &mut client, new_job("fence")).await;
    assert_eq!(known.into_keys().collect::<BTreeSet<_>>(), names);

    // The tokens of all events in between are as good.
    let mut stream = resume(&client, &token, &all()).await;
    let middle = stream.until_job("a-1700").await.pop().expect("an event");
    let mut stream = resume(&client, &middle.token, &all()).await;
    let known = known_by_fence(&mut stream, &mut client, new_job("fence-2")).await;
    assert!(known.contains_key("a-2233"));
    assert!(known.keys().all(|id| !id.starts_with("a-") || id[2..].parse().is_ok_and(|n: u32| n >= 1700)));
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_stopped_matching_since_comes_as_its_last_update() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["reported", "ended", "same"] {
        create(&mut client, id).await;
    }
    let pending = in_state(&[State::Pending]);
    let token = token(&client, &pending).await;
    report(&mut client, "reported").await;
    report(&mut client, "ended").await;
    complete(&mut client, "ended").await;
    let mut stream = resume(&client, &token, &pending).await;
    let known = known_by_fence(&mut stream, &mut client, new_job("fence")).await;
    let brief: Vec<_> = known.values().map(Seen::brief).collect();
    assert_eq!(brief, [(Event::Update, "ended", 3), (Event::Update, "reported", 2)]);
    server.stop().await;
}

/// The job runs, waits and runs again. The store does not record which of that was before the token.
#[tokio::test]
async fn a_job_that_waited_for_another_attempt_is_followed_after_the_token() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let failure = Some(Failure::default());
    let retry = FailJobRequest { job_id: "a".into(), retry: true, failure, ..FailJobRequest::default() };
    client.fail_job(retry).await.expect("it waits for another attempt");
    let pending = in_state(&[State::Pending]);
    let token = token(&client, &pending).await;
    report(&mut client, "a").await;
    let mut stream = resume(&client, &token, &pending).await;
    let running = stream.expect(Event::Update).await;
    assert_eq!((running.brief(), running.state()), ((Event::Update, "a", 4), State::Running));
    server.stop().await;
}

/// The subscriber was told that the job waits, after the position of its token.
#[tokio::test]
async fn a_job_that_waited_after_its_first_attempt_is_followed_to_its_end() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let pending = in_state(&[State::Pending]);
    let token = token(&client, &pending).await;
    let failure = Some(Failure::default());
    let retry = FailJobRequest { job_id: "a".into(), retry: true, failure, ..FailJobRequest::default() };
    client.fail_job(retry).await.expect("it waits for another attempt");
    cancel(&mut client, "a", false).await;
    let mut stream = resume(&client, &token, &pending).await;
    let ended = stream.expect(Event::Update).await;
    assert_eq!((ended.brief(), ended.state()), ((Event::Update, "a", 4), State::Cancelled));
    server.stop().await;
}

#[tokio::test]
async fn jobs_known_before_the_token_are_followed_after_it() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["deleted", "ended", "never-matched"] {
        create(&mut client, id).await;
    }
    for id in ["deleted", "ended"] {
        report(&mut client, id).await;
    }
    let running = in_state(&[State::Running]);
    let token = token(&client, &running).await;
    let mut stream = resume(&client, &token, &running).await;
    let ended = complete(&mut client, "ended").await;
    assert_eq!(stream.update().await, ended);
    delete(&mut client, "deleted").await;
    let removed = stream.expect(Event::Removed).await;
    assert_eq!((removed.brief(), removed.removal), ((Event::Removed, "deleted", 3), Removal::Deleted));
    create(&mut client, "fence").await;
    report(&mut client, "fence").await;
    assert_eq!(stream.update().await.id, "fence");
    server.stop().await;
}

#[tokio::test]
async fn job_is_absent_from_a_resumed_stream_after_its_last_update() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["caught-up", "live"] {
        create(&mut client, id).await;
        report(&mut client, id).await;
    }
    let running = in_state(&[State::Running]);
    let token = token(&client, &running).await;
    complete(&mut client, "caught-up").await;
    let mut stream = resume(&client, &token, &running).await;
    assert_eq!(stream.update().await.id, "caught-up");
    complete(&mut client, "live").await;
    assert_eq!(stream.update().await.id, "live");
    for id in ["caught-up", "live"] {
        delete(&mut client, id).await;
    }
    create(&mut client, "fence").await;
    report(&mut client, "fence").await;
    let events = stream.until_job("fence").await;
    assert_eq!(events.iter().map(Seen::brief).collect::<Vec<_>>(), [(Event::Update, "fence", 2)]);
    server.stop().await;
}

#[tokio::test]
async fn recreation_for_another_owner_is_sent_to_watchers_of_the_old_job() {
    assert_told_of_a_new_life(&owned_by("us"), false).await;
}

#[tokio::test]
async fn recreation_in_another_state_is_sent_to_watchers_of_the_old_job() {
    assert_told_of_a_new_life(&in_state(&[State::Succeeded]), true).await;
}

/// Resumes from a time when the job `a` matched, after it was deleted and created again without matching.
async fn assert_told_of_a_new_life(request: &WatchJobsRequest, ended: bool) {
    let server = Server::start().await;
    let mut client = server.client().await;
    let owned = |id: &str, owner: &str| CreateJobRequest { owner: owner.into(), ..new_job(id) };
    make(&mut client, owned("a", "us")).await;
    if ended {
        complete(&mut client, "a").await;
    }
    let mut events = watch_jobs(&client, request.clone()).await.until_bookmark().await;
    let token = events.pop().expect("a bookmark").token;
    assert_eq!(events.iter().map(Seen::id).collect::<Vec<_>>(), ["a"], "it matches");
    delete(&mut client, "a").await;
    make(&mut client, owned("a", "them")).await;

    let mut stream = resume(&client, &token, request).await;
    make(&mut client, owned("fence", "us")).await;
    complete(&mut client, "fence").await;
    let events = stream.until_job("fence").await;
    assert!(events.iter().any(|seen| seen.id() == "a"), "a no longer matches, and nobody says so: {events:?}");
    server.stop().await;
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_while_a_stream_is_resumed_never_go_back() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for id in ["a", "b"] {
        make(&mut client, large(id)).await;
        report(&mut client, id).await;
    }
    let running = in_state(&[State::Running]);
    for request in [running, all()] {
        for _ in 0..150 {
            let token = token(&client, &request).await;
            let (mut writer, reader) = (client.clone(), client.clone());
            let writing = tokio::spawn(async move {
                for id in ["a", "b"] {
                    report(&mut writer, id).await;
                    complete(&mut writer, id).await;
                    delete(&mut writer, id).await;
                    make(&mut writer, large(id)).await;
                    report(&mut writer, id).await;
                }
                create(&mut writer, "fence").await;
                report(&mut writer, "fence").await;
            });
            let mut stream = resume(&reader, &token, &request).await;
            let events = stream.until(|seen| seen.id() == "fence" && seen.state() == State::Running).await;
            for id in ["a", "b"] {
                let last = events.iter().rev().find(|seen| seen.id() == id).expect("it has changed");
                assert_eq!((last.event, last.state()), (Event::Update, State::Running));
            }
            writing.await.expect("the writer is done");
            delete(&mut client, "fence").await;
        }
    }
    server.stop().await;
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
