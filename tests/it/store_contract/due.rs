//! Due records, and decisions about them.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    clock::{Clock, SystemClock},
    domain::{Applied, Change, ChangeContext, Due, Job, JobId, NewJob, TOMBSTONE_LIFE, Timestamp},
    store::{Decided, Decision},
};

use super::Bench;
use crate::support::jobs::{at, change_context, heartbeat, id, job, make, plain, success};

pub async fn due_records_come_in_order(bench: Bench) {
    let due = async |seconds, limit| -> (Vec<(JobId, Due)>, Option<Timestamp>) {
        let batch = bench.store.due(at(seconds), limit).await.expect("the store answers");
        (batch.records.into_iter().map(|record| (record.stored.job.id.clone(), record.due)).collect(), batch.next)
    };
    assert_eq!(due(1_000_000, 10).await, (vec![], None));
    for (name, seconds) in [("late", 50), ("soon", 10), ("kept", 5)] {
        let made = bench.add(make(name, 0, NewJob { retention: Some(Duration::from_secs(seconds)), ..plain() })).await;
        bench.change(&made, &success(), if name == "kept" { 30 } else { 1 }).await;
    }
    let gone = bench.add(job("gone", 0)).await;
    bench.change(&gone, &Change::Delete { force: true }, 20).await;
    let forget = at(20) + TOMBSTONE_LIFE;

    assert_eq!(due(10, 10).await, (vec![], Some(at(11))));
    assert_eq!(due(11, 10).await, (vec![(id("soon"), Due::Expire)], Some(at(35))));
    let all = [("soon", Due::Expire), ("kept", Due::Expire), ("late", Due::Expire), ("gone", Due::Forget)];
    let all = all.map(|(name, due)| (id(name), due));
    assert_eq!(due(1_000_000, 10).await, (all.to_vec(), None));
    assert_eq!(due(1_000_000, 2).await.0, all[..2]);
    assert_eq!(due(60, 10).await, (all[..3].to_vec(), Some(forget)));

    let soon = bench.get("soon").await.expect("it is there");
    bench.change(&soon, &Change::Expire, 60).await;
    assert_eq!(due(60, 10).await.0, all[1..3], "what was carried out is no longer due");
}

/// Leases run on the store's own clock, from the last report.
pub async fn a_lease_runs_from_the_last_report(bench: Bench) {
    const LEASE: Duration = Duration::from_millis(300);
    let now = || SystemClock.now();
    let change_at = |job: &Job, change: &Change| {
        let context = ChangeContext { now: now(), ..change_context(0) };
        match job.apply(change, &context).expect("it can be made") {
            Applied::Changed(next) => *next,
            _ => panic!("{change:?} changes nothing"),
        }
    };
    let made = bench.add(make("a", 0, NewJob { lease_timeout: LEASE, ..plain() })).await;
    let mut running = made;
    let mut reported = now();
    for _ in 0..3 {
        let next = change_at(&running, &heartbeat());
        reported = now();
        bench.put(&next, Some(&running)).await;
        running = next;
    }
    let due = loop {
        let batch = bench.store.due(now(), 10).await.expect("the store answers");
        if let Some(due) = batch.records.into_iter().next() {
            break due;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    };
    assert!(now().since(reported) >= LEASE, "it is due before the lease is over");
    assert_eq!((due.due, due.stored.job.version), (Due::LoseWorker, running.version));
    let lost = change_at(&running, &Change::LoseWorker);
    let lost = Arc::new(lost);
    loop {
        // The replicas of a store must show that workers can report to them.
        bench.store.ping().await.expect("the store answers");
        let deadline = running.silence_deadline().expect("it runs under a lease");
        let decision = Decision { deadline, is_revertible: true, is_due: true, now: now() };
        match bench.store.decide(lost.clone(), &running, decision).await.expect("the store answers") {
            Decided::Stored(stored) => break assert_eq!(stored.job.version, lost.version),
            Decided::Deferred => tokio::time::sleep(Duration::from_millis(10)).await,
            Decided::Conflict => panic!("nobody else changes it"),
        }
    }
    assert!(bench.store.due(now(), 10).await.expect("the store answers").records.is_empty());
}
