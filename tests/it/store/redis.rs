//! The Redis store alone: its checks, its due records, and its reactions to changes of Redis. Nothing runs in the
//! background unless a test starts it.

use std::time::Duration;

use futures_util::future::join_all;
use jobtrack::{
    domain::{Job, JobId, Timestamp},
    store::{JobStore, PartitionState, PrimaryStore, RedisStore, StoreError},
};

use super::redis_time::{Bench, PARTITION, id_of_partition, ids_of_partition, open};
use crate::support::{
    jobs::{apply, at, job, make, plain, success},
    redis::Redis,
    relay::{Link, Relay},
};

/// All other replicas compare their cached jobs once for a loss, however many replicas have noticed it.
#[tokio::test]
async fn loss_that_two_replicas_noticed_begins_one_lineage() {
    let bench = Bench::start().await;
    bench.run(Duration::from_secs(30), true).await;
    // Both know the commit counts from the start.
    let replicas = [bench.another().await, bench.another().await];
    for replica in &replicas {
        replica.ping().await.expect("Redis answers");
    }
    let before = bench.beat().await.fields["lineage"].clone();
    let _: i64 = bench.ask(&["DEL", &format!("{}s:{{{PARTITION}}}:commits", bench.prefix)]).await;
    for replica in &replicas {
        replica.ping().await.expect("Redis answers");
    }
    let mut lineages = vec![before];
    for replica in &replicas {
        replica.beat(PARTITION).await.expect("Redis answers");
        lineages.push(bench.beat().await.fields["lineage"].clone());
    }
    assert!(lineages[1] != lineages[0] && lineages[2] == lineages[1], "{lineages:?}");
}

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

/// Callers whose commands failed share one check.
#[tokio::test]
async fn checks_that_are_asked_for_together_are_one() {
    const ASKED: usize = 50;
    // No other replica sends beats there. The server ends with the process of the tests.
    let bench = Bench::on(Box::leak(Box::new(Redis::start().await))).await;
    let [before] = bench.redis.calls(["hgetall"]).await;
    for outcome in join_all((0..ASKED).map(|_| bench.store.ping())).await {
        outcome.expect("Redis answers");
    }
    let [after] = bench.redis.calls(["hgetall"]).await;
    let checks = usize::try_from(after - before).expect("a count").div_ceil(RedisStore::PARTITIONING.count);
    // Callers that come during a check wait for the next one.
    assert!((1..=2).contains(&checks), "{checks} checks for {ASKED} who asked");
}

/// A single answer may be late on a busy machine.
#[tokio::test(flavor = "multi_thread")]
async fn one_late_answer_makes_no_partition_unavailable() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (store, _) = open(&relay.url(), "late", Duration::from_secs(1)).await;
    store.ping().await.expect("Redis answers");
    let states = store.states();
    let are = |state: PartitionState| states.borrow().iter().all(|other| *other == state);
    assert!(are(PartitionState::Serving));
    relay.set_all(Link::Hole);
    store.ping().await.expect_err("Redis does not answer");
    assert!(are(PartitionState::Serving), "{:?}", states.borrow());
    store.ping().await.expect_err("Redis does not answer");
    assert!(are(PartitionState::Unavailable), "{:?}", states.borrow());
}

/// A restarted server may have lost data. No call is answered from it before that has been checked.
#[tokio::test(flavor = "multi_thread")]
async fn first_command_after_an_unnoticed_restart_is_not_answered() {
    let mut redis = Redis::start().await;
    let (store, _) = open(&redis.url(), "restarted", Duration::from_secs(4)).await;
    let job = job("a", 1);
    store.replace(job.clone().into(), None).await.expect("Redis answers");
    redis.restart_empty().await;
    for _ in 0..3 {
        let answer = store.get(&job.id).await;
        assert!(matches!(answer, Err(StoreError::Unavailable)), "{answer:?}");
    }
    store.expect_restart(true);
    assert!(store.get(&job.id).await.expect("the restart is expected").is_none());
}
