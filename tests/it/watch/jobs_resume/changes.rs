//! Changes since the token, and after it.

use std::collections::BTreeSet;

use jobtrack::proto::v1::{CreateJobRequest, Event, FailJobRequest, Failure, Removal, WatchJobsRequest, job::State};

use super::{
    super::{all, in_state},
    known_by_fence, owned_by, resume, token,
};
use crate::support::{
    Server, create, new_job,
    watching::{Seen, cancel, complete, delete, large, make, report, watch_jobs},
};

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
