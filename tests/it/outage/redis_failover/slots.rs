//! A slot moves to another master of the cluster.

use std::time::Instant;

use jobtrack::proto::v1::ListJobsRequest;
use tokio::{
    sync::watch,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{
    PACE, Replicas, WAIT_TIMEOUT, complete_all, follow, ids_of,
    load::{Call, Load},
    watches,
};
use crate::support::{
    Client, create, new_job, reason,
    redis::Cluster,
    replicas::try_get,
    watching::{complete, report},
};

/// Reads and lists until it is stopped. Returns the errors.
async fn look(mut client: Client, id: String, stop: CancellationToken) -> (usize, Vec<Status>) {
    let (mut count, mut errors) = (0, Vec::new());
    while !stop.is_cancelled() {
        count += 2;
        errors.extend(try_get(&mut client, &id).await.err());
        errors.extend(client.list_jobs(ListJobsRequest::default()).await.err());
        sleep(PACE).await;
    }
    (count, errors)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_moves_and_no_caller_notices() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start_patient(&cluster.url()).await;
    let ids = [ids_of(3, 8), ids_of(4, 1)].concat();
    let load = Load::start([&replicas.a, &replicas.b], &ids).await;
    let watches = follow(watches(&replicas.b, &ids).await);
    let stop = CancellationToken::new();
    let looking = tokio::spawn(look(replicas.b.client().await, ids[0].clone(), stop.clone()));
    let slot = cluster.slot("{3}").await;
    let from = cluster.master_of_slot(slot).await.port;

    let begun = Instant::now();
    for _ in 0..2 {
        cluster.begin_migration(slot).await;
        load.good_since(Instant::now()).await;
        println!("begun after {:?}", begun.elapsed());
        cluster.migrate_keys(slot).await;
        println!("moved after {:?}", begun.elapsed());
        load.good_since(Instant::now()).await;
        cluster.finish_migration(slot).await;
        println!("finished after {:?}", begun.elapsed());
        load.good_since(Instant::now()).await;
    }
    println!("the slot is moved from {from} to {}", cluster.master_of_slot(slot).await.port);
    stop.cancel();
    let (looks, errors) = looking.await.expect("it ends without a panic");
    let record = load.stop().await;

    for call in record.calls().filter(|call| call.failure().is_some()) {
        println!("{:?} after the begin, for {:?}: failed", call.begun - begun, call.ended - call.begun);
    }
    println!("{looks} looks, {} failed: {:?}", errors.len(), errors.first());
    record.assert_none_failed("moved slot");
    assert_eq!(record.disturbed(), 0, "callers noticed");
    assert_eq!(errors.len(), 0, "readers noticed");
    for (id, calls) in &record.calls {
        let revisions: Vec<_> = calls.iter().filter_map(Call::stored).collect();
        assert!(revisions.windows(2).all(|pair| pair[1] == pair[0] + 1), "{id}: {revisions:?}");
    }
    complete_all(&replicas.a, watches, &ids).await;
    replicas.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_are_created_and_end_while_their_slot_moves() {
    let cluster = Cluster::start().await;
    let replicas = Replicas::start(&cluster.url()).await;
    let slot = cluster.slot("{3}").await;
    let mut ids = ids_of(3, 400);
    let late = ids.split_off(398);
    let mut client = replicas.a.client().await;
    create(&mut client, &ids[0]).await;
    let (told, mut made) = watch::channel(0);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let making = tokio::spawn(async move {
        let mut calls = Vec::new();
        for id in &ids[1..] {
            if stopped.is_cancelled() {
                break;
            }
            loop {
                let begun = Instant::now();
                let outcome = client.create_job(new_job(id)).await.err();
                let failed = outcome.is_some();
                calls.push((begun, begun.elapsed(), outcome));
                if !failed {
                    break;
                }
                sleep(PACE).await;
            }
            report(&mut client, id).await;
            complete(&mut client, id).await;
            told.send_modify(|made| *made += 1);
            sleep(PACE).await;
        }
        calls
    });
    made.wait_for(|made| *made > 5).await.expect("it goes on");
    let begun = Instant::now();
    cluster.begin_migration(slot).await;
    println!("begun after {:?}", begun.elapsed());
    let mut other = replicas.b.client().await;
    let outcome = other.create_job(new_job(&late[0])).await.map_or_else(|error| error.code(), |_| Code::Ok);
    println!("a creation while no key is moved yet: {outcome:?}");
    cluster.migrate_keys(slot).await;
    println!("moved after {:?}", begun.elapsed());
    let outcome = other.create_job(new_job(&late[1])).await.map_or_else(|error| error.code(), |_| Code::Ok);
    println!("a creation while all keys are moved: {outcome:?}");
    cluster.finish_migration(slot).await;
    let finished = Instant::now();
    println!("finished after {:?}", begun.elapsed());
    let so_far = *made.borrow();
    let more = timeout(WAIT_TIMEOUT, made.wait_for(|made| *made > so_far + 5)).await;
    more.expect("jobs can be created again").expect("it goes on");
    stop.cancel();
    let calls = making.await.expect("no call but the creation fails");
    let failed: Vec<_> = calls.iter().filter_map(|(at, took, error)| Some((*at, *took, error.as_ref()?))).collect();
    println!("of {} creations {} failed", calls.len(), failed.len());
    for (at, took, error) in &failed {
        println!("{:?} after the begin, for {took:?}: {:?} {}", *at - begun, error.code(), reason(error));
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert!(*at < finished, "it fails {:?} after the slot was moved", *at - finished);
    }
    replicas.stop().await;
}
