//! Jobs that the primary lacks: lost, deleted, or nobody can tell.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use jobtrack::{
    domain::{ANYONE, JobError, NewJob},
    store::{JobStore, Listener},
};
use rstest::rstest;

use super::{
    LONG, serving_with_a_dirty_job,
    world::{Op, World},
};
use crate::support::jobs::{id, plain};

/// After so long nobody can tell whether the job was deleted, or lost with a snapshot that is older than it.
#[tokio::test(start_paused = true)]
async fn dropped_job_is_reported() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.part(0).await;
    world.clock.advance(LONG);
    let there = world.there("a").await.expect("it is there");
    world.record.store().delete(&there).await.expect("it answers");
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_none());
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

/// A deletion would have left a tombstone, or the server may have lost the job when it was restarted.
#[rstest]
#[case::within_the_life_of_a_tombstone(LONG / 2, false)]
#[case::after_a_restart(LONG, true)]
#[tokio::test(start_paused = true)]
async fn job_that_can_not_have_been_deleted_is_restored(#[case] away: Duration, #[case] restarted: bool) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.part(0).await;
    world.clock.advance(away);
    let there = world.there("a").await.expect("it is there");
    world.record.store().delete(&there).await.expect("it answers");
    if restarted {
        world.replicas[0].link.run.fetch_add(1, Relaxed);
    }
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_some());
    assert_eq!(world.replicas[0].conflicts().await, 0);
}

/// After a long time without a notification of a job nobody can tell whether it was deleted.
#[rstest]
#[case::within_the_life_of_a_tombstone(LONG / 2, true)]
#[case::beyond(LONG, false)]
#[tokio::test(start_paused = true)]
async fn a_missing_job_is_lost_as_long_as_deletions_are_remembered(#[case] unheard: Duration, #[case] is_lost: bool) {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.replicas[0].link.held.on_gap();
    world.clock.advance(unheard);
    let there = world.there("a").await.expect("it is there");
    world.record.store().delete(&there).await.expect("it answers");
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    assert_eq!(told.is_ok(), is_lost, "{told:?}");
}

/// A replica that is cut off does not answer `NOT_FOUND`: the job may have been deleted or kept elsewhere, or another
/// one may have its id.
#[rstest]
#[case::time_is_over(false)]
#[case::removed_and_never_recorded(true)]
#[tokio::test(start_paused = true)]
async fn absence_that_nobody_can_confirm_is_not_told(#[case] was_cut_off: bool) {
    let mut world = World::new();
    if was_cut_off {
        world.part(0).await;
        world.call(0, "a", Op::Create).await;
        world.call(0, "a", Op::Delete).await;
    } else {
        let new = NewJob { id: Some(id("a")), retention: Some(Duration::from_secs(1)), ..plain() };
        world.replicas[0].tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room");
        world.call(0, "a", Op::Succeed).await;
        world.part(0).await;
        world.clock.advance(Duration::from_secs(2));
    }
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    assert!(matches!(told, Err(JobError::StoreUnavailable)), "{told:?}");
}

/// The job was lost and not deleted, so it is restored however late.
#[tokio::test(start_paused = true)]
async fn job_known_to_be_lost_is_restored_after_any_time() {
    let world = serving_with_a_dirty_job().await;
    world.part(0).await;
    assert!(world.there("a").await.is_none(), "it was put back before the link was lost");
    world.clock.advance(LONG);
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_some_and(|job| job.removal.is_none()));
    assert_eq!(world.replicas[0].conflicts().await, 0);
}
