//! The path from a commit to a subscriber, with a dispatcher that runs only when a test allows it.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use jobtrack::{
    clock::SystemClock,
    domain::{
        ANYONE, Change, Completion, Document, Identity, IdentityKind, Job, JobError, NewJob, Owners, Removal, Report,
        Retention, Role,
    },
    store::{CommitEvent, Listener, MemoryStore},
    tracker::Tracker,
    watch::{EventKind, Hub, JobsWatch, Pace, Scope, WatchEvent},
};
use tokio::{task::yield_now, time::timeout};
use uuid::Uuid;

use crate::support::jobs::{document, id, plain};

/// More jobs than a subscription keeps.
const MANY: usize = 10_050;

fn tracker() -> (Tracker, Arc<Hub>) {
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(100_000, hub.clone()));
    let zero = Duration::ZERO;
    let retention = Retention { succeeded: zero, failed: zero, cancelled: zero, active: zero };
    (Tracker::new(store, hub.clone(), Arc::new(SystemClock), retention), hub)
}

fn pace(min_interval: Duration) -> Pace {
    Pace { min_interval, bookmark_interval: Duration::from_secs(3600) }
}

async fn create(tracker: &Tracker, name: &str) {
    tracker.on_behalf_of(&ANYONE).create(NewJob { id: Some(id(name)), ..plain() }).await.expect("there is room");
}

/// Reports on a job. Returns its new revision.
async fn report(tracker: &Tracker, name: &str) -> i64 {
    let changed = tracker
        .on_behalf_of(&ANYONE)
        .change(&id(name), &Change::Report(Report::default()))
        .await
        .expect("it is active");
    changed.stored.job.version.revision
}

/// Lets the dispatcher deliver all announced commits.
async fn dispatched(hub: &Arc<Hub>) {
    let hub = hub.clone();
    let dispatcher = tokio::spawn(async move { hub.dispatch().await });
    // Only the dispatcher shares this thread, and is done long before that.
    for _ in 0..1000 {
        yield_now().await;
    }
    dispatcher.abort();
}

fn brief(event: &WatchEvent) -> (EventKind, Option<(String, i64)>) {
    let job = event.stored.as_ref().map(|stored| &stored.job);
    (event.kind, job.map(|job| (job.id.to_string(), job.version.revision)))
}

/// Returns the next event of a stream.
async fn next(stream: &mut JobsWatch) -> WatchEvent {
    timeout(Duration::from_secs(10), stream.next()).await.expect("an event").expect("it answers")
}

/// Returns a stream of all jobs after the snapshot of job `a`, at this revision, and the bookmark.
async fn watch_all(tracker: &Tracker, revision: i64) -> JobsWatch {
    let mut all = tracker.on_behalf_of(&ANYONE).watch_jobs(Scope::default(), "", pace(Duration::ZERO));
    assert_eq!(brief(&next(&mut all).await), (EventKind::Snapshot, Some(("a".into(), revision))));
    assert_eq!(brief(&next(&mut all).await), (EventKind::Bookmark, None));
    all
}

#[tokio::test]
async fn delayed_updates_survive_an_overflow() {
    let (tracker, hub) = tracker();
    create(&tracker, "held").await;
    let mut stream = tracker.on_behalf_of(&ANYONE).watch_jobs(Scope::default(), "", pace(Duration::from_secs(3600)));
    let mut next =
        async || timeout(Duration::from_secs(10), stream.next()).await.expect("an event").expect("it answers");
    assert_eq!(brief(&next().await), (EventKind::Snapshot, Some(("held".into(), 1))));
    assert_eq!(brief(&next().await), (EventKind::Bookmark, None));
    report(&tracker, "held").await;
    dispatched(&hub).await;
    assert_eq!(brief(&next().await), (EventKind::Update, Some(("held".into(), 2))));

    let newest = report(&tracker, "held").await;
    create(&tracker, "other").await;
    dispatched(&hub).await;
    assert_eq!(brief(&next().await), (EventKind::Update, Some(("other".into(), 1))), "the report is held back");
    for n in 0..MANY {
        create(&tracker, &format!("j{n}")).await;
    }
    dispatched(&hub).await;
    let mut seen = Vec::new();
    while seen.len() <= MANY {
        seen.push(brief(&next().await).1);
    }
    assert_eq!(seen.iter().filter(|seen| **seen == Some(("held".into(), newest))).count(), 1);
}

#[tokio::test]
async fn stream_never_takes_an_undispatched_older_version_for_the_newest() {
    let (tracker, hub) = tracker();
    create(&tracker, "a").await;
    let pace = pace(Duration::ZERO);
    let mut gone = tracker.on_behalf_of(&ANYONE).watch_job(&id("a"), "", pace).await.expect("it exists");
    let token = gone.next().await.expect("an event").expect("a snapshot").resume_token.encode();
    report(&tracker, "a").await;
    drop(gone);
    let newest = report(&tracker, "a").await;
    let mut stream = tracker.on_behalf_of(&ANYONE).watch_job(&id("a"), &token, pace).await.expect("it exists");
    dispatched(&hub).await;
    assert_eq!(brief(&stream.next().await.expect("an event").expect("a bookmark")), (EventKind::Bookmark, None));
    let update =
        timeout(Duration::from_secs(10), stream.next()).await.expect("in time").expect("an event").expect("an update");
    assert_eq!(brief(&update), (EventKind::Update, Some(("a".into(), newest))));
}

/// The merge of two creations of one request keeps the last change, and its revision, under the identity of the
/// creation that was recorded first.
#[tokio::test]
async fn job_that_gets_an_earlier_identity_is_sent_again() {
    let (tracker, hub) = tracker();
    create(&tracker, "a").await;
    report(&tracker, "a").await;
    let mut all = watch_all(&tracker, 2).await;

    let mut stored = tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it exists");
    let job = Arc::make_mut(&mut stored.job);
    job.version.incarnation_id = Uuid::new_v4();
    job.create_time = job.create_time.moved(-1000);
    let earlier = job.create_time;
    hub.on_commit(CommitEvent { stored, position: 1000, previous: None, replaced: None });
    dispatched(&hub).await;
    let told = next(&mut all).await;
    assert_eq!((brief(&told), told.reset), ((EventKind::Snapshot, Some(("a".into(), 2))), true));
    assert_eq!(told.stored.map(|stored| stored.job.create_time), Some(earlier));
}

/// After a loss of data, a deletion may have the revision of a different change that a subscriber knows already.
#[tokio::test]
async fn a_deletion_in_place_of_another_change_is_a_removal() {
    let (tracker, hub) = tracker();
    create(&tracker, "a").await;
    report(&tracker, "a").await;
    let mut one = tracker.on_behalf_of(&ANYONE).watch_job(&id("a"), "", pace(Duration::ZERO)).await.expect("it exists");
    one.next().await.expect("an event").expect("a snapshot");
    let mut all = watch_all(&tracker, 2).await;

    let mut stored = tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it exists");
    let job = Arc::make_mut(&mut stored.job);
    (job.removal, job.version.change_id.process) = (Some(Removal::Deleted), 1);
    hub.on_commit(CommitEvent { stored, position: 1000, previous: None, replaced: None });
    dispatched(&hub).await;
    let removed = (EventKind::Removed, Some(("a".into(), 2)));
    let seen = next(&mut all).await;
    assert_eq!((brief(&seen), seen.reset), (removed.clone(), true));
    let seen = one.next().await.expect("an event").expect("a removal");
    assert_eq!((brief(&seen), seen.reset), (removed, true));
    assert!(one.next().await.is_none(), "it is over");
}

/// Of two jobs that replicas created under one id, the one of another owner may win.
#[tokio::test]
async fn a_stream_ends_where_its_job_has_become_another_owners() {
    let (tracker, hub) = tracker();
    let new = NewJob { id: Some(id("a")), owner: "alice".into(), ..plain() };
    let mut stored = tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room").into_stored();
    let alice = Identity {
        kind: IdentityKind::Listed,
        name: "alice".into(),
        role: Some(Role::Reader),
        owners: Owners::one("alice"),
        shared: None,
    };
    let watch = tracker.on_behalf_of(&alice).watch_job(&id("a"), "", pace(Duration::ZERO)).await;
    let mut stream = watch.expect("it is hers");
    stream.next().await.expect("an event").expect("a snapshot");
    let job = Arc::make_mut(&mut stored.job);
    job.owner = "bob".into();
    job.version.revision += 1;
    hub.on_commit(CommitEvent { stored, position: 1000, previous: None, replaced: None });
    dispatched(&hub).await;
    let end = stream.next().await.expect("an end").expect_err("it is not hers any more");
    assert_eq!(end, JobError::NotFound(id("a")));
    assert!(stream.next().await.is_none(), "it is over");
}

/// Returns a unique document of a million bytes.
fn large(number: usize) -> Option<Document> {
    document(&serde_json::json!({ "text": "x".repeat(1_000_000), "number": number }))
}

/// Creates a job with a result of a million bytes.
async fn make_large(tracker: &Tracker, number: usize) -> Weak<Job> {
    let name = format!("large-{number:03}");
    create(tracker, &name).await;
    let end = Completion { outcome: large(number), attempt: None, claim: None, expected_revision: None };
    let ended = tracker.on_behalf_of(&ANYONE).change(&id(&name), &Change::Complete(end)).await.expect("it is active");
    Arc::downgrade(&ended.stored.job)
}

async fn delete_large(tracker: &Tracker, number: usize) {
    let name = format!("large-{number:03}");
    let delete = Change::Delete { force: false };
    tracker.on_behalf_of(&ANYONE).change(&id(&name), &delete).await.expect("it is there");
}

fn alive(jobs: &[Weak<Job>]) -> usize {
    jobs.iter().filter(|job| job.strong_count() > 0).count()
}

#[tokio::test]
async fn stream_that_is_not_read_keeps_few_of_the_large_jobs_that_are_deleted() {
    let (tracker, hub) = tracker();
    create(&tracker, "a").await;
    let mut stream = watch_all(&tracker, 1).await;
    let mut jobs = Vec::new();
    for number in 0..100 {
        jobs.push(make_large(&tracker, number).await);
        dispatched(&hub).await;
        delete_large(&tracker, number).await;
        dispatched(&hub).await;
    }
    assert!(alive(&jobs) <= 68, "{} jobs are kept", alive(&jobs));
    let revision = report(&tracker, "a").await;
    assert_eq!(brief(&next(&mut stream).await), (EventKind::Update, Some(("a".into(), revision))), "it goes on");
}

#[tokio::test]
async fn stream_reads_few_large_jobs_ahead() {
    const JOBS: usize = 20;
    let (tracker, hub) = tracker();
    create(&tracker, "a").await;
    let mut earlier = watch_all(&tracker, 1).await;
    report(&tracker, "a").await;
    dispatched(&hub).await;
    let resume_token = next(&mut earlier).await.resume_token.encode();
    drop(earlier);
    let mut jobs = Vec::new();
    for number in 0..JOBS {
        jobs.push(make_large(&tracker, number).await);
    }
    let ids = (0..JOBS).map(|number| id(&format!("large-{number:03}"))).collect();
    let scopes = [Scope::default(), Scope { ids, ..Scope::default() }];
    let open = |scope, token: &str| tracker.on_behalf_of(&ANYONE).watch_jobs(scope, token, pace(Duration::ZERO));
    let mut streams = scopes.map(|scope| open(scope, ""));
    for stream in &mut streams {
        assert_eq!(next(stream).await.kind, EventKind::Snapshot);
    }
    let mut resumed = open(Scope::default(), &resume_token);
    assert_eq!(brief(&next(&mut resumed).await), (EventKind::Bookmark, None));
    for number in 0..JOBS {
        delete_large(&tracker, number).await;
    }
    dispatched(&hub).await;
    assert!(alive(&jobs) <= 6, "{} jobs are kept", alive(&jobs));
}
