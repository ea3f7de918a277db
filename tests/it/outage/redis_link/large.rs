//! Many jobs, large jobs, and a slow link to Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use jobtrack::{
    domain::{Change, Completion},
    proto::v1::{
        BatchGetJobsRequest, Event, GetStatsRequest, JobFilter, ListJobsRequest, View, WatchJobsRequest, job::State,
    },
    store::{JobStore, Presence, RedisStore, Replaced, redis::Options},
};
use serde_json::json;
use tokio::task::JoinSet;

use super::behind;
use crate::support::{
    Server, create,
    jobs::{apply, document, job},
    pace::scaled,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{in_time, strict_server_on, under_lease, until_lost},
    stores::{Deaf, open_redis, redis_options},
    watching::{complete, report, watch, watch_jobs},
};

/// Bytes per second: a single command must not read more than this link transfers within the timeout.
const NARROW: Link = Link::Narrow(40_000_000);

/// Number of large jobs.
const LARGE: i64 = 80;

/// Retention of these jobs after their end, in seconds.
const KEPT: i64 = 86_400;

/// Stores jobs in Redis that ended this many seconds ago with a result of nearly the maximum size.
async fn put_large(redis: &Redis, ago: i64) {
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let options = Options {
        timeout: Duration::from_secs(10),
        replica_grace: Duration::from_secs(1),
        ..redis_options(&redis.url(), "job")
    };
    let store = open_redis(options, Arc::new(Deaf), presence).await;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("a time after 1970").as_secs();
    let ended = i64::try_from(now).expect("a time before that ends") - ago;
    let result = document(&json!({ "text": "x".repeat(1_000_000) }));
    let success = Change::Complete(Completion { outcome: result, attempt: None, claim: None, expected_revision: None });
    for number in 0..LARGE {
        let done = apply(&job(&format!("large-{number}"), ended), &success, ended);
        let put = store.replace(Arc::new(done), None).await.expect("the store answers");
        assert!(matches!(put, Replaced::Stored(_)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_expire_together_without_delaying_leases() {
    let redis = Redis::start().await;
    put_large(&redis, KEPT + 60).await;
    let relay = Relay::to(redis.port).await;
    relay.set_all(NARROW);
    let server = behind(&relay).await;
    let (mut client, admin) = (server.client().await, server.admin().await);
    create(&mut client, "leased").await;
    client.update_progress(under_lease("leased", 1000)).await.expect("a report");
    let mut stream = watch(&client, "leased").await;
    let started = Instant::now();
    until_lost(&mut stream, "leased").await;
    println!("behind {LARGE} large jobs a lease was lost after {:?}", started.elapsed());
    let count = async || {
        let stats = admin.clone().get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
        stats.jobs_in_redis
    };
    in_time("the end of the large jobs", async { while count().await != Some(1) {} }).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_jobs_are_listed_in_short_pages() {
    let redis = Redis::start().await;
    put_large(&redis, 60).await;
    let relay = Relay::to(redis.port).await;
    relay.set_all(NARROW);
    let server = behind(&relay).await;
    let mut client = server.client().await;
    let mut request = ListJobsRequest { page_size: 50, view: View::Basic as i32, ..ListJobsRequest::default() };
    let (mut pages, mut listed) = (0, Vec::new());
    loop {
        let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
        assert!(page.jobs.len() <= 50);
        assert_eq!(page.total_size, Some(LARGE));
        listed.extend(page.jobs.into_iter().map(|job| job.id));
        pages += 1;
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            break;
        }
    }
    println!("{LARGE} large jobs came in {pages} pages");
    listed.sort();
    let mut all: Vec<_> = (0..LARGE).map(|number| format!("large-{number}")).collect();
    all.sort();
    assert_eq!(listed, all, "each came once");
    server.stop().await;
}

/// Number of jobs that change their states while they are counted.
const MOVING: i64 = 400;

/// The commands of one server arrive in small parts, so those of the other one come in between.
#[tokio::test(flavor = "multi_thread")]
async fn counts_are_exact_while_jobs_move() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (counting, moving) = (behind(&relay).await, strict_server_on(&redis).await);
    let (mut client, mut admin) = (counting.client().await, counting.admin().await);
    let mut mover = moving.client().await;
    let ids: Vec<_> = (0..MOVING).map(|number| format!("job-{number}")).collect();
    for id in &ids {
        create(&mut mover, id).await;
    }
    relay.set_all(Link::Narrow(200_000));
    let mut movers = JoinSet::new();
    for ids in ids.chunks(ids.len() / 4) {
        let (mut mover, ids) = (mover.clone(), ids.to_vec());
        movers.spawn(async move {
            for id in &ids {
                report(&mut mover, id).await;
            }
            for id in &ids {
                complete(&mut mover, id).await;
            }
        });
    }
    let states = [State::Pending, State::Running, State::Succeeded].map(|state| state as i32).to_vec();
    let filter = Some(JobFilter { states, ..JobFilter::default() });
    let request = ListJobsRequest { filter, page_size: 1, ..ListJobsRequest::default() };
    let (mut looks, mut wrong, mut between) = (0, Vec::new(), 0);
    while !movers.is_empty() {
        let counted = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
        let sum: i64 = counted.state_counts.iter().map(|count| count.count).sum();
        let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
        wrong.extend([Some(sum), page.total_size].into_iter().filter(|&count| count != Some(MOVING)));
        between += usize::from(counted.state_counts.iter().filter(|count| count.count > 0).count() > 1);
        looks += 1;
        while let Some(ended) = movers.try_join_next() {
            ended.expect("they can all be moved");
        }
    }
    println!("looked {looks} times, {between} times in between");
    assert!(between > 2, "they moved while they were counted");
    assert!(wrong.is_empty(), "of {looks} times: {wrong:?}");
    counting.stop().await;
    moving.stop().await;
}

/// Starts a server over a slow link to Redis, with the first half of these jobs in memory.
async fn far(redis: &Redis, ids: &[String]) -> (Relay, Server) {
    let relay = Relay::to(redis.port).await;
    let server = behind(&relay).await;
    let mut client = server.client().await;
    for id in &ids[..ids.len() / 2] {
        create(&mut client, id).await;
    }
    relay.set_all(Link::Far(Duration::from_millis(5)));
    (relay, server)
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_over_a_slow_link_is_read_in_few_round_trips() {
    let redis = Redis::start().await;
    let job_ids: Vec<_> = (0..100).map(|number| format!("job-{number}")).collect();
    let (_relay, server) = far(&redis, &job_ids).await;
    let mut client = server.client().await;
    let started = Instant::now();
    let got = client
        .batch_get_jobs(BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() })
        .await
        .expect("an answer")
        .into_inner();
    let took = started.elapsed();
    println!("100 jobs took {took:?}");
    assert_eq!((got.jobs.len(), got.missing_ids.len()), (50, 50));
    assert!(took < scaled(Duration::from_millis(500)).await, "100 jobs took {took:?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_over_a_slow_link_are_read_in_few_round_trips() {
    let redis = Redis::start().await;
    let job_ids: Vec<_> = (0..1000).map(|number| format!("job-{number}")).collect();
    let (_relay, server) = far(&redis, &job_ids).await;
    let client = server.client().await;
    let started = Instant::now();
    let mut some = watch_jobs(&client, WatchJobsRequest { job_ids, ..WatchJobsRequest::default() }).await;
    let seen = some.until_bookmark().await;
    let took = started.elapsed();
    println!("the snapshots of 1000 jobs took {took:?}");
    assert_eq!(seen.iter().filter(|seen| seen.event == Event::Snapshot).count(), 500);
    assert!(took < scaled(Duration::from_millis(2500)).await, "1000 jobs took {took:?}");
    server.stop().await;
}
