//! Versions of jobs: read back, replaced and forgotten.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    domain::{Change, Filter, Job, NewJob, Version},
    store::Replaced,
};

use super::Bench;
use crate::support::jobs::{apply, failure, heartbeat, job, make, plain, retry, start, success};

pub async fn new_store_is_empty(bench: Bench) {
    assert_eq!(bench.get("a").await, None);
    assert!(bench.list(&Filter::default(), 10).await.is_empty());
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([0; 5]));
    bench.store.ping().await.expect("the store answers");
}

pub async fn stored_versions_are_read_back(bench: Bench) {
    // Documents read back are equal to those written: the fields keep their order.
    let metadata = serde_json::from_str(r#"{"z": 1.5, "list": [null, true, "x", {}], "": -0.0, "a": 1e300}"#).ok();
    let labels = [("k".to_owned(), "v".to_owned())].into();
    let new = NewJob { metadata, labels, owner: "o".into(), retention: Some(Duration::ZERO), ..plain() };
    let made = bench.add(make("a", 1, new)).await;
    assert_eq!(bench.get("a").await, Some(made.clone()));
    let done = bench.change(&bench.change(&made, &heartbeat(), 2).await, &failure(), 3).await;
    assert_eq!(bench.get("a").await, Some(done));
}

/// Checks each version of a job that waits, is claimed, fails for another attempt and is to be cancelled.
pub async fn attempts_are_read_back(bench: Bench) {
    const MINUTE: Duration = Duration::from_secs(60);
    // A lease that seems expired is shown as it runs in the store.
    const FAR: i64 = 4_000_000_000;
    let made = bench.add(make("a", FAR, NewJob { start_timeout: MINUTE, lease_timeout: MINUTE, ..plain() })).await;
    assert_eq!(bench.get("a").await, Some(made.clone()));
    let mut current = made;
    let cancel =
        Change::Cancel { reason: "r".into(), requester: "q".into(), force: false, grace: Duration::from_secs(9) };
    for change in [start("one"), retry(), start("two"), cancel] {
        current = bench.change(&current, &change, FAR + current.version.revision).await;
        assert_eq!(bench.get("a").await, Some(current.clone()), "after {change:?}");
    }
    assert_eq!((current.attempts.len(), current.claim.is_some()), (1, true));
}

pub async fn write_requires_the_current_version(bench: Bench) {
    let made = job("a", 1);
    assert_eq!(bench.conflict(&apply(&made, &heartbeat(), 2), Some(&made)).await, None, "nothing is there yet");
    bench.add(made.clone()).await;
    let next = apply(&made, &heartbeat(), 2);
    assert_eq!(bench.conflict(&next, None).await, Some(made.clone()));

    let version = made.version;
    let other_stamp = Version { change_id: next.version.change_id, ..version };
    let other_life = Version { incarnation_id: uuid::Uuid::new_v4(), ..version };
    let other_revision = Version { revision: 7, ..version };
    for wrong in [other_stamp, other_life, other_revision, next.version] {
        let wrong = Job { version: wrong, ..made.clone() };
        assert_eq!(bench.conflict(&next, Some(&wrong)).await, Some(made.clone()), "{:?}", wrong.version);
    }
    bench.put(&next, Some(&made)).await;
    let rival = apply(&made, &heartbeat(), 2);
    assert_eq!(bench.conflict(&rival, Some(&made)).await, Some(next.clone()));

    bench.put(&next, Some(&made)).await;
    assert_eq!(bench.get("a").await, Some(next), "the same write again");
}

pub async fn of_racing_writes_one_wins(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let rivals: Vec<_> = (0..16).map(|_| apply(&made, &heartbeat(), 2)).collect();
    let writes = rivals.iter().map(|rival| bench.store.replace(Arc::new(rival.clone()), Some(&made)));
    let outcomes = futures_util::future::join_all(writes).await;
    let won = outcomes.into_iter().filter_map(|outcome| match outcome.expect("the store answers") {
        Replaced::Stored(stored) => Some(stored.job.version),
        Replaced::Conflict(_) => None,
    });
    let won: Vec<_> = won.collect();
    assert_eq!(won.len(), 1);
    assert_eq!(bench.get("a").await.map(|job| job.version), won.first().copied());
}

pub async fn counts_follow_the_states(bench: Bench) {
    let a = bench.add(job("a", 1)).await;
    let b = bench.add(job("b", 1)).await;
    let c = bench.add(job("c", 1)).await;
    bench.change(&bench.change(&a, &heartbeat(), 2).await, &success(), 3).await;
    bench.change(&b, &heartbeat(), 2).await;
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([1, 1, 1, 0, 0]));
    bench.change(&c, &Change::Delete { force: true }, 4).await;
    assert_eq!(bench.store.stats().await.expect("the store answers").counts, Some([0, 1, 1, 0, 0]));
}

pub async fn a_record_is_forgotten_only_at_its_version(bench: Bench) {
    let made = bench.add(job("a", 1)).await;
    let gone = bench.change(&made, &Change::Delete { force: true }, 2).await;
    bench.store.delete(&made).await.expect("the store answers");
    assert_eq!(bench.get("a").await, Some(gone.clone()));
    bench.store.delete(&gone).await.expect("the store answers");
    assert_eq!(bench.get("a").await, None);
    bench.store.delete(&gone).await.expect("once more changes nothing");
    bench.add(job("a", 3)).await;
}
