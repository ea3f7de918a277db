//! Due records, and the replica that handles them.

use std::time::Duration;

use jobtrack::{
    domain::{Job, JobId, Timestamp},
    store::{JobStore, RedisStore},
};

use super::{Bench, PARTITION, id_of_partition, ids_of_partition};
use crate::support::jobs::{apply, at, make, plain, success};

/// Returns the ids of the records that are due at `now` on the replica's clock.
async fn due(bench: &Bench, now: Timestamp) -> Vec<JobId> {
    let batch = bench.store.due(now, 100).await.expect("Redis answers");
    batch.records.into_iter().map(|record| record.stored.job.id.clone()).collect()
}

/// Stores a job that has ended, and expires at `expires`.
async fn put_ended(bench: &Bench, id: &JobId, expires: Timestamp) {
    let made = make(id.as_str(), 0, plain());
    bench.put(&made, None).await;
    let ended = apply(&made, &success(), 1);
    bench.put(&Job { expire_time: Some(expires), ..ended }, Some(&made)).await;
}

/// The deadlines of leases are times of Redis, whatever the clock of a replica says.
#[tokio::test]
async fn lease_is_due_by_the_clock_of_redis() {
    let bench = Bench::start().await;
    let job = bench.run(Duration::from_secs(30), true).await;
    bench.beat().await;
    assert_eq!(due(&bench, Timestamp::from_micros(i64::MAX)).await, [], "the lease holds");
    let key = format!("{}s:{{{PARTITION}}}:lease", bench.prefix);
    let moment = (bench.now().await - 1_000_000).to_string();
    let _: i64 = bench.ask(&["ZADD", &key, &moment, job.id.as_str()]).await;
    assert_eq!(due(&bench, at(2)).await, [job.id]);
}

/// Each of several replicas handles its share, and after a while what the others leave.
#[tokio::test]
async fn due_records_are_left_to_another_replica_for_a_while() {
    const JOBS: usize = 32;
    let bench = Bench::start().await;
    let ids: Vec<_> = ids_of_partition().take(JOBS).collect();
    for id in &ids {
        put_ended(&bench, id, at(10)).await;
    }
    bench.beat().await;
    bench.beat().await;
    assert_eq!(due(&bench, at(11)).await.len(), JOBS, "there is no other replica");
    bench.set_ago(&bench.beat_key(), "mark:another", 0).await;
    bench.beat().await;
    let share = due(&bench, at(11)).await.len();
    assert!((1..JOBS).contains(&share), "{share} of {JOBS}");
    assert_eq!(due(&bench, at(15)).await.len(), JOBS, "the other one is late");
}

/// A partition that can't be read does not hold up what is due in the others.
#[tokio::test]
async fn what_is_due_in_other_partitions_is_found() {
    let bench = Bench::start().await;
    let job = id_of_partition();
    put_ended(&bench, &job, at(10)).await;
    let other = (PARTITION + 1) % RedisStore::PARTITIONING.count;
    let _: String = bench.ask(&["SET", &format!("{}s:{{{other}}}:expire", bench.prefix), "no sorted set"]).await;
    assert_eq!(due(&bench, at(11)).await, [job]);
}
