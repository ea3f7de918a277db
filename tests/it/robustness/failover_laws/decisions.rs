//! Time-driven decisions of a replica that is cut off.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use jobtrack::{
    domain::{ANYONE, NewJob, State},
    store::{Durability, PrimaryStore},
};
use tokio::time::sleep;

use super::world::{Op, Step, World};
use crate::support::jobs::{id, plain};

#[tokio::test(start_paused = true)]
async fn cut_off_replica_fails_no_live_job() {
    let mut world = World::new();
    let lease_timeout = Duration::from_secs(30);
    let new = NewJob { id: Some(id("a")), lease_timeout, fail_when_lost: true, ..plain() };
    world.replicas[1].tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room");
    world.call(1, "a", Op::Report).await;
    _ = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    world.part(0).await;
    for _ in 0..2 {
        world.clock.advance(Duration::from_secs(20));
        world.call(1, "a", Op::Report).await;
    }
    world.replicas[0].tracker.sweep_due().await.expect("it answers");
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").state, State::Running);
}

#[tokio::test(start_paused = true)]
async fn cut_off_replica_expires_no_live_job() {
    let mut world = World::keeping_active_for(Duration::from_secs(60));
    world.call(1, "a", Op::Create).await;
    _ = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await;
    world.part(0).await;
    world.clock.advance(Duration::from_secs(40));
    world.call(1, "a", Op::Report).await;
    world.clock.advance(Duration::from_secs(40));
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!(told.durability, Durability::Volatile);
    world.replicas[0].tracker.sweep_due().await.expect("it answers");
    world.replicas[0].whole().await;
    assert!(world.there("a").await.is_some_and(|job| job.removal.is_none()));
}

/// A push may have been executed though no answer came: then others may hear the worker.
#[tokio::test(start_paused = true)]
async fn a_replica_that_is_cut_off_fails_no_job_that_it_may_have_pushed() {
    let mut world = World::new();
    world.part(0).await;
    let lease_timeout = Duration::from_secs(30);
    let new = NewJob { id: Some(id("a")), lease_timeout, fail_when_lost: true, ..plain() };
    world.replicas[0].tracker.on_behalf_of(&ANYONE).create(new).await.expect("there is room");
    world.call(0, "a", Op::Report).await;
    world.take(Step::LoseAnswer(0)).await;
    let link = &world.replicas[0].link;
    link.up.store(true, Relaxed);
    link.suspect();
    while world.there("a").await.is_none() {
        // The next attempt comes much later.
        sleep(Duration::from_millis(1)).await;
    }
    world.part(0).await;
    world.clock.advance(2 * lease_timeout);
    let replica = &world.replicas[0].tracker;
    replica.sweep_due().await.expect("it answers");
    let told = replica.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!((told.durability, told.job.state), (Durability::Volatile, State::Running));
}
