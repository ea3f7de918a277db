//! Traces that an explicit-state model of the protocol found with one rule removed, played on the store.

use std::{
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use jobtrack::{
    domain::{ANYONE, Change, Job, JobError, NewJob, Progress, Removal, Report, State},
    store::{Durability, Listener, PrimaryStore, Stored},
    tracker::CreateOutcome,
};
use rstest::rstest;
use tokio::time::sleep;

use super::world::{Op, Step, World};
use crate::support::jobs::{failure, id, plain};

/// Creates the job `a` on a replica for the one request of the test.
async fn create_for_request(world: &World, replica: usize) -> Job {
    let new = NewJob { id: Some(id("a")), request_id: Some("r".into()), ..plain() };
    let created = world.replicas[replica].tracker.on_behalf_of(&ANYONE).create(new).await;
    Job::clone(&created.map(CreateOutcome::into_stored).expect("there is room").job)
}

async fn assert_gone_everywhere(world: &World) {
    for replica in &world.replicas {
        let told = replica.tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
        assert!(matches!(told, Err(JobError::NotFound(_))), "{told:?}");
    }
}

/// A creation is pushed over a tombstone, and its write is late. Meanwhile the job is deleted, and that deletion, which
/// was never recorded, gives way to the tombstone. The late write must not bring the deleted job back.
#[rstest]
#[case::after_the_deletion_was_pushed(false)]
#[case::before_the_deletion_is_written(true)]
#[tokio::test(start_paused = true)]
async fn late_write_of_a_deleted_job_does_not_bring_it_back(#[case] in_between: bool) {
    let mut world = World::new();
    for op in [Op::Create, Op::Report, Op::Delete] {
        world.call(0, "a", op).await;
    }
    world.part(1).await;
    world.call(1, "a", Op::Create).await;

    let link = world.replicas[1].link.clone();
    link.delays_write.store(true, Relaxed);
    link.up.store(true, Relaxed);
    link.suspect();
    while link.late.lock().expect("no test panics here").is_none() {
        // The next attempt comes much later.
        sleep(Duration::from_millis(1)).await;
    }
    world.part(1).await;
    world.call(1, "a", Op::Delete).await;
    link.hurries_late_write.store(in_between, Relaxed);
    world.replicas[1].whole().await;
    link.carry_out_late_write().await;

    let there = world.there("a").await.expect("there is a tombstone");
    assert_eq!(there.removal, Some(Removal::Deleted));
    assert_gone_everywhere(&world).await;
}

/// Reports on the job `a` on the first replica. The primary executes the report, and `meanwhile` happens before the
/// answer arrives. Returns the outcome of the report.
async fn report_with_a_late_answer(world: &World, meanwhile: impl Future<Output = ()>) -> Stored {
    let replica = &world.replicas[0];
    replica.link.delays_answer.store(true, Relaxed);
    let progress = Progress { completed: Some(2), ..Progress::default() };
    let report = Change::Report(Report { progress, ..Report::default() });
    let caller = replica.tracker.on_behalf_of(&ANYONE);
    let (job, changed) = (id("a"), async {
        replica.link.answer_delayed.notified().await;
        meanwhile.await;
    });
    let (reported, ()) = tokio::join!(caller.change(&job, &report), changed);
    reported.expect("it is accepted").stored
}

/// The replica is cut off before the answer to a report arrives, and the worker fails the job. The end must be made
/// from the report, which the primary has.
#[tokio::test(start_paused = true)]
async fn change_waits_for_the_answer_to_the_one_before() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let reported = report_with_a_late_answer(&world, async {
        world.part(0).await;
        let link = world.replicas[0].link.clone();
        tokio::spawn(async move {
            sleep(Duration::from_millis(50)).await;
            link.release_answer.notify_one();
        });
        let failed = world.replicas[0].tracker.on_behalf_of(&ANYONE).change(&id("a"), &failure()).await;
        assert_eq!(failed.expect("it is accepted").stored.job.progress.completed, Some(2));
    })
    .await;
    assert_eq!(reported.durability, Durability::Durable);
    world.replicas[0].whole().await;
    let there = world.there("a").await.expect("it is there");
    assert_eq!((there.state, there.progress.completed), (State::Failed, Some(2)));
    assert_eq!(world.replicas[0].conflicts().await, 0);
}

/// The primary loses a report, and the replica puts the version before it back. Then the answer to the report arrives.
#[tokio::test(start_paused = true)]
async fn answer_of_a_lineage_that_has_ended_does_not_count() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let reported = report_with_a_late_answer(&world, async {
        world.record.restore(Vec::new()).await;
        world.part(0).await;
        world.replicas[0].whole().await;
        assert_eq!(world.there("a").await.expect("it was put back").progress.completed, None);
        world.replicas[0].link.release_answer.notify_one();
    })
    .await;
    assert_eq!(reported.durability, Durability::Volatile);
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").progress.completed, Some(2));
}

/// Returns a world in which two replicas created a job for one request, because the primary had lost it. The second job
/// failed, and `cut_off` cuts the link of its replica. Then the first replica merged the two: the record has the
/// identity of its job, and the change and revision of the other one's end.
async fn with_an_end_under_another_identity(cut_off: bool) -> (World, Job) {
    let mut world = World::new();
    let first = create_for_request(&world, 0).await;
    world.take(Step::Lose { all: true }).await;
    world.replicas[1].whole().await;
    create_for_request(&world, 1).await;
    world.call(1, "a", Op::Fail).await;
    let failed = world.there("a").await.expect("it is there");
    if cut_off {
        world.part(1).await;
    }
    world.replicas[0].whole().await;
    let merged = world.there("a").await.expect("it is there");
    assert_eq!((merged.state, merged.version.incarnation_id), (State::Failed, first.version.incarnation_id));
    assert_eq!(
        (merged.version.revision, merged.version.change_id),
        (failed.version.revision, failed.version.change_id)
    );
    assert_ne!(merged.version, failed.version);
    (world, first)
}

/// The second replica deletes the job by the version that it has. The tombstone must be one of the identity that is
/// recorded: another one would lose to that identity, and the deleted job would be back.
#[tokio::test(start_paused = true)]
async fn deletion_of_a_job_that_was_merged_with_another_of_its_request_stands() {
    let (mut world, first) = with_an_end_under_another_identity(false).await;
    let held = &world.replicas[1].link.held;
    held.notified_until(Instant::now() + Duration::from_secs(60));
    let fresh = held.get_fresh(&id("a")).expect("nothing was heard of the merge");
    assert_ne!(fresh.job.version.incarnation_id, first.version.incarnation_id);
    world.call(1, "a", Op::Delete).await;

    let there = world.there("a").await.expect("there is a tombstone");
    assert_eq!((there.removal, there.version.incarnation_id), (Some(Removal::Deleted), first.version.incarnation_id));
    world.part(0).await;
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("there is a tombstone").version, there.version);
    assert_gone_everywhere(&world).await;
}

/// The second replica has the same end under another identity: no change is discarded.
#[tokio::test(start_paused = true)]
async fn one_change_under_two_identities_is_no_conflict() {
    let (world, first) = with_an_end_under_another_identity(true).await;
    world.replicas[1].whole().await;
    let there = world.there("a").await.expect("it is there");
    assert_eq!((there.state, there.version.incarnation_id), (State::Failed, first.version.incarnation_id));
    assert_eq!(world.replicas[1].conflicts().await, 0);
}
