//! Purges go in parts: each answers in time, and its token leads on to the next one.

use std::{ops::Range, sync::Arc, time::Duration};

use jobtrack::{
    clock::SystemClock,
    domain::{
        ANYONE, Change, Completion, Filter, NewJob, Retention,
        State::{Cancelled, Failed, Succeeded},
    },
    proto::{
        EncodedStruct,
        v1::{
            CancelJobRequest, CompleteJobRequest, CreateJobRequest, Durability, FailJobRequest, Failure, JobFilter,
            ListJobsRequest, Order, Progress, PurgeJobsRequest, PurgeJobsResponse, UpdateProgressRequest, job::State,
        },
    },
    store::MemoryStore,
    tracker::{Purge, Tracker},
    watch::Hub,
};
use prost_types::{Struct, Value, value::Kind};
use redis::from_redis_value;
use rstest::rstest;
use tokio::{task::JoinSet, time::timeout};
use tonic::{Code, Status};
use tonic_health::ServingStatus::{NotServing, Serving};

use crate::support::{
    Admin, Client, Server, create,
    jobs::{id, plain},
    new_job,
    pace::thread_time,
    process::Process,
    raw::assert_invalid,
    redis::Redis,
    replicas::{Health, server_on},
    watching::{complete, make, report},
};

/// Number of callers that create jobs.
const MAKERS: usize = 8;

/// Time within which memory that was freed is given back.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(20);

/// Makes jobs that have succeeded, and one that runs.
async fn make_ended(client: &Client, count: usize) {
    let mut makers = JoinSet::new();
    for part in 0..MAKERS {
        let mut client = client.clone();
        makers.spawn(async move {
            for n in (part..count).step_by(MAKERS) {
                let id = format!("j-{n}");
                create(&mut client, &id).await;
                complete(&mut client, &id).await;
            }
        });
    }
    makers.join_all().await;
    let mut client = client.clone();
    create(&mut client, "running").await;
    report(&mut client, "running").await;
}

async fn purge(admin: &mut Admin, request: &PurgeJobsRequest) -> PurgeJobsResponse {
    admin.purge_jobs(request.clone()).await.expect("a purge").into_inner()
}

/// The ids of all jobs, the oldest first.
async fn oldest_first(client: &mut Client) -> Vec<String> {
    let mut request = ListJobsRequest { page_size: 1000, order: Order::Oldest.into(), ..Default::default() };
    let mut ids = Vec::new();
    loop {
        let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
        ids.extend(page.jobs.into_iter().map(|job| job.id));
        request.page_token = page.next_page_token;
        if request.page_token.is_empty() {
            return ids;
        }
    }
}

/// Purges, and returns what each part counted.
async fn purge_all(admin: &mut Admin, mut request: PurgeJobsRequest) -> Vec<i64> {
    let mut parts = Vec::new();
    loop {
        let part = purge(admin, &request).await;
        assert!(!part.partial);
        parts.push(part.purged_count);
        request.page_token = part.next_page_token;
        if request.page_token.is_empty() {
            return parts;
        }
    }
}

#[tokio::test]
async fn a_purge_of_more_jobs_than_a_part_holds_goes_on_from_the_oldest() {
    const JOBS: usize = 5_100;
    let server = Server::start().await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, JOBS).await;
    let all = oldest_first(&mut client).await;
    let dry_run = PurgeJobsRequest { dry_run: true, ..PurgeJobsRequest::default() };
    let counted = purge_all(&mut admin, dry_run).await;
    assert!(counted.len() > 1 && counted.iter().sum::<i64>() == 5_100, "{counted:?}");
    assert_eq!(oldest_first(&mut client).await, all, "a dry run deletes nothing");

    let first = purge(&mut admin, &PurgeJobsRequest::default()).await;
    let gone = usize::try_from(first.purged_count).expect("a count");
    assert!((1..=5_000).contains(&gone) && !first.next_page_token.is_empty(), "{first:?}");
    assert_eq!(oldest_first(&mut client).await, all[gone..], "the oldest go first");
    let request = PurgeJobsRequest { page_token: first.next_page_token, ..PurgeJobsRequest::default() };
    let rest: i64 = purge_all(&mut admin, request).await.iter().sum();
    assert_eq!(gone + usize::try_from(rest).expect("a count"), JOBS);
    assert_eq!(oldest_first(&mut client).await, ["running"]);
    server.stop().await;
}

/// Each part of a call with a short deadline purges some, and says where to go on.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn a_purge_answers_within_its_deadline(#[values(false, true)] on_redis: bool) {
    const JOBS: usize = 1_500;
    let redis = if on_redis { Some(Redis::start().await) } else { None };
    let server = match &redis {
        Some(redis) => Server::with(&["--redis-url", &redis.url(), "--redis-timeout", "4s"]).await,
        None => Server::start().await,
    };
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, JOBS).await;
    // A small part of the time that it takes to purge all.
    let deadline = Duration::from_millis(if on_redis { 200 } else { 10 });
    let (mut parts, mut late, mut page_token) = (0, 0, String::new());
    loop {
        let mut request =
            tonic::Request::new(PurgeJobsRequest { page_token: page_token.clone(), ..Default::default() });
        request.set_timeout(deadline);
        match admin.purge_jobs(request).await {
            Ok(part) => {
                parts += 1;
                let part = part.into_inner();
                assert_ne!(part.next_page_token, page_token, "it makes no progress");
                page_token = part.next_page_token;
                if page_token.is_empty() {
                    break;
                }
            }
            // On a machine that is very busy a step may take longer than all of the time: it is repeated.
            Err(status) => {
                assert!(matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled), "{status:?}");
                late += 1;
            }
        }
    }
    println!("{parts} parts within {deadline:?}, {late} late");
    assert!(parts > 1, "all was purged at once");
    assert_eq!(oldest_first(&mut client).await, ["running"]);
    server.stop().await;
}

fn refused(outcome: Result<tonic::Response<PurgeJobsResponse>, Status>, what: &str) {
    assert_invalid(&outcome.expect_err(what), &["page_token"], what);
}

#[tokio::test]
async fn a_token_of_another_purge_is_refused() {
    let server = Server::start().await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    make_ended(&client, 5_001).await;
    let dry_run = PurgeJobsRequest { dry_run: true, ..PurgeJobsRequest::default() };
    let page_token = purge(&mut admin, &dry_run).await.next_page_token;
    assert!(!page_token.is_empty());
    let same = PurgeJobsRequest { page_token: page_token.clone(), ..dry_run };
    let others = [
        ("another kind", PurgeJobsRequest { kind: "other".into(), ..same.clone() }),
        ("another owner", PurgeJobsRequest { owner: "other".into(), ..same.clone() }),
        ("other states", PurgeJobsRequest { states: vec![State::Failed.into()], ..same.clone() }),
        ("another age", PurgeJobsRequest { older_than: Some(prost_types::Duration::default()), ..same.clone() }),
        ("a purge in earnest", PurgeJobsRequest { dry_run: false, ..same.clone() }),
    ];
    for (what, other) in others {
        refused(admin.purge_jobs(other).await, what);
    }
    let states = [State::Succeeded, State::Failed, State::Cancelled].map(i32::from).to_vec();
    let filter = Some(JobFilter { states: states.clone(), ..JobFilter::default() });
    let request = ListJobsRequest { filter, page_size: 1, order: Order::Oldest.into(), ..Default::default() };
    let of_list = client.list_jobs(request).await.expect("a page").into_inner().next_page_token;
    assert!(!of_list.is_empty());
    refused(admin.purge_jobs(PurgeJobsRequest { page_token: of_list, ..same.clone() }).await, "a token of a list");
    // All states that are an end are the same as none.
    admin.purge_jobs(PurgeJobsRequest { states, ..same.clone() }).await.expect("the same jobs");
    admin.purge_jobs(same).await.expect("its own token");
    server.stop().await;
}

/// A Struct with `size` bytes of text.
fn document(size: usize) -> EncodedStruct {
    let text = Value { kind: Some(Kind::StringValue("x".repeat(size))) };
    Struct { fields: [("text".to_owned(), text)].into() }.into()
}

/// Makes a job that has ended, with as much in it as there may be.
async fn make_large(client: &mut Client, number: usize) {
    let id = format!("large-{number}");
    let title = "t".repeat(250);
    make(client, CreateJobRequest { title, metadata: Some(document(10_000)), ..new_job(&id) }).await;
    let failure = Failure { message: "f".repeat(16_000), details: Some(document(16_000)), ..Failure::default() };
    let failure =
        |retry| FailJobRequest { job_id: id.clone(), failure: Some(failure.clone()), retry, ..Default::default() };
    client.fail_job(failure(true)).await.expect("it is taken");
    let (message, details) = (Some("m".repeat(4_000)), Some(document(4_000)));
    let progress = Some(Progress { message, details, ..Progress::default() });
    let report = UpdateProgressRequest { job_id: id.clone(), progress, ..UpdateProgressRequest::default() };
    client.update_progress(report).await.expect("it is taken");
    let reason = "r".repeat(1_000);
    client
        .cancel_job(CancelJobRequest { job_id: id.clone(), reason, ..Default::default() })
        .await
        .expect("it is taken");
    if number.is_multiple_of(2) {
        client.fail_job(failure(false)).await.expect("it is taken");
    } else {
        let result = Some(document(20_000));
        client
            .complete_job(CompleteJobRequest { job_id: id.clone(), result, ..Default::default() })
            .await
            .expect("it is taken");
    }
}

/// Returns a figure of the memory section of `INFO`, in bytes.
async fn measured(redis: &Redis, name: &str) -> usize {
    let memory = redis.info("memory").await;
    let mut lines = memory.lines().filter_map(|line| line.split_once(':'));
    let (_, bytes) = lines.find(|(known, _)| *known == name).expect("Redis tells");
    bytes.trim().parse().expect("a number")
}

/// The memory that a Redis uses for data.
async fn used(redis: &Redis) -> usize {
    // Redis subtracts what it takes for overhead, and may come below zero.
    let bytes = measured(redis, "used_memory_dataset").await.cast_signed();
    usize::try_from(bytes).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_has_its_memory_back_after_a_purge() {
    const JOBS: usize = 100;
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    // Indexes and buffers of connections grow once: they exist before the measurement.
    make_large(&mut client, JOBS).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let before = used(&redis).await;
    for number in 0..JOBS {
        make_large(&mut client, number).await;
    }
    let full = used(&redis).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let after = used(&redis).await;
    let of_a_job = |used: usize| used.saturating_sub(before) / JOBS;
    assert!(of_a_job(full) > 20_000, "the jobs are in Redis");
    assert!(of_a_job(after) <= 2_000, "{} bytes of a job of {} are left", of_a_job(after), of_a_job(full));
    let keys = redis.command(&["KEYS", "job:*:large-*"]).await;
    let keys: Vec<String> = from_redis_value(keys).expect("keys");
    assert_eq!(keys.len(), JOBS + 1);
    for key in keys {
        let size = redis.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
        let size: usize = from_redis_value(size).expect("a size");
        assert!(size <= 950, "the tombstone {key} takes {size} bytes");
    }
    server.stop().await;
}

/// Makes large jobs that have ended, several at a time.
async fn make_many_large(server: &Process, numbers: Range<usize>) {
    let mut makers = JoinSet::new();
    for maker in 0..MAKERS {
        let (mut client, numbers) = (server.client().await, numbers.clone());
        makers.spawn(async move {
            for number in numbers.skip(maker).step_by(MAKERS) {
                make_large(&mut client, number).await;
            }
        });
    }
    makers.join_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_is_given_back_after_a_purge() {
    const JOBS: usize = 1_000;
    let server = Process::start(&[]);
    let mut admin = server.admin().await;
    // Buffers of connections grow once: they exist before the measurement.
    make_many_large(&server, JOBS..JOBS + 50).await;
    purge_all(&mut admin, PurgeJobsRequest::default()).await;
    let before = server.resident();
    make_many_large(&server, 0..JOBS).await;
    let full = server.resident();
    let purged: i64 = purge_all(&mut admin, PurgeJobsRequest::default()).await.iter().sum();
    assert_eq!(purged, 1_000);
    let of_a_job = |resident: u64| resident.saturating_sub(before) / JOBS as u64;
    assert!(of_a_job(full) > 60_000, "a job takes {} bytes", of_a_job(full));
    // Less than the texts of a job, without its documents, take.
    let released = async {
        while of_a_job(server.resident()) > 10_000 {
            purge(&mut admin, &PurgeJobsRequest::default()).await;
        }
    };
    let is_released = timeout(RELEASE_TIMEOUT, released).await.is_ok();
    let left = of_a_job(server.resident());
    println!("a job takes {} bytes, its tombstone {left}", of_a_job(full));
    assert!(is_released, "{left} bytes of a job are left");
}

/// Returns the time that purging one of so many jobs takes.
async fn time_per_purged_job(jobs: u32) -> Duration {
    let hub = Arc::new(Hub::default());
    let store = Arc::new(MemoryStore::new(jobs as usize, hub.clone()));
    let zero = Duration::ZERO;
    let retention = Retention { succeeded: zero, failed: zero, cancelled: zero, active: zero };
    let tracker = Tracker::new(store, hub, Arc::new(SystemClock), retention);
    let calls = tracker.on_behalf_of(&ANYONE);
    let completion = Completion { outcome: None, attempt: None, claim: None, expected_revision: None };
    for number in 0..jobs {
        let id = id(&format!("j-{number}"));
        calls.create(NewJob { id: Some(id.clone()), ..plain() }).await.expect("there is room");
        calls.change(&id, &Change::Complete(completion.clone())).await.expect("it ends");
    }
    let states = [Succeeded, Failed, Cancelled].into();
    let filter = Filter { states, ..Filter::default() };
    let mut request = Purge { filter, ended_by: None, dry_run: false, after: None };
    let (begun, mut count) = (thread_time(), 0);
    loop {
        let part = calls.purge(&request, Duration::from_secs(60)).await.expect("memory answers");
        count += part.count;
        request.after = part.next;
        if request.after.is_none() {
            break;
        }
    }
    assert_eq!(count, u64::from(jobs));
    thread_time().saturating_sub(begun) / jobs
}

#[tokio::test]
async fn time_to_purge_a_job_does_not_grow_with_their_number() {
    let mut times = [Duration::MAX; 2];
    for _ in 0..3 {
        for (time, jobs) in times.iter_mut().zip([2_000, 20_000]) {
            *time = (*time).min(time_per_purged_job(jobs).await);
        }
    }
    let [few, many] = times;
    println!("{few:?} for each of 2000 jobs, {many:?} for each of 20000");
    assert!(many <= 2 * few, "{few:?} for each of 2000 jobs, {many:?} for each of 20000");
}

#[tokio::test]
#[ignore = "it makes a million jobs"]
async fn a_million_jobs_are_purged_at_20000_a_second() {
    let time = time_per_purged_job(1_000_000).await;
    println!("{time:?} for each job");
    assert!(time <= Duration::from_secs(1) / 20_000, "{time:?} for each job");
}

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
    let purged = purge(&mut admin, &PurgeJobsRequest::default()).await;
    assert_eq!(purged.purged_count, 40);
    health.until(Serving).await;
    assert_eq!(create(&mut client, "taken").await.durability(), Durability::Durable);
    assert_eq!(oldest_first(&mut client).await, ["refused", "taken"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_purge_while_redis_is_away_is_partial() {
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
