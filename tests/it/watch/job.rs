//! The stream of one job: its beginning, its events, its end.

use std::sync::Arc;
use std::time::Duration;

use jobtrack::proto::v1::{
    ConfirmCancelRequest, CreateJobRequest, Event, GetJobRequest, Job, Liveness, Removal, WatchJobRequest,
    job::Outcome, job::State,
};
use tonic::Code;

use crate::support::{
    Client, Server,
    clocks::TestClock,
    create, new_job, reason,
    watching::{
        Watch, about, assert_not_found, cancel, complete, delete, fail, make, millis, report, resume, watch, watch_job,
    },
};

/// An interval after which no delayed event comes within a test.
const HOUR: i64 = 3_600_000;

async fn get(client: &mut Client, id: &str) -> Job {
    let request = GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() };
    client.get_job(request).await.expect("the job is there").into_inner().job.expect("a job")
}

/// Watches a job, and reads its snapshot.
async fn watch_on(client: &Client, request: WatchJobRequest) -> Watch {
    let mut stream = watch_job(client, request).await;
    stream.expect(Event::Snapshot).await;
    stream
}

#[tokio::test]
async fn a_stream_is_a_snapshot_then_changes_then_the_end() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let created = create(&mut client, "a").await;
    let mut stream = watch(&client, "a").await;

    let snapshot = stream.expect(Event::Snapshot).await;
    assert_eq!((snapshot.job(), snapshot.skipped, snapshot.reset), (&created, 0, false));
    let running = report(&mut client, "a").await;
    assert_eq!(stream.update().await, running);
    let asked = cancel(&mut client, "a", false).await;
    assert_eq!(stream.update().await, asked);
    let request = ConfirmCancelRequest { job_id: "a".into(), ..ConfirmCancelRequest::default() };
    let stopped = client.confirm_cancel(request).await.expect("it was asked for").into_inner().job;
    assert_eq!(Some(stream.update().await), stopped);
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn each_kind_of_end_is_the_last_update() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for (id, state) in [("a", State::Succeeded), ("b", State::Failed), ("c", State::Cancelled)] {
        create(&mut client, id).await;
        let mut stream = watch_on(&client, about(id, "")).await;
        let ended = match state {
            State::Succeeded => complete(&mut client, id).await,
            State::Failed => fail(&mut client, id).await,
            _ => cancel(&mut client, id, false).await,
        };
        assert_eq!(ended.state(), state);
        assert_eq!(stream.update().await, ended);
        stream.end().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn a_finished_job_is_one_snapshot() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let ended = complete(&mut client, "a").await;
    for _ in 0..2 {
        let mut stream = watch(&client, "a").await;
        let snapshot = stream.expect(Event::Snapshot).await;
        assert_eq!((snapshot.job(), snapshot.skipped, snapshot.reset), (&ended, 0, false));
        stream.end().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn missing_job_is_not_found() {
    let server = Server::with(&["--ttl-succeeded", "1ms"]).await;
    let mut client = server.client().await;
    assert_not_found(&client, "never", "").await;
    assert_not_found(&client, "never", "nonsense").await;

    create(&mut client, "deleted").await;
    delete(&mut client, "deleted").await;
    assert_not_found(&client, "deleted", "").await;
    assert_not_found(&client, "deleted", "nonsense").await;

    create(&mut client, "expired").await;
    let mut stream = watch_on(&client, about("expired", "")).await;
    complete(&mut client, "expired").await;
    stream.update().await;
    // The end is shown as long as the job exists; afterwards the job is not found.
    while get_code(&mut client, "expired").await == Code::Ok {}
    assert_not_found(&client, "expired", "").await;
    server.stop().await;
}

async fn get_code(client: &mut Client, id: &str) -> Code {
    let request = GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() };
    client.get_job(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

#[tokio::test]
async fn revisions_rise_and_skipped_ones_are_counted() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch_on(&client, about("a", "")).await;
    for _ in 0..300 {
        report(&mut client, "a").await;
    }
    let ended = complete(&mut client, "a").await;
    let events = stream.rest().await;
    let told: i64 = events.iter().map(|seen| 1 + seen.skipped).sum();
    assert_eq!(told, ended.revision - 1);
    assert_eq!(events.last().expect("an end").job(), &ended);
    server.stop().await;
}

#[tokio::test]
async fn a_deletion_ends_the_stream_with_the_last_known_job() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let running = report(&mut client, "a").await;
    let mut stream = watch_on(&client, about("a", "")).await;
    delete(&mut client, "a").await;
    let removed = stream.expect(Event::Removed).await;
    assert_eq!((removed.removal, removed.skipped), (Removal::Deleted, 0));
    let mut last = removed.job().clone();
    assert_eq!(last.revision, running.revision + 1);
    (last.revision, last.update_time) = (running.revision, running.update_time);
    assert_eq!(last, running);
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn stream_ends_when_its_job_is_deleted_and_recreated() {
    let server = Server::start().await;
    let mut client = server.client().await;
    for round in 0..20 {
        let id = format!("a-{round}");
        create(&mut client, &id).await;
        let mut stream = watch_on(&client, about(&id, "")).await;
        delete(&mut client, &id).await;
        assert_eq!(create(&mut client, &id).await.revision, 3);
        report(&mut client, &id).await;
        let removed = stream.expect(Event::Removed).await;
        assert_eq!((removed.revision(), removed.removal), (2, Removal::Deleted));
        stream.end().await;
    }
    server.stop().await;
}

#[tokio::test]
async fn interval_delays_progress_but_no_state_cancellation_or_end() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let paced = WatchJobRequest { min_interval: millis(HOUR), ..about("a", "") };
    let mut stream = watch_on(&client, paced.clone()).await;
    let running = report(&mut client, "a").await;
    assert_eq!(stream.update().await, running);
    for _ in 0..5 {
        report(&mut client, "a").await;
    }
    let asked = cancel(&mut client, "a", false).await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&asked, 5));
    report(&mut client, "a").await;
    let failed = fail(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!((seen.job(), seen.skipped), (&failed, 1));
    stream.end().await;

    create(&mut client, "b").await;
    let mut stream = watch_on(&client, WatchJobRequest { job_id: "b".into(), ..paced }).await;
    report(&mut client, "b").await;
    stream.update().await;
    report(&mut client, "b").await;
    delete(&mut client, "b").await;
    let removed = stream.expect(Event::Removed).await;
    assert_eq!((removed.removal, removed.skipped), (Removal::Deleted, 1));
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn delayed_update_comes_after_the_interval() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let mut stream = watch_on(&client, WatchJobRequest { min_interval: millis(200), ..about("a", "") }).await;
    let mut newest = report(&mut client, "a").await;
    for _ in 0..20 {
        newest = report(&mut client, "a").await;
    }
    let events = stream.until(|seen| seen.revision() == newest.revision).await;
    assert_eq!(events.last().expect("the newest").job(), &newest);
    server.stop().await;
}

#[tokio::test]
async fn a_silent_stream_sends_bookmarks_that_can_be_resumed_from() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch_on(&client, WatchJobRequest { bookmark_interval: millis(1000), ..about("a", "") }).await;
    for _ in 0..2 {
        let bookmark = stream.expect(Event::Bookmark).await;
        assert_eq!((bookmark.skipped, bookmark.reset), (0, false));
        let mut resumed = resume(&client, "a", &bookmark.token).await;
        resumed.expect(Event::Bookmark).await;
        let reported = report(&mut client, "a").await;
        let seen = resumed.expect(Event::Update).await;
        assert_eq!((seen.job(), seen.skipped), (&reported, 0));
        assert_eq!(stream.update().await, reported);
    }
    server.stop().await;
}

#[tokio::test]
async fn bookmark_does_not_skip_delayed_updates() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let paced = WatchJobRequest { min_interval: millis(HOUR), bookmark_interval: millis(1000), ..about("a", "") };
    let mut stream = watch_on(&client, paced).await;
    report(&mut client, "a").await;
    stream.update().await;
    let held = report(&mut client, "a").await;
    let bookmark = stream.expect(Event::Bookmark).await;
    let mut resumed = resume(&client, "a", &bookmark.token).await;
    resumed.expect(Event::Bookmark).await;
    assert_eq!(resumed.update().await, held);
    server.stop().await;
}

#[tokio::test]
async fn draining_ends_a_stream_that_resumes_on_another_server() {
    let (server, other) = (Server::start().await, Server::start().await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    let there = create(&mut elsewhere, "a").await;
    let mut stream = watch(&client, "a").await;
    let snapshot = stream.expect(Event::Snapshot).await;
    server.begin_stop();
    let status = stream.outcome().await.expect("an error").expect_err("no event");
    assert_eq!((status.code(), reason(&status)), (Code::Unavailable, "SERVER_DRAINING".to_owned()));
    let mut resumed = resume(&elsewhere, "a", &snapshot.token).await;
    let seen = resumed.expect(Event::Snapshot).await;
    assert_eq!((seen.job(), seen.reset), (&there, true));
    drop(resumed);
    server.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn draining_does_not_turn_an_end_that_was_sent_into_an_error() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let mut streams = Vec::new();
    for number in 0..50 {
        let id = format!("a-{number}");
        create(&mut client, &id).await;
        streams.push(watch_on(&client, about(&id, "")).await);
    }
    for number in 0..50 {
        complete(&mut client, &format!("a-{number}")).await;
    }
    server.begin_stop();
    for mut stream in streams {
        match stream.outcome().await.expect("an end is told") {
            Ok(seen) => {
                assert_eq!(seen.state(), State::Succeeded);
                stream.end().await;
            }
            Err(status) => assert_eq!(reason(&status), "SERVER_DRAINING"),
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn watching_changes_nothing() {
    let server = Server::start().await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let running = report(&mut client, "a").await;
    for _ in 0..5 {
        let mut stream = watch(&client, "a").await;
        let token = stream.expect(Event::Snapshot).await.token;
        resume(&client, "a", &token).await.expect(Event::Bookmark).await;
        resume(&client, "a", "nonsense").await.expect(Event::Snapshot).await;
    }
    assert_eq!(get(&mut client, "a").await, running);
    server.stop().await;
}

#[tokio::test]
async fn a_lost_worker_is_an_update_and_so_is_its_return() {
    let server = Server::start().await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { lease_timeout: millis(300), ..new_job("a") }).await;
    let mut stream = watch_on(&client, about("a", "")).await;
    let live = report(&mut client, "a").await;
    assert_eq!((stream.update().await, live.liveness()), (live.clone(), Liveness::Live));
    let seen = stream.expect(Event::Update).await;
    let lost = seen.job();
    assert_eq!((lost.liveness(), lost.revision, seen.skipped), (Liveness::Lost, live.revision + 1, 0));
    assert_eq!((lost.update_time, lost.state()), (live.update_time, State::Running));
    let back = report(&mut client, "a").await;
    assert_eq!(back.liveness(), Liveness::Live);
    assert_eq!(stream.update().await, back);
    server.stop().await;
}

#[tokio::test]
async fn a_job_that_fails_when_its_worker_is_lost_ends_the_stream() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let leased = CreateJobRequest { lease_timeout: millis(100), fail_when_lost: true, ..new_job("a") };
    make(&mut client, leased).await;
    let mut stream = watch_on(&client, about("a", "")).await;
    report(&mut client, "a").await;
    stream.update().await;
    let failed = stream.update().await;
    assert_eq!((failed.state(), failed.liveness()), (State::Failed, Liveness::Unspecified));
    let Some(Outcome::Failure(failure)) = failed.outcome else { panic!("no failure in {failed:?}") };
    assert_eq!((failure.code, failure.reason.as_str()), (Some(4), "WORKER_LOST"));
    stream.end().await;
    server.stop().await;
}

#[tokio::test]
async fn an_active_job_that_expires_ends_the_stream() {
    let clock = Arc::new(TestClock::new());
    let server = Server::with_clock(&["--ttl-active", "1h"], clock.clone()).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let running = report(&mut client, "a").await;
    let mut stream = watch_on(&client, about("a", "")).await;
    clock.advance(Duration::from_secs(3601));
    let removed = stream.expect(Event::Removed).await;
    assert_eq!((removed.removal, removed.revision()), (Removal::Expired, running.revision + 1));
    assert_eq!(removed.state(), State::Running);
    stream.end().await;
    server.stop().await;
}
