//! The checks of the store, and its reactions to changes of Redis.

use std::time::Duration;

use futures_util::future::join_all;
use jobtrack::store::{JobStore, PartitionState, PrimaryStore, RedisStore, StoreError};

use super::{Bench, PARTITION, open};
use crate::support::{
    jobs::job,
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
