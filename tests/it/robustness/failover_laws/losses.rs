//! Losses of data in the middle of a reconciliation.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use jobtrack::{
    domain::{ANYONE, NewJob, State},
    store::{CommitEvent, JobStore, Listener, PrimaryStore},
};
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
    world.replicas[0].link.held.on_commit(CommitEvent { stored: there, position: 0, previous: None });
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").state, State::Succeeded);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}
