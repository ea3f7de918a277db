//! Traces that an explicit-state model of the protocol found with one rule removed, played on the store.

use std::{
    pin::pin,
    sync::atomic::Ordering::Relaxed,
    time::{Duration, Instant},
};

use futures_util::poll;
use jobtrack::{
    domain::{ANYONE, Change, Job, JobError, NewJob, Progress, Removal, Report, State},
    store::{Durability, Listener, PrimaryStore},
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

/// Returns a report of two completed units.
fn report() -> Change {
    let progress = Progress { completed: Some(2), ..Progress::default() };
    Change::Report(Report { progress, ..Report::default() })
}

/// Makes a change on the first replica. The primary executes it, and `meanwhile` happens before the answer arrives.
async fn with_a_late_answer<T>(
    world: &World,
    change: impl Future<Output = T>,
    meanwhile: impl Future<Output = ()>,
) -> T {
    let link = &world.replicas[0].link;
    link.delays_answer.store(true, Relaxed);
    let changed = async {
        link.answer_delayed.notified().await;
        meanwhile.await;
    };
    tokio::join!(change, changed).0
}

/// The replica is cut off before the answer to a report arrives, and the worker fails the job. The end must be made
/// from the report, which the primary has.
#[tokio::test(start_paused = true)]
async fn change_waits_for_the_answer_to_the_one_before() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let (job, report, caller) = (id("a"), report(), world.replicas[0].tracker.on_behalf_of(&ANYONE));
    let reported = with_a_late_answer(&world, caller.change(&job, &report), async {
        world.part(0).await;
        let (job, failure) = (id("a"), failure());
        let worker = world.replicas[0].tracker.on_behalf_of(&ANYONE);
        let mut failed = pin!(worker.change(&job, &failure));
        assert!(poll!(&mut failed).is_pending());
        world.replicas[0].link.release_answer.notify_one();
        assert_eq!(failed.await.expect("it is accepted").stored.job.progress.completed, Some(2));
    })
    .await;
    assert_eq!(reported.expect("it is accepted").stored.durability, Durability::Durable);
    world.replicas[0].whole().await;
    let there = world.there("a").await.expect("it is there");
    assert_eq!((there.state, there.progress.completed), (State::Failed, Some(2)));
    assert_eq!(world.replicas[0].conflicts().await, 0);
}

/// The primary executes a report whose caller leaves, and the worker fails the job while the replica is cut off. The end
/// is not made from the report, so the report of the merge must say that a change was discarded.
#[tokio::test(start_paused = true)]
async fn change_whose_caller_has_left_is_not_discarded_without_a_report() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let (job, report, caller) = (id("a"), report(), world.replicas[0].tracker.on_behalf_of(&ANYONE));
    let link = &world.replicas[0].link;
    link.delays_answer.store(true, Relaxed);
    tokio::select! {
        _ = caller.change(&job, &report) => panic!("its answer does not arrive"),
        () = link.answer_delayed.notified() => {}
    }
    world.part(0).await;
    let failed = caller.change(&job, &failure()).await.expect("it is accepted").stored;
    assert_eq!((failed.durability, failed.job.progress.completed), (Durability::Volatile, None));
    world.replicas[0].whole().await;
    let there = world.there("a").await.expect("it is there");
    assert_eq!((there.state, there.progress.completed), (State::Failed, None));
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

/// The primary loses a change that it has executed, and the replica is compared with it. Then the answer arrives.
#[rstest]
#[case::report(false)]
#[case::creation(true)]
#[tokio::test(start_paused = true)]
async fn answer_of_a_lineage_that_has_ended_does_not_count(#[case] creates: bool) {
    let mut world = World::new();
    if !creates {
        world.call(0, "a", Op::Create).await;
    }
    let (job, report, caller) = (id("a"), report(), world.replicas[0].tracker.on_behalf_of(&ANYONE));
    let change = async {
        if creates {
            let new = NewJob { id: Some(job.clone()), ..plain() };
            caller.create(new).await.map(CreateOutcome::into_stored)
        } else {
            caller.change(&job, &report).await.map(|changed| changed.stored)
        }
    };
    let stored = with_a_late_answer(&world, change, async {
        world.record.restore(Vec::new()).await;
        world.part(0).await;
        world.replicas[0].whole().await;
        world.replicas[0].link.release_answer.notify_one();
    });
    assert_eq!(stored.await.expect("it is accepted").durability, Durability::Volatile);
    world.replicas[0].whole().await;
    let there = world.there("a").await.expect("it is there");
    assert_eq!(there.progress.completed, Some(2).filter(|_| !creates));
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
    held.set_notified_until(Instant::now() + Duration::from_secs(60));
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
