//! The time that a purge takes.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    clock::SystemClock,
    domain::{
        ANYONE, Change, Completion, Filter, NewJob, Retention,
        State::{Cancelled, Failed, Succeeded},
    },
    store::MemoryStore,
    tracker::{Purge, Tracker},
    watch::Hub,
};

use crate::support::{
    jobs::{id, plain},
    pace::thread_time,
};

/// Returns the time that purging one of so many jobs takes.
async fn time_per_purged_job(jobs: u32) -> Duration {
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(jobs as usize, hub.clone()));
    let zero = Duration::ZERO;
    let retention = Retention { succeeded: zero, failed: zero, cancelled: zero, active: zero };
    let tracker = Tracker::new(store, hub, Arc::new(SystemClock), retention);
    let calls = tracker.on_behalf_of(&ANYONE);
    let completion = Completion { outcome: None, attempt: None, claim: None, expected_revision: None };
    for number in 0..jobs {
        let id = id(&format!("j-{number}"));
        calls.create(NewJob { id: Some(id.clone()), ..plain() }).await.expect("there is room");
        calls.change(&id, &Change::Complete(completion.clone())).await.expect("it ends");
    }
    let states = [Succeeded, Failed, Cancelled].into();
    let filter = Filter { states, ..Filter::default() };
    let mut request = Purge { filter, ended_by: None, dry_run: false, after: None };
    let (begun, mut count) = (thread_time(), 0);
    loop {
        let part = calls.purge(&request, Duration::from_secs(60)).await.expect("memory answers");
        count += part.count;
        request.after = part.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(count, u64::from(jobs));
    thread_time().saturating_sub(begun) / jobs
}

#[tokio::test]
async fn time_to_purge_a_job_does_not_grow_with_their_number() {
    let mut times = [Duration::MAX; 2];
    for _ in 0..3 {
        for (time, jobs) in times.iter_mut().zip([2_000, 20_000]) {
            *time = (*time).min(time_per_purged_job(jobs).await);
        }
    }
    let [few, many] = times;
    println!("{few:?} for each of 2000 jobs, {many:?} for each of 20000");
    assert!(many <= 2 * few, "{few:?} for each of 2000 jobs, {many:?} for each of 20000");
}

#[tokio::test]
#[ignore = "it makes a million jobs"]
async fn a_million_jobs_are_purged_at_20000_a_second() {
    let time = time_per_purged_job(1_000_000).await;
    println!("{time:?} for each job");
    assert!(time <= Duration::from_secs(1) / 20_000, "{time:?} for each job");
}
