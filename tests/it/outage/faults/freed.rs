//! An id that another replica frees while this replica's job is not recorded yet.

use std::{collections::BTreeSet, time::Duration};

use jobtrack::proto::v1::{
    CreateJobRequest, DeleteJobRequest, Job, JobFilter, Source, UpdateProgressRequest, WatchJobsRequest,
};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{job, two_on};
use crate::support::{
    Client, new_job,
    redis::Redis,
    replicas::{degraded, get, in_time, whole},
    watching::{make, report, watch_jobs},
};

const JOBS: usize = 40;

/// Creates and deletes jobs under an id, until another job has it or the time is over.
async fn occupy(mut client: Client, id: String) {
    for number in 0..300 {
        let request = CreateJobRequest { owner: "thief".into(), request_id: format!("t{number}"), ..new_job(&id) };
        match client.create_job(request).await {
            Ok(_) => {
                let request = DeleteJobRequest { job_id: id.clone(), force: true };
                client.delete_job(request).await.expect("it is there");
            }
            Err(status) if status.code() == Code::AlreadyExists => return,
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Reports on the job under this id until `stop`, whoever owns it.
async fn work(mut client: Client, id: String, stop: CancellationToken) {
    let request = UpdateProgressRequest { job_id: id, ..UpdateProgressRequest::default() };
    while !stop.is_cancelled() {
        // Another client's job may be under the id, or none.
        _ = client.update_progress(request.clone()).await;
        sleep(Duration::from_millis(1)).await;
    }
}

/// Waits until a replica reads this version or a later one from its memory.
async fn until_held(client: &mut Client, expected: &Job) {
    loop {
        let answer = get(client, &expected.id).await;
        let is_held = answer.source() == Source::Memory;
        if is_held && answer.job.is_some_and(|job| job.revision >= expected.revision) {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
}

/// Both replicas create a job under each id while Redis is unavailable; one of them repeatedly deletes its own.
#[tokio::test(flavor = "multi_thread")]
async fn watcher_is_told_of_a_job_that_takes_the_place_of_a_deleted_one() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let servers = two_on(&redis).await;
    let mut clients = [servers[0].client().await, servers[1].client().await];
    redis.kill();
    for server in &servers {
        degraded(server).await;
    }
    let filter = Some(JobFilter { owner: "o".into(), ..JobFilter::default() });
    let mut stream = watch_jobs(&clients[1], WatchJobsRequest { filter, ..WatchJobsRequest::default() }).await;
    let ids: Vec<_> = (0..JOBS).map(|number| format!("j{number}")).collect();
    let (mut thieves, mut workers, stop) = (Vec::new(), Vec::new(), CancellationToken::new());
    for id in &ids {
        make(&mut clients[0], CreateJobRequest { owner: "o".into(), request_id: "r".into(), ..new_job(id) }).await;
        thieves.push(tokio::spawn(occupy(clients[1].clone(), id.clone())));
        workers.push(tokio::spawn(work(clients[0].clone(), id.clone(), stop.clone())));
    }
    redis.restart().await;
    for server in &servers {
        whole(server).await;
    }
    for thief in thieves {
        thief.await.expect("no thief panics");
    }
    stop.cancel();
    for worker in workers {
        worker.await.expect("no worker panics");
    }

    let mut last = Vec::new();
    for id in &ids {
        // If the other client had the id at the moment of the merge, it keeps it: its job was recorded first.
        let answer = clients[0].get_job(crate::support::replicas::read(id)).await;
        if answer.is_ok_and(|answer| answer.into_inner().job.is_some_and(|job| job.owner == "o")) {
            last.push(report(&mut clients[0], id).await);
        }
    }
    assert!(!last.is_empty(), "the thief has kept every id");
    for expected in &last {
        in_time("the job", until_held(&mut clients[1], expected)).await;
        assert_eq!(job(&mut clients[1], &expected.id).await.owner, "o");
    }
    let mut open: BTreeSet<_> = last.iter().map(|job| job.id.as_str()).collect();
    while !open.is_empty() {
        let seen = in_time("the last version of each", stream.next()).await;
        if seen.job.is_some() && last.iter().any(|job| job.id == seen.id() && job.revision <= seen.revision()) {
            open.remove(seen.id());
        }
    }
}
