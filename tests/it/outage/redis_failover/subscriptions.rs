//! Watchers on a replica receive the changes on all nodes of a cluster.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use ::redis::{Value, from_redis_value};
use tokio::time::{sleep, timeout};

use super::{PACE, Replicas, SOON, WAIT_TIMEOUT, complete_all, follow, ids, load::Load, watches};
use crate::support::{
    create,
    pace::scaled,
    records::{PARTITIONS, partition},
    redis::Cluster,
    replicas::try_get,
    watching::report,
};

/// Maximum time until a watcher on one replica receives a change by another.
const NOTIFICATION_MAX: Duration = Duration::from_millis(500);

#[tokio::test]
async fn updates_of_all_nodes_reach_watchers_on_another_replica() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start(&cluster.url()).await;
    let mut client = replicas.a.client().await;
    let ids = ids(1);
    for id in &ids {
        create(&mut client, id).await;
    }
    let mut watches = watches(&replicas.b, &ids).await;
    let mut longest = Duration::ZERO;
    for (id, watch) in ids.iter().zip(&mut watches) {
        assert_eq!(watch.next().await.revision(), 1);
        for _ in 0..3 {
            let revision = report(&mut client, id).await.revision;
            let stored = Instant::now();
            watch.until(|seen| seen.revision() >= revision).await;
            longest = longest.max(stored.elapsed());
        }
    }
    println!("updates reach the other replica within {longest:?}");
    assert!(longest < scaled(NOTIFICATION_MAX).await, "a hint was not heard: {longest:?}");
    complete_all(&replicas.a, follow(watches), &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watchers_lose_nothing_when_the_node_of_their_subscription_is_killed() {
    let mut cluster = Cluster::with(Duration::from_secs(1), &["--cluster-require-full-coverage", "no"]).await;
    let replicas = Replicas::start(&cluster.url()).await;
    let ids = ids(1);
    let load = Load::start([&replicas.a, &replicas.a], &ids).await;
    let mut watches = watches(&replicas.b, &ids).await;
    until_subscribed(&cluster).await;
    let (slot, orphans) = subscribed(&cluster).await;
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = try_get(&mut replicas.a.client().await, id).await.expect("it is there").revision;
        watch.until(|seen| seen.revision() > revision).await;
    }

    cluster.kill_master_of_slot(slot).await;
    let killed = Instant::now();
    let mut client = replicas.a.client().await;
    // Changes on the other nodes are not received while the servers run without the cluster.
    for (id, watch) in ids.iter().zip(&mut watches).filter(|(id, _)| !orphans.contains(&partition(id))) {
        let revision = try_get(&mut client, id).await.expect("its node serves on").revision;
        watch.until(|seen| seen.revision() > revision).await;
    }
    let heard = killed.elapsed();
    println!("jobs elsewhere are heard of {heard:?} after the kill");
    let elected = cluster.elected().await;
    println!("elected {:?} after the kill", elected - killed);
    load.good_since(elected).await;
    load.stop().await.assert_none_failed("killed node of the subscription");
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = try_get(&mut client, id).await.expect("it is there").revision;
        watch.until(|seen| seen.revision() >= revision).await;
    }
    println!("all has been heard of {:?} after the election", elected.elapsed());
    until_subscribed(&cluster).await;
    println!("subscribed again {:?} after the election", elected.elapsed());
    let mut longest = Duration::ZERO;
    for (id, watch) in ids.iter().zip(&mut watches) {
        let revision = report(&mut client, id).await.revision;
        let stored = Instant::now();
        watch.until(|seen| seen.revision() >= revision).await;
        longest = longest.max(stored.elapsed());
    }
    println!("updates reach the other replica within {longest:?}");
    assert!(longest < scaled(NOTIFICATION_MAX).await, "a hint was not heard: {longest:?}");
    complete_all(&replicas.a, follow(watches), &ids).await;
    replicas.stop().await;
    assert!(heard < (elected - killed) + scaled(SOON).await, "jobs elsewhere were not heard of for {heard:?}");
}

/// Waits until both servers have their subscription.
async fn until_subscribed(cluster: &Cluster) {
    let subscribed = timeout(WAIT_TIMEOUT, async {
        loop {
            let lists = cluster.command_on_all(&["CLIENT", "LIST", "TYPE", "pubsub"]).await;
            if lists.into_iter().map(lines).sum::<usize>() >= 2 {
                return;
            }
            sleep(PACE).await;
        }
    });
    subscribed.await.expect("they subscribe");
}

/// Returns a slot of the master that has subscriptions, and all partitions of this master.
async fn subscribed(cluster: &Cluster) -> (u16, BTreeSet<usize>) {
    let mut masters: BTreeMap<u16, (u16, BTreeSet<usize>)> = BTreeMap::new();
    for partition in 0..PARTITIONS {
        let slot = cluster.slot(&format!("{{{partition}}}")).await;
        let master = cluster.master_of_slot(slot).await;
        if lines(master.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await) == 2 {
            masters.entry(master.port).or_insert((slot, BTreeSet::new())).1.insert(partition);
        }
    }
    masters.into_values().next().expect("both have subscribed to one master")
}

fn lines(text: Value) -> usize {
    from_redis_value::<String>(text).expect("text").lines().count()
}
