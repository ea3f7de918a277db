//! Sentinels replace a master.

use std::time::Instant;

use super::{Replicas, complete_all, follow, ids, load::Load, watches};
use crate::support::redis::Sentinel;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_under_sentinels_is_killed() {
    let mut sentinel = Sentinel::start().await;
    let replicas = Replicas::start(&sentinel.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    sentinel.in_sync().await;

    sentinel.kill_master().await;
    let killed = Instant::now();
    let elected = sentinel.elected().await;
    load.good_since(elected).await;
    load.good_since(Instant::now()).await;
    let record = load.stop().await;

    record.assert_none_failed("killed master");
    assert!(record.disturbed() > 0, "nobody noticed");
    record.account("killed master", killed, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_sentinels_change_the_master() {
    let sentinel = Sentinel::start().await;
    let replicas = Replicas::start(&sentinel.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    sentinel.in_sync().await;

    let begun = Instant::now();
    let elected = sentinel.failover().await;
    load.good_since(elected).await;
    // Only now has the former master become a replica.
    sentinel.in_sync().await;
    println!("the old master is a replica {:?} after the election", elected.elapsed());
    load.good_since(Instant::now()).await;
    let record = load.stop().await;

    record.assert_none_failed("changed master");
    record.account("changed master", begun, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}
