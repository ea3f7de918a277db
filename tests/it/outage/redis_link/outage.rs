//! An outage of Redis, and its end.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{
    BatchGetJobsRequest, CancelJobRequest, CompleteJobRequest, ConfirmCancelRequest, DeleteJobRequest, Durability,
    Event, FailJobRequest, Failure, GetStatsRequest, ListJobsRequest, PurgeJobsRequest, StorageMode,
    UpdateProgressRequest, WatchJobsRequest,
};
use tonic::{Code, Status};
use tonic_health::ServingStatus::{NotServing, Serving};

use crate::support::{
    Server, create, new_job,
    redis::Redis,
    replicas::{Health, assert_away, read, server_on},
    watching::{about, complete, report, try_watch_job, try_watch_jobs, watch},
};

/// Maximum duration of a call that Redis does not answer.
const LIMIT: Duration = Duration::from_secs(1);

/// Number of servers that start, at different speeds.
const SERVERS: usize = 20;

/// The kind of a call, which determines its result while Redis is unavailable and changes are rejected.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Sort {
    /// Needs a job that is not cached, or changes something.
    Refused,
    /// Concerns the job `a`, which may be cached.
    LocalCache,
    /// Is answered from the cache, whatever it contains.
    Partial,
    /// Is not allowed in the condition of the cached job `a`.
    Untimely,
}

use Sort::{LocalCache, Partial, Refused, Untimely};

/// Returns the error and the duration of each call on a new connection.
async fn every_call(server: &Server) -> Vec<(&'static str, Sort, Option<Status>, Duration)> {
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    let id = || "a".to_owned();
    let mut all = Vec::new();
    macro_rules! call {
        ($sort:ident, $client:ident, $call:ident, $request:expr) => {
            let started = Instant::now();
            let error = $client.$call($request).await.err();
            all.push((stringify!($call), $sort, error, started.elapsed()));
        };
    }
    call!(LocalCache, client, get_job, read("a"));
    call!(Refused, client, get_job, read("missing"));
    call!(
        Refused,
        client,
        batch_get_jobs,
        BatchGetJobsRequest { job_ids: vec![id(), "missing".to_owned()], ..BatchGetJobsRequest::default() }
    );
    call!(Partial, client, list_jobs, ListJobsRequest::default());
    call!(Refused, client, create_job, new_job("new"));
    call!(Refused, client, update_progress, UpdateProgressRequest { job_id: id(), ..UpdateProgressRequest::default() });
    call!(Refused, client, cancel_job, CancelJobRequest { job_id: id(), ..CancelJobRequest::default() });
    call!(Untimely, client, confirm_cancel, ConfirmCancelRequest { job_id: id(), ..ConfirmCancelRequest::default() });
    let failure = Some(Failure::default());
    call!(Refused, client, fail_job, FailJobRequest { job_id: id(), failure, ..FailJobRequest::default() });
    call!(Refused, client, complete_job, CompleteJobRequest { job_id: id(), ..CompleteJobRequest::default() });
    call!(Refused, client, delete_job, DeleteJobRequest { job_id: id(), force: true });
    call!(LocalCache, client, watch_job, about("a", ""));
    call!(Partial, admin, purge_jobs, PurgeJobsRequest::default());
    let started = Instant::now();
    let error = match try_watch_jobs(&client, WatchJobsRequest::default()).await {
        Ok(mut stream) => stream.outcome().await.and_then(Result::err),
        Err(status) => Some(status),
    };
    all.push(("watch_jobs", Partial, error, started.elapsed()));
    all
}

/// Starts a server on this Redis that rejects changes during an outage.
async fn refusing(redis: &Redis) -> Server {
    Server::with(&["--redis-url", &redis.url(), "--fallback", "reject"]).await
}

/// Fails unless every call that changes something, or needs a job that is not cached, is rejected as unavailable, and
/// the others are answered, each within the limit.
async fn assert_all_away(server: &Server, holds_a: bool) {
    for (call, sort, error, took) in every_call(server).await {
        assert!(took < LIMIT, "{call} took {took:?}");
        match (sort, error) {
            (Partial, None) => {}
            (LocalCache, None) if holds_a => {}
            (Untimely, Some(error)) if holds_a => assert_eq!(error.code(), Code::FailedPrecondition, "{call}"),
            (_, Some(error)) if sort != Partial => assert_away(call, &error),
            (_, outcome) => panic!("{call} while Redis is away: {outcome:?}"),
        }
    }
    let mut client = server.client().await;
    let page = client.list_jobs(ListJobsRequest::default()).await.expect("a page").into_inner();
    assert!(page.partial, "a list does not say that it is a part");
    if holds_a {
        let job = client.get_job(read("a")).await.expect("it is held").into_inner().job.expect("a job");
        assert_eq!((job.revision, job.durability()), (1, Durability::Volatile), "what was refused was done");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn restart_of_redis_is_survived() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let (server, other) = (refusing(&redis).await, refusing(&redis).await);
    let (mut client, mut elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "a").await;
    elsewhere.get_job(read("a")).await.expect("it is there");
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let (mut link, mut whole) = (Health::watch(&server, "redis").await, Health::watch(&server, "").await);
    link.until(Serving).await;
    assert_eq!(whole.next().await, Serving as i32);

    redis.kill();
    assert_all_away(&server, true).await;
    link.until(NotServing).await;
    assert_all_away(&server, true).await;
    assert_all_away(&other, true).await;
    let stats = server.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    assert_eq!(stats.storage_mode(), StorageMode::Degraded);
    assert!(stats.redis.is_some_and(|redis| !redis.reachable && redis.ping.is_none()));
    assert!(stats.jobs_in_redis.is_none());
    assert_eq!(Health::watch(&server, "").await.next().await, Serving as i32);

    let mut elsewhere_link = Health::watch(&other, "redis").await;
    elsewhere_link.until(NotServing).await;
    redis.restart().await;
    link.until(Serving).await;
    elsewhere_link.until(Serving).await;
    let read = client.get_job(read("a")).await.expect("Redis is back").into_inner().job.expect("a job");
    assert_eq!(read.revision, 1, "what failed was not done");
    let reported = report(&mut elsewhere, "a").await;
    assert_eq!(stream.update().await, reported);
    let reported = report(&mut client, "a").await;
    assert_eq!(stream.update().await, reported);
    let ended = complete(&mut elsewhere, "a").await;
    assert_eq!(stream.update().await, ended);
    stream.end().await;
    let stats = server.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    assert_eq!((stats.storage_mode(), stats.jobs_in_redis), (StorageMode::Redis, Some(1)));
    server.stop().await;
    other.stop().await;
    let said = whole.next().await;
    assert_eq!(said, NotServing as i32, "it served until it was stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_that_nobody_noticed_fails_no_call() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    for _ in 0..8 {
        report(&mut client, "a").await;
    }
    let mut link = Health::watch(&server, "redis").await;
    link.until(Serving).await;
    redis.kill();
    link.until(NotServing).await;
    redis.restart().await;
    link.until(Serving).await;
    assert_eq!(report(&mut client, "a").await.revision, 10);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn health_of_redis_is_right_from_the_first_moment() {
    let mut redis = Redis::start().await;
    for _ in 0..20 {
        let server = server_on(&redis).await;
        assert_eq!(Health::watch(&server, "redis").await.next().await, Serving as i32);
        server.stop().await;
    }
    redis.kill();
    let server = server_on(&redis).await;
    assert_eq!(Health::watch(&server, "redis").await.next().await, NotServing as i32);
    server.stop().await;
}

/// Watches are opened while the server starts.
#[tokio::test(flavor = "multi_thread")]
async fn health_of_redis_is_sent_only_when_it_changes() {
    let mut redis = Redis::start().await;
    redis.kill();
    let mut watches = Vec::new();
    for _ in 0..SERVERS {
        let server = server_on(&redis).await;
        let mut link = Health::watch(&server, "redis").await;
        assert_eq!(link.next().await, NotServing as i32);
        watches.push((server, link));
    }
    redis.restart().await;
    for (server, mut link) in watches {
        assert_eq!(link.next().await, Serving as i32);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_starts_without_redis_and_becomes_whole() {
    let mut redis = Redis::start().await;
    redis.kill();
    let server = refusing(&redis).await;
    let mut link = Health::watch(&server, "redis").await;
    link.until(NotServing).await;
    assert_all_away(&server, false).await;
    assert!(try_watch_job(&server.client().await, about("a", "")).await.is_err());
    redis.restart().await;
    link.until(Serving).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let other = server_on(&redis).await;
    let reported = report(&mut other.client().await, "a").await;
    assert_eq!(stream.update().await, reported);
    server.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hanging_redis_delays_no_caller() {
    let redis = Redis::start().await;
    let server = refusing(&redis).await;
    let mut client = server.client().await;
    create(&mut client, "a").await;
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let mut link = Health::watch(&server, "redis").await;
    link.until(Serving).await;
    redis.signal("STOP");
    assert_all_away(&server, true).await;
    link.until(NotServing).await;
    redis.signal("CONT");
    link.until(Serving).await;
    // Each read came before its write, so the stopped Redis has received no change of this job.
    let reported = report(&mut client, "a").await;
    assert_eq!(reported.revision, 2);
    assert_eq!(stream.update().await, reported);
    server.stop().await;
}
