//! Versions of two replicas, or of two data sets: the one that stands, and the report of the other one.

use std::time::Duration;

use jobtrack::{
    domain::{ANYONE, NewJob, State},
    store::{CommitEvent, JobStore, Listener},
};
use rstest::rstest;

use super::{
    LONG,
    primary::durable,
    world::{Op, Step, World},
};
use crate::support::jobs::{id, plain};

/// An end that was stored in the primary wins, whichever replica is asked.
#[tokio::test(start_paused = true)]
async fn first_recorded_end_wins() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Part(1)).await;
    world.call(0, "a", Op::Fail).await;
    world.call(1, "a", Op::Succeed).await;
    world.heal().await;
    let job = world.replicas[1].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is there").job;
    assert_eq!(job.state, State::Failed);
    assert_eq!(world.replicas[1].conflicts().await, 1);
}

/// Two replicas created one job; one of the jobs was the first to be stored in the primary after that had lost its
/// data.
#[tokio::test(start_paused = true)]
async fn losing_incarnation_is_reported() {
    let mut world = World::new();
    world.take(Step::Part(0)).await;
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Create).await;
    world.call(1, "a", Op::Succeed).await;
    world.take(Step::Lose { all: true }).await;
    world.replicas[0].whole().await;
    world.heal().await;
    let job = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is there").job;
    assert_eq!(job.state, State::Succeeded);
    assert_eq!(world.replicas[1].conflicts().await, 1);
}

/// A job that was deleted and created again is no conflict.
#[tokio::test(start_paused = true)]
async fn consecutive_incarnations_are_no_conflict() {
    let mut world = World::new();
    world.call(1, "a", Op::Create).await;
    world.call(1, "a", Op::Succeed).await;
    world.take(Step::Part(1)).await;
    world.call(0, "a", Op::Delete).await;
    world.call(0, "a", Op::Create).await;
    world.call(1, "b", Op::Create).await;
    world.heal().await;
    assert_eq!(world.replicas[1].conflicts().await, 0);
}

/// A tombstone that all others have forgotten is forgotten here, too.
#[tokio::test(start_paused = true)]
async fn an_old_tombstone_does_no_harm_to_a_new_job() {
    let mut world = World::new();
    for op in [Op::Create, Op::Delete, Op::Create, Op::Delete] {
        world.call(1, "a", op).await;
    }
    _ = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    world.clock.advance(LONG);
    world.replicas[1].tracker.sweep_due().await.expect("it answers");
    world.call(1, "a", Op::Create).await;
    world.part(0).await;
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_some_and(|job| job.removal.is_none()));
}

/// A write of the deleted incarnation may still be under way. It must not find the version that it was made from.
#[tokio::test(start_paused = true)]
async fn losing_deletion_raises_the_revision_of_the_winner() {
    let mut world = World::new();
    world.part(0).await;
    world.call(0, "a", Op::Create).await;
    world.call(0, "a", Op::Delete).await;
    for op in [Op::Create, Op::Report, Op::Report, Op::Report] {
        world.call(1, "a", op).await;
    }
    let before = world.there("a").await.expect("it is there").version;
    world.replicas[0].whole().await;
    let after = world.there("a").await.expect("it is there");
    assert_eq!((after.removal, after.version.incarnation_id), (None, before.incarnation_id), "it was recorded first");
    assert_eq!(after.version.revision, before.revision + 1);
}

#[tokio::test(start_paused = true)]
async fn deletion_without_a_notification_wins() {
    let mut world = World::new();
    world.call(1, "a", Op::Create).await;
    world.call(0, "a", Op::Report).await;
    world.replicas[0].link.held.on_gap();
    world.call(1, "a", Op::Delete).await;
    world.clock.advance(LONG);
    world.replicas[1].tracker.sweep_due().await.expect("it answers");
    world.clock.advance(LONG);
    assert!(world.there("a").await.is_none());
    world.part(0).await;
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_none(), "it is back");
}

/// The first end was stored in the primary, which lost it and stored another one. Notifications that the replica with
/// the first end receives before its reconciliation change nothing.
#[rstest]
#[case::of_the_same_revision(0)]
#[case::of_a_higher_revision(1)]
#[tokio::test(start_paused = true)]
async fn lost_first_end_wins_over_a_later_one(#[case] reports: usize) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Succeed).await;
    world.take(Step::Lose { all: false }).await;
    world.replicas[1].whole().await;
    for _ in 0..reports {
        world.call(1, "a", Op::Report).await;
    }
    world.call(1, "a", Op::Fail).await;
    let there = world.record.store().get(&id("a")).await.expect("it answers").map(durable).expect("it is there");
    world.replicas[0].link.held.on_commit(CommitEvent { stored: there, position: 0, previous: None, replaced: None });
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").state, State::Succeeded);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

/// A durable report was lost, and another replica went on from the version before it: also if its versions have higher
/// revisions.
#[rstest]
#[tokio::test(start_paused = true)]
async fn losing_durable_report_is_reported(#[values(0, 1, 2)] reports: usize) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Report).await;
    let version = world.acknowledged["a"].job.version;
    world.take(Step::Lose { all: false }).await;
    world.replicas[1].whole().await;
    for _ in 0..reports {
        world.call(1, "a", Op::Report).await;
    }
    world.call(1, "a", Op::Fail).await;
    world.replicas[0].whole().await;
    assert_ne!(world.there("a").await.expect("it is there").version.change_id, version.change_id);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

/// The restored version is older than the end; the expiry of the job in the meantime does not matter.
#[tokio::test(start_paused = true)]
async fn expired_end_wins_over_an_old_snapshot() {
    let mut world = World::new();
    let new = NewJob { id: Some(id("a")), retention: Some(Duration::from_secs(1)), ..plain() };
    world.replicas[0].tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room");
    world.call(0, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Succeed).await;
    world.take(Step::Lose { all: false }).await;
    world.clock.advance(Duration::from_secs(2));
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_none_or(|job| job.state == State::Succeeded), "it runs again");
}
