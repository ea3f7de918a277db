//! Reconciliations: passes, pushes, and the return to service.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures_util::future::join_all;
use jobtrack::{
    domain::{ANYONE, NewJob},
    store::{Durability, JobStore, PrimaryStore, StorageMode},
    watch::{Pace, Scope},
};
use rstest::rstest;
use tokio::time::{sleep, timeout};

use super::{
    serving_with_a_dirty_job,
    world::{Op, Replica, World},
};
use crate::support::jobs::{heartbeat, id, plain};

#[tokio::test(start_paused = true)]
async fn stream_opened_in_an_outage_receives_uncached_jobs_after_it() {
    let mut world = World::new();
    world.call(1, "a", Op::Create).await;
    world.part(0).await;
    let pace = Pace { min_interval: Duration::ZERO, bookmark_interval: Duration::from_secs(5) };
    let mut stream = world.replicas[0].tracker.on_behalf_of(&ANYONE).watch_jobs(Scope::default(), "", pace);
    assert!(stream.next().await.expect("it is open").stored.is_none(), "it is held after all");
    world.replicas[0].whole().await;
    let found = async { while stream.next().await.expect("it is open").stored.is_none() {} };
    timeout(Duration::from_secs(60), found).await.expect("the job is sent");
}

/// Entries that were compared with the same data stay compared, and versions are read in bounded batches.
#[tokio::test(start_paused = true)]
async fn interrupted_reconciliation_resumes() {
    const JOBS: usize = 1000;
    let world = World::new();
    let calls = world.replicas[0].tracker.on_behalf_of(&ANYONE);
    for number in 0..JOBS {
        calls.create(NewJob { id: Some(id(&format!("j{number}"))), ..plain() }).await.expect("there is room");
    }
    world.part(0).await;
    let reads = &world.replicas[0].link.reads;
    let before = reads.count.load(Relaxed);
    let first_part = JOBS * 6 / 10;
    reads.failing.store(before + first_part, Relaxed);
    world.replicas[0].whole().await;
    let largest = reads.largest.load(Relaxed);
    assert!((1..=first_part).contains(&largest), "{largest} versions are asked for at once");
    let count = reads.count.load(Relaxed) - before;
    assert!((JOBS..JOBS + first_part).contains(&count), "{count} reads for {JOBS} jobs: it began anew");
}

/// Jobs that were compared with data that has been lost since are compared again: if the loss happens while the
/// reconciliation is interrupted, and if it happens during one without an effect on the link.
#[rstest]
#[case::interrupted(true)]
#[case::under_way(false)]
#[tokio::test(start_paused = true)]
async fn pass_begins_anew_when_data_was_lost(#[case] interrupted: bool) {
    const JOBS: usize = 1000;
    let world = World::new();
    let calls = world.replicas[0].tracker.on_behalf_of(&ANYONE);
    let ids: Vec<_> = (0..JOBS).map(|number| id(&format!("j{number}"))).collect();
    for id in &ids {
        calls.create(NewJob { id: Some(id.clone()), ..plain() }).await.expect("there is room");
    }
    world.part(0).await;
    let link = &world.replicas[0].link;
    let lost_at = link.reads.count.load(Relaxed) + JOBS * 6 / 10;
    if interrupted {
        link.reads.failing.store(lost_at, Relaxed);
    }
    link.reads.millis.store(1, Relaxed);
    link.up.store(true, Relaxed);
    link.suspect();
    while link.reads.count.load(Relaxed) < lost_at {
        sleep(Duration::from_millis(1)).await;
    }
    world.record.restore(Vec::new()).await;
    world.replicas[0].whole().await;
    for id in &ids {
        let there = world.record.store().get(id).await.expect("it answers");
        assert!(there.is_some(), "{id} was not put back");
    }
}

/// Changes by others during an outage are known in the next one, also if it is the second of two.
#[tokio::test(start_paused = true)]
async fn every_outage_has_a_pass_of_its_own() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    for revision in 2..=3 {
        world.part(0).await;
        world.call(1, "a", Op::Report).await;
        world.replicas[0].whole().await;
        world.part(0).await;
        let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
        assert_eq!((told.durability, told.job.version.revision), (Durability::Volatile, revision));
        world.replicas[0].whole().await;
    }
}

/// The replica serves after one reconciliation, although a job has changed again in the meantime.
#[tokio::test(start_paused = true)]
async fn replica_comes_back_while_a_job_keeps_changing() {
    const MOST: usize = 1000;
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.part(0).await;
    world.call(0, "a", Op::Report).await;
    let Replica { link, store, tracker } = &world.replicas[0];
    // A push takes longer than the time between two changes.
    link.reads.millis.store(50, Relaxed);
    link.up.store(true, Relaxed);
    link.suspect();
    let mode = store.mode();
    for _ in 0..MOST {
        if *mode.borrow() == StorageMode::Redis {
            return;
        }
        tracker.on_behalf_of(&ANYONE).change(&id("a"), &heartbeat()).await.expect("it is accepted");
        sleep(Duration::from_millis(10)).await;
    }
    panic!("it does not serve after {MOST} changes");
}

/// The first beat says that the replica receives reports again, and the second that Redis has everything that it
/// acknowledged before. Before these beats no other replica knows that it acknowledges reports.
#[tokio::test(start_paused = true)]
async fn replica_that_comes_back_beats_twice_before_it_serves() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.part(0).await;
    let replica = &world.replicas[0];
    let before = replica.link.beats.load(Relaxed);
    let mut mode = replica.store.mode();
    replica.link.up.store(true, Relaxed);
    mode.wait_for(|mode| *mode == StorageMode::Redis).await.expect("it is there");
    assert_eq!(replica.link.beats.load(Relaxed) - before, 2);
}

#[tokio::test(start_paused = true)]
async fn dirty_job_is_pushed_before_its_next_change() {
    let world = serving_with_a_dirty_job().await;
    let tracker = &world.replicas[0].tracker;
    let told = tracker.on_behalf_of(&ANYONE).change(&id("a"), &heartbeat()).await.expect("it is accepted").stored;
    assert_eq!((told.durability, told.job.version.revision), (Durability::Durable, 2));
}

/// A caller that has waited for one answer in vain does not wait for another one, whether or not the check of the
/// primary is over by then.
#[tokio::test(start_paused = true)]
async fn call_that_waited_in_vain_to_read_does_not_wait_to_write() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let link = &world.replicas[0].link;
    link.hides.store(true, Relaxed);
    link.up.store(false, Relaxed);
    let calls = world.replicas[0].tracker.on_behalf_of(&ANYONE);
    let told = calls.change(&id("a"), &heartbeat()).await.expect("it is accepted").stored;
    assert_eq!((told.durability, told.job.version.revision), (Durability::Volatile, 2));
    assert_eq!(link.unanswered.load(Relaxed), 1);
}

/// Each of two pushes would find what the other one has just written.
#[tokio::test(start_paused = true)]
async fn pushes_of_a_job_never_overlap() {
    let world = serving_with_a_dirty_job().await;
    let Replica { link, tracker, .. } = &world.replicas[0];
    link.reads.millis.store(50, Relaxed);
    let calls = (0..3).map(async |_| tracker.on_behalf_of(&ANYONE).change(&id("a"), &heartbeat()).await);
    for outcome in join_all(calls).await {
        outcome.expect("it is accepted");
    }
    world.replicas[0].whole().await;
    assert_eq!(link.reads.most_at_once.load(Relaxed), 1);
}
