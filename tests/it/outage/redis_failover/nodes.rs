//! A cluster loses the master of some jobs.

use std::{
    cmp::Reverse,
    collections::BTreeSet,
    time::{Duration, Instant},
};

use super::{Replicas, SOON, complete_all, follow, ids, ids_of, load::Load, record::Record, watches};
use crate::support::{records::PARTITIONS, redis::Cluster};

/// The fault of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// Its connections are closed, and new ones are refused.
    Killed,
    /// It answers nothing. Its connections stay open, and new ones can be opened.
    Stopped,
}

/// Removes the master of some jobs of a cluster under load, while the other masters continue to serve. Returns the
/// record of the other jobs, and the times of the fault and of the election.
async fn lose_a_master(what: &str, fate: Fate, flags: &[&str]) -> (Record, Instant, Instant) {
    let mut cluster = Cluster::with(Duration::from_secs(1), flags).await;
    let replicas = Replicas::start(&cluster.url()).await;
    let ids = ids(2);
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    let slot = cluster.slot("{5}").await;
    let port = cluster.master_of_slot(slot).await.port;
    let mut orphans = BTreeSet::new();
    for partition in 0..PARTITIONS {
        let slot = cluster.slot(&format!("{{{partition}}}")).await;
        if cluster.master_of_slot(slot).await.port == port {
            orphans.extend(ids_of(partition, 2));
        }
    }
    assert!(!orphans.is_empty() && orphans.len() < ids.len(), "{orphans:?}");
    println!("{what}: {} of {} jobs are in the slots of the master that is lost", orphans.len(), ids.len());

    match fate {
        Fate::Killed => cluster.kill_master_of_slot(slot).await,
        Fate::Stopped => cluster.master_of_slot(slot).await.signal("STOP"),
    }
    let killed = Instant::now();
    let elected = cluster.elected().await;
    load.good_since(elected).await;
    load.good_since(Instant::now()).await;
    let (orphaned, others) = load.stop().await.split(&orphans);

    orphaned.assert_none_failed(what);
    assert!(orphaned.disturbed() > 0, "nobody noticed");
    orphaned.account(what, killed, elected);
    let others_are = format!("{what}, jobs elsewhere");
    others.assert_none_failed(&others_are);
    others.account(&others_are, killed, elected);
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
    (others, killed, elected)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_of_a_cluster_is_killed() {
    lose_a_master("killed node", Fate::Killed, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_are_good_soon_after_a_master_of_a_cluster_falls_silent() {
    lose_a_master("silent node", Fate::Stopped, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_node_does_not_concern_jobs_elsewhere() {
    assert_jobs_elsewhere_go_on("killed node of a partial cluster", Fate::Killed).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_node_does_not_concern_jobs_elsewhere() {
    assert_jobs_elsewhere_go_on("silent node of a partial cluster", Fate::Stopped).await;
}

async fn assert_jobs_elsewhere_go_on(what: &str, fate: Fate) {
    let flags = ["--cluster-require-full-coverage", "no"];
    let (others, killed, elected) = lose_a_master(what, fate, &flags).await;
    let since_kill = |time: Instant| time.saturating_duration_since(killed);
    let in_gap: Vec<_> = others.calls().filter(|call| call.ended > killed && call.begun < elected).collect();
    let volatile: Vec<_> = in_gap.iter().filter(|call| call.is_volatile()).collect();
    let first = volatile.iter().map(|call| since_kill(call.begun)).min();
    let last = volatile.iter().map(|call| since_kill(call.ended)).max();
    let mut slow: Vec<_> = in_gap.iter().map(|call| (call.ended - call.begun, since_kill(call.begun))).collect();
    slow.sort_by_key(|&(took, _)| Reverse(took));
    slow.truncate(5);
    println!(
        "{what}, elsewhere, in the {:?} of the gap: {} calls, {} volatile, from {first:?} to {last:?} after the kill; \
         the longest (took, begun after the kill): {slow:?}",
        elected - killed,
        in_gap.len(),
        volatile.len(),
    );
    // While the client reads the slot map, which a silent node delays, all its commands wait.
    let longest = slow.first().map_or(Duration::ZERO, |(took, _)| *took);
    assert!(longest < others.pace.scale(SOON / 4), "{fate:?}: a call elsewhere took {longest:?}");
}
