//! Purges while Redis is full or unavailable.

use jobtrack::proto::v1::{Durability, FailJobRequest, Failure, PurgeJobsRequest};
use tonic_health::ServingStatus::{NotServing, Serving};

use super::{make_large, measured, oldest_first, purge};
use crate::support::{
    create,
    redis::Redis,
    replicas::{Health, server_on},
    watching::complete,
};

/// The procedure of the runbook for a full Redis.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_redis_takes_jobs_again_after_a_purge() {
    const JOBS: usize = 40;
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    let mut health = Health::watch(&server, "redis").await;
    health.until(Serving).await;
    for number in 0..JOBS {
        make_large(&mut client, number).await;
    }
    // Half of the jobs have to go.
    let least = measured(&redis, "used_memory").await - JOBS * 40_000;
    redis.command(&["CONFIG", "SET", "maxmemory", &least.to_string()]).await;
    assert_eq!(create(&mut client, "refused").await.durability(), Durability::Volatile);
    health.until(NotServing).await;
    // On a busy machine a call purges only a part within its time.
    let (mut purged, mut request) = (0, PurgeJobsRequest::default());
    loop {
        let part = purge(&mut admin, &request).await;
        purged += part.purged_count;
        request.page_token = part.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    assert_eq!(purged, 40);
    health.until(Serving).await;
    assert_eq!(create(&mut client, "taken").await.durability(), Durability::Durable);
    assert_eq!(oldest_first(&mut client).await, ["refused", "taken"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_while_redis_is_unavailable_is_partial() {
    let mut redis = Redis::start().await;
    let server = server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    let mut health = Health::watch(&server, "redis").await;
    health.until(Serving).await;
    for id in ["a", "b", "c"] {
        create(&mut client, id).await;
    }
    complete(&mut client, "a").await;
    let whole = purge(&mut admin, &PurgeJobsRequest { dry_run: true, ..Default::default() }).await;
    assert_eq!((whole.purged_count, whole.partial), (1, false));
    redis.kill();
    health.until(NotServing).await;
    let failure = Some(Failure::default());
    client.fail_job(FailJobRequest { job_id: "b".into(), failure, ..Default::default() }).await.expect("it fails");
    let part = purge(&mut admin, &PurgeJobsRequest::default()).await;
    assert_eq!((part.purged_count, part.partial, part.next_page_token.as_str()), (2, true, ""));
    assert_eq!(oldest_first(&mut client).await, ["c"]);
    redis.restart().await;
    health.until(Serving).await;
    assert_eq!(oldest_first(&mut client).await, ["c"], "what was purged stays purged");
    server.stop().await;
}
