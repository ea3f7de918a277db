//! Cases that were found by reasoning, or by the random operations.

use std::{
    sync::{Arc, Mutex, atomic::Ordering::Relaxed},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use jobtrack::{
    domain::{ANYONE, Job, JobError, Limit, NewJob, Removal, State},
    store::{
        CommitEvent, Durability, JobStore, Listener, LocalCache, Partitioning, Presence, PrimaryStore, Route, Source,
        StorageMode, StoreError, Stored,
    },
    watch::{Pace, Scope},
};
use rstest::rstest;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use super::world::{Deaf, Op, Replica, Step, StepClock, World, durable};
use crate::support::jobs::{apply, at, change_context, heartbeat, id, job, plain, success};

/// Longer than the life of a tombstone.
const LONG: Duration = Duration::from_secs(24 * 3600 + 1);

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
    world.replicas[0].link.held.on_commit(CommitEvent { stored: there, position: 0, previous: None });
    world.replicas[0].whole().await;
    assert_eq!(world.there("a").await.expect("it is there").state, State::Succeeded);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

#[tokio::test(start_paused = true)]
async fn losing_durable_report_is_reported() {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    world.call(1, "a", Op::Report).await;
    world.take(Step::Save).await;
    world.call(0, "a", Op::Report).await;
    let version = world.acknowledged["a"].job.version;
    world.take(Step::Lose { all: false }).await;
    world.replicas[1].whole().await;
    world.call(1, "a", Op::Fail).await;
    world.replicas[0].whole().await;
    assert_ne!(world.there("a").await.expect("it is there").version.change_id, version.change_id);
    assert_eq!(world.replicas[0].conflicts().await, 1);
}

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

/// Redis lacks what was acknowledged of a dirty job, so the mark stays at the time of the last beat before.
#[rstest]
#[case::accepted(false)]
#[case::lost(true)]
fn dirty_job_holds_the_mark_back(#[case] is_lost: bool) {
    let presence = Arc::new(Presence::new(1));
    presence.set_serving(0, true);
    let clock = Arc::new(StepClock::default());
    let held = LocalCache::new(100, Arc::new(Deaf), clock, Partitioning::SINGLE, presence.clone());
    assert!(held.set_available(0));
    let job = job("a", 1);
    held.learn(&recorded(job.clone()), None);
    presence.beat_answered(0, at(10), at(1));
    if is_lost {
        let Route::Primary(token) = held.route_read(&job.id) else { panic!("it is clean") };
        held.mark_record_lost(&job.id, token).expect("it is held");
    } else {
        held.accept(Arc::new(apply(&job, &heartbeat(), 2)), Some(&job), true).expect("there is room");
    }
    presence.beat_answered(0, at(20), at(1));
    assert_eq!(presence.mark(0), Some(at(10)));
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

/// Callers wait for the lock that the removal holds.
#[test]
fn expired_entries_are_removed_a_few_at_a_time() {
    const OVER: usize = 1000;
    let held = cache(2 * OVER, Arc::new(Deaf));
    assert!(held.set_available(0));
    for number in 0..OVER {
        let ended = apply(&job(&format!("j{number}"), 1), &success(), 2);
        held.learn(&recorded(Job { expire_time: Some(at(3)), ..ended }), None);
    }
    assert!(held.tidy().now_or_never().is_none(), "nobody else had a turn");
    let removed = OVER - held.count();
    assert!((1..=OVER / 2).contains(&removed), "{removed} of {OVER} were removed at once");
}

/// Returns a world with a serving replica, which has a dirty job whose record alone was lost.
async fn serving_with_a_dirty_job() -> World {
    let mut world = World::new();
    world.call(0, "a", Op::Create).await;
    let there = world.there("a").await.expect("it is there");
    world.record.store().delete(&there).await.expect("it answers");
    let told = world.replicas[0].tracker.on_behalf_of(&ANYONE).get(&id("a"), None).await.expect("it is held");
    assert_eq!(told.durability, Durability::Volatile);
    world
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

#[tokio::test(start_paused = true)]
async fn number_of_dirty_tombstones_is_bounded() {
    const MOST: usize = 100;
    let held = cache(MOST, Arc::new(Deaf));
    for number in 0.. {
        let job = Arc::new(job(&format!("j{number}"), 1));
        match held.accept(job.clone(), None, false) {
            Err(error) => {
                assert_eq!(error, StoreError::Full(Limit::MemoryJobs(MOST)));
                break;
            }
            accepted => _ = accepted.expect("there is room"),
        }
        let gone = Arc::new(job.expired(at(2), change_context(2).change_id));
        held.accept(gone, Some(&job), false).expect("it is held already");
    }
    assert_eq!(held.dirty(), MOST);
}

/// A version of another replica, or the result of an earlier push, does not replace a change that was accepted since.
#[test]
fn dirty_entry_stays_until_exactly_its_version_is_stored() {
    let held = cache(100, Arc::new(Deaf));
    assert!(held.set_available(0));
    let first = job("a", 1);
    held.learn(&recorded(first.clone()), None);
    let [sent, rival] = [2, 3].map(|second| apply(&first, &heartbeat(), second));
    held.accept(Arc::new(sent.clone()), Some(&first), true).expect("there is room");
    let next = apply(&sent, &heartbeat(), 4);
    held.accept(Arc::new(next.clone()), Some(&sent), false).expect("there is room");
    let newer = apply(&apply(&rival, &heartbeat(), 5), &heartbeat(), 6);
    held.learn(&recorded(newer), None);
    held.mark_synced(&sent, &recorded(sent.clone()));
    let accepted = held.accepted(&first.id).expect("Redis does not have it");
    assert_eq!((accepted.job.version, held.dirty()), (next.version, 1));
    held.mark_synced(&next, &recorded(next.clone()));
    assert_eq!(held.dirty(), 0);
}

/// If Redis may have a version, another replica may know more of the job.
#[test]
fn only_unsent_jobs_are_decided_locally() {
    let held = cache(100, Arc::new(Deaf));
    let [unsent, sent] = ["unsent", "sent"].map(|name| Job { expire_time: Some(at(2)), ..job(name, 1) });
    held.accept(Arc::new(unsent.clone()), None, false).expect("there is room");
    held.accept(Arc::new(sent.clone()), None, true).expect("there is room");
    assert!(decides(&held, &unsent) && !decides(&held, &sent));
    let next = apply(&sent, &heartbeat(), 2);
    held.accept(Arc::new(next.clone()), Some(&sent), false).expect("there is room");
    assert!(!decides(&held, &next), "the job was sent");
    held.mark_sent(std::slice::from_ref(&unsent.id));
    assert!(!decides(&held, &unsent));
}

/// Returns whether the replica itself decides about the next due action of a job.
fn decides(held: &LocalCache, job: &Job) -> bool {
    job.deadline().is_some_and(|deadline| held.decides(job, &deadline))
}

/// The times of jobs in Redis are by the clock of Redis already.
#[test]
fn times_of_accepted_jobs_move_when_the_clock_is_set() {
    let held = cache(100, Arc::new(Deaf));
    let accepted = Job { expire_time: Some(at(2)), ..job("accepted", 1) };
    held.accept(Arc::new(accepted.clone()), None, false).expect("there is room");
    let clean = Job { since: Some(at(1)), ..job("clean", 1) };
    held.learn(&recorded(clean.clone()), None);
    assert!(decides(&held, &accepted), "it is due");

    held.set_clock(&|| i64::MAX / 2);
    let moved = held.accepted(&accepted.id).expect("Redis does not have it").job;
    assert_eq!(moved.version, accepted.version);
    assert_eq!(moved.create_time, at(1).moved(i64::MAX / 2));
    assert_eq!(moved.deadline(), accepted.deadline());
    assert!(!decides(&held, &accepted), "it was due by the wrong clock");
    assert_eq!(held.entry(&clean.id).expect("it is held").job.create_time, clean.create_time);
}

/// The first end to be stored wins, so ends must not wait behind reports.
#[test]
fn ended_jobs_are_pushed_first() {
    let held = cache(100, Arc::new(Deaf));
    for name in ["a", "b", "c"] {
        let job = job(name, 1);
        held.accept(Arc::new(job.clone()), None, false).expect("there is room");
        if name == "b" {
            held.accept(Arc::new(apply(&job, &success(), 2)), Some(&job), false).expect("it is held already");
        }
    }
    let first: Vec<_> = held.first_dirty(0, 2).iter().map(|entry| entry.job.id.to_string()).collect();
    assert_eq!(first, ["b", "a"]);
}

pub fn cache(max_jobs: usize, listener: Arc<dyn Listener>) -> LocalCache {
    let clock = Arc::new(StepClock::default());
    let presence = Arc::new(Presence::new(1));
    presence.set_serving(0, true);
    LocalCache::new(max_jobs, listener, clock, Partitioning::SINGLE, presence)
}

pub fn recorded(job: Job) -> Stored {
    Stored { job: Arc::new(job), durability: Durability::Durable, source: Source::Redis }
}

#[derive(Default)]
struct Counter(Mutex<usize>);

impl Listener for Counter {
    fn on_commit(&self, _: CommitEvent) {
        *self.0.lock().expect("no test panics here") += 1;
    }
}

#[test]
fn new_incarnation_is_announced_after_its_tombstone_was_forgotten() {
    let seen = Arc::new(Counter::default());
    let held = cache(100, seen.clone());
    assert!(held.set_available(0));
    let first = job("a", 1);
    let gone = first.expired(at(2), change_context(2).change_id);
    let second = Job::create(id("a"), plain(), Some(&gone), Uuid::new_v4(), &change_context(3));
    held.learn(&recorded(second.expired(at(4), change_context(4).change_id)), None);
    held.learn(&recorded(job("a", 700)), None);
    assert_eq!(*seen.0.lock().expect("no test panics here"), 2);
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

/// A watcher that began between the two, and listed the jobs of the primary, has not received the version yet.
#[test]
fn accepted_version_is_announced_again_when_it_is_stored() {
    let seen = Arc::new(Counter::default());
    let held = cache(100, seen.clone());
    assert!(held.set_available(0));
    let first = job("a", 1);
    held.learn(&recorded(first.clone()), None);
    let next = apply(&first, &heartbeat(), 2);
    held.accept(Arc::new(next.clone()), Some(&first), false).expect("there is room");
    assert_eq!(*seen.0.lock().expect("no test panics here"), 2);
    held.mark_synced(&next, &recorded(next.clone()));
    assert_eq!(*seen.0.lock().expect("no test panics here"), 3);
}

#[derive(Default)]
struct Record(Mutex<Vec<(String, Option<Removal>, i64)>>);

impl Listener for Record {
    fn on_commit(&self, event: CommitEvent) {
        let job = &event.stored.job;
        self.0.lock().expect("no test panics here").push((job.owner.clone(), job.removal, job.version.revision));
    }
}

/// The watchers of one owner's jobs don't see the other owner's job.
#[rstest]
#[case::when_it_is_pushed(true)]
#[case::when_it_is_read(false)]
fn a_job_whose_id_another_owner_has_is_announced_as_removed(#[case] is_dirty: bool) {
    let seen = Arc::new(Record::default());
    let held = cache(100, seen.clone());
    assert!(held.set_available(0));
    let of = |owner: &str, time| {
        let new = NewJob { owner: owner.to_owned(), ..plain() };
        Job::create(id("a"), new, None, Uuid::new_v4(), &change_context(time))
    };
    let (lost, mut stands) = (of("alice", 1), of("bob", 2));
    stands.version.revision = 2;
    if is_dirty {
        held.accept(Arc::new(lost.clone()), None, false).expect("there is room");
        held.mark_synced(&lost, &recorded(stands));
    } else {
        held.learn(&recorded(lost), None);
        held.learn(&recorded(Job { since: Some(at(1)), ..stands }), None);
    }
    let seen = seen.0.lock().expect("no test panics here");
    let alice = |removal| ("alice".to_owned(), removal, 1);
    // The winning job has a higher revision than the removal, so that readers of both owners receive it.
    assert_eq!(*seen, [alice(None), alice(Some(Removal::Expired)), ("bob".to_owned(), None, 2)]);
}

/// Covers the time between the beats that announce a replica as serving, and the moment at which it serves.
#[test]
fn partition_that_a_call_finds_unavailable_is_not_made_available() {
    let held = cache(100, Arc::new(Deaf));
    held.set_unavailable(0, false);
    assert!(!held.set_available(0));
    assert!(held.is_unavailable(0));
}
