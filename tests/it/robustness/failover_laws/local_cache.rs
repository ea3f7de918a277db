//! The local cache alone: eviction, dirty entries and announcements.

use std::sync::{Arc, Mutex};

use futures_util::FutureExt;
use jobtrack::{
    domain::{Job, Limit, NewJob, Removal},
    store::{CommitEvent, Listener, LocalCache, Partitioning, Presence, Route, StoreError},
};
use rstest::rstest;
use uuid::Uuid;

use super::world::StepClock;
use crate::support::{
    jobs::{apply, at, change_context, heartbeat, id, job, plain, success},
    stores::{Deaf, recorded},
};

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
    held.learn(&recorded(job.clone()));
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

/// Callers wait for the lock that the removal holds.
#[test]
fn expired_entries_are_removed_a_few_at_a_time() {
    const OVER: usize = 1000;
    let held = cache(2 * OVER, Arc::new(Deaf));
    assert!(held.set_available(0));
    for number in 0..OVER {
        let ended = apply(&job(&format!("j{number}"), 1), &success(), 2);
        held.learn(&recorded(Job { expire_time: Some(at(3)), ..ended }));
    }
    assert!(held.tidy().now_or_never().is_none(), "nobody else had a turn");
    let removed = OVER - held.count();
    assert!((1..=OVER / 2).contains(&removed), "{removed} of {OVER} were removed at once");
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
    held.learn(&recorded(first.clone()));
    let [sent, rival] = [2, 3].map(|second| apply(&first, &heartbeat(), second));
    held.accept(Arc::new(sent.clone()), Some(&first), true).expect("there is room");
    let next = apply(&sent, &heartbeat(), 4);
    held.accept(Arc::new(next.clone()), Some(&sent), false).expect("there is room");
    let newer = apply(&apply(&rival, &heartbeat(), 5), &heartbeat(), 6);
    held.learn(&recorded(newer));
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
    held.learn(&recorded(clean.clone()));
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
    held.learn(&recorded(second.expired(at(4), change_context(4).change_id)));
    held.learn(&recorded(job("a", 700)));
    assert_eq!(*seen.0.lock().expect("no test panics here"), 2);
}

/// A watcher that began between the two, and listed the jobs of the primary, has not received the version yet.
#[test]
fn accepted_version_is_announced_again_when_it_is_stored() {
    let seen = Arc::new(Counter::default());
    let held = cache(100, seen.clone());
    assert!(held.set_available(0));
    let first = job("a", 1);
    held.learn(&recorded(first.clone()));
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
        held.learn(&recorded(lost));
        held.learn(&recorded(Job { since: Some(at(1)), ..stands }));
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
