//! Losses of data that a replica has not noticed yet.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use jobtrack::{
    domain::{ANYONE, NewJob, State},
    store::{CommitEvent, Durability, JobStore, Listener, PrimaryStore, StorageMode},
};
use rstest::rstest;
use tokio::time::sleep;

use super::{
    primary::durable,
    world::{Op, Step, World},
};
use crate::support::jobs::{id, plain};

/// More jobs than a pass reads at a time.
const JOBS: usize = 950;

/// Reads after which the pass has compared the first of them.
const FIRST_READS: usize = 501;

/// A pass has compared the end with a primary that loses it afterwards: what the primary has then does not replace it.
#[tokio::test(start_paused = true)]
async fn end_that_is_lost_in_the_middle_of_a_pass_stands_against_a_later_one() {
    let mut world = World::new();
    for number in 0..JOBS {
        let new = NewJob { id: Some(id(&format!("j{number}"))), ..plain() };
        world.replicas[0].tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room");
    }
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Succeed).await;

    world.part(0).await;
    let link = &world.replicas[0].link;
    let before = link.reads.count.load(Relaxed);
    link.reads.millis.store(1, Relaxed);
    link.up.store(true, Relaxed);
    link.suspect();
    while link.reads.count.load(Relaxed) < before + FIRST_READS {
        sleep(Duration::from_millis(1)).await;
    }

    world.record.restore(world.saved.clone()).await;
    let other = &world.replicas[1];
    other.link.up.store(false, Relaxed);
    // It notices that the primary is away.
    _ = other.tracker.on_behalf_of(&ANYONE).get(&id("nowhere"), None).await;
    other.whole().await;
    world.call(1, "a", Op::Report).await;
    world.call(1, "a", Op::Fail).await;
    let there = world.record.store().get(&id("a")).await.expect("it answers").map(durable).expect("it is there");
    world.replicas[0].link.held.on_commit(CommitEvent { stored: there, position: 0, previous: None, replaced: None });
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").state, State::Succeeded);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

/// The primary loses everything, and one replica stores its older version again and goes on from it. The replica with
/// the newer version does not take what follows for a successor of that, whatever the revision.
#[rstest]
#[tokio::test(start_paused = true)]
async fn report_that_is_not_among_the_ancestors_of_a_later_version_is_reported(
    #[values(1, 2, 3)] reports: usize,
    #[values(false, true)] notices_before_it_goes_on: bool,
    #[values(false, true)] reads: bool,
) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::LoseUnnoticed).await;
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!((told.durability, told.job.version.revision), (Durability::Volatile, 1));
    world.replicas[0].whole().await;
    for report in 0..reports {
        if report == 1 && notices_before_it_goes_on {
            world.part(0).await;
            world.replicas[0].whole().await;
        }
        world.call(0, "a", Op::Report).await;
    }
    if reads {
        _ = world.replicas[1].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    } else {
        let there = world.record.store().get(&id("a")).await.expect("it answers").map(durable).expect("it is there");
        world.replicas[1].link.held.on_commit(CommitEvent {
            stored: there,
            position: 0,
            previous: None,
            replaced: None,
        });
    }
    world.replicas[1].whole().await;
    assert_eq!(world.replicas[1].conflicts().await, 1);
    world.heal().await;
}

/// A replica holds a report that another one made and has evicted since. The record was lost, which the holder notices
/// by a read, and the other replica goes on from an older version: that both reports are of one process does not make
/// them one history.
#[tokio::test(start_paused = true)]
async fn lost_report_of_the_process_that_goes_on_without_it_is_reported() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Report).await;
    let held = world.replicas[1].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is there").job;
    world.take(Step::LoseUnnoticed).await;
    let lost = world.replicas[1].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!(lost.durability, Durability::Volatile);
    world.replicas[1].link.up.store(false, Relaxed);

    world.record.restore(world.saved.clone()).await;
    world.replicas[0].link.held.forget(&held);
    world.part(0).await;
    world.replicas[0].whole().await;
    world.call(0, "a", Op::Report).await;
    world.call(0, "a", Op::Report).await;
    assert_eq!(world.there("a").await.expect("it is there").version.revision, 3);
    world.replicas[1].whole().await;
    assert_eq!(world.replicas[1].conflicts().await, 1);
}

/// A restart without a loss makes no version look as if it was not made from the one before.
#[rstest]
#[tokio::test(start_paused = true)]
async fn restart_without_a_loss_is_no_conflict(#[values(0, 1)] first: usize) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.call(0, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.take(Step::Lose { all: false }).await;
    world.replicas[first].whole().await;
    world.call(first, "a", Op::Report).await;
    let other = &world.replicas[1 - first];
    other.whole().await;
    world.call(first, "a", Op::Report).await;
    let there = world.record.store().get(&id("a")).await.expect("it answers").map(durable).expect("it is there");
    let other = &world.replicas[1 - first];
    other.link.held.on_commit(CommitEvent { stored: there, position: 0, previous: None, replaced: None });
    assert_eq!(*other.store.mode().borrow(), StorageMode::Redis);
    assert_eq!(other.conflicts().await, 0);
    world.heal().await;
}
