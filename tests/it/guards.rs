//! Countable costs of calls: commands to Redis and bytes of an event; and leaks. `tests/allocations.rs` counts
//! allocations.

use futures_util::{StreamExt, future::join_all, stream};
use jobtrack::proto::v1::{
    BatchGetJobsRequest, CompleteJobRequest, CreateJobRequest, Durability, Event, ListJobsRequest, Source, View,
};
use prost::Message;
use tonic_health::ServingStatus::Serving;

use crate::support::{
    Client, create, large_document, new_job,
    process::Process,
    reason,
    redis::Redis,
    replicas::{Health, get, in_time, read, server_on},
    watching::{make, report, watch},
    with_long_deadline,
};

/// Number of calls that a process answers without growing.
const CALLS: usize = 100_000;

/// Counts the commands of these kinds. Excludes the beats of replicas, which alone read whole hashes, and the read of
/// the version in each script, which is an EXISTS if none is expected.
async fn commands(redis: &Redis) -> [i64; 3] {
    let names = ["hmget", "exists", "evalsha", "zrevrangebyscore", "hgetall"];
    let [reads, checks, scripts, ranges, beats] = redis.calls(names).await;
    [reads + checks - (scripts - beats), scripts - beats, ranges]
}

/// Counts the commands that `call` causes.
async fn asked(redis: &Redis, call: impl Future<Output = ()>) -> [i64; 3] {
    let before = commands(redis).await;
    call.await;
    let after = commands(redis).await;
    [0, 1, 2].map(|at| after[at] - before[at])
}

#[tokio::test(flavor = "multi_thread")]
async fn number_of_redis_commands_of_each_call_is_minimal() {
    let redis = Redis::start().await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    let (mut client, elsewhere) = (server.client().await, other.client().await);
    create(&mut client, "warm").await;
    assert_eq!(asked(&redis, async { _ = create(&mut client, "a").await }).await, [0, 1, 0], "a creation");
    let again = async { _ = client.clone().create_job(new_job("a")).await.expect_err("it is there") };
    assert_eq!(asked(&redis, again).await, [1, 0, 0], "a creation of what is there");
    let missing = async { _ = client.clone().get_job(read("missing")).await.expect_err("there is none") };
    assert_eq!(asked(&redis, missing).await, [1, 0, 0], "a read of what is not there");
    let first = async { _ = elsewhere.clone().get_job(read("a")).await.expect("it is there") };
    assert_eq!(asked(&redis, first).await, [1, 0, 0], "a read of what is not held");
    let list = async { _ = client.clone().list_jobs(ListJobsRequest::default()).await.expect("a page") };
    assert_eq!(asked(&redis, list).await, [2, 0, 16], "a list of two jobs, from every partition");
    server.stop().await;
    other.stop().await;
}

/// Reports of one job from many callers do not race each other in Redis.
#[tokio::test(flavor = "multi_thread")]
async fn concurrent_reports_of_one_job_are_stored_together() {
    const CALLERS: usize = 16;
    const REPORTS: usize = 20;
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    let mut client = server.client().await;
    create(&mut client, "hot").await;
    report(&mut client, "hot").await;
    // Before that, the first report of each group reads the job.
    in_time("an answer from memory", async { while get(&mut client, "hot").await.source() != Source::Memory {} }).await;
    let callers: Vec<_> = join_all((0..CALLERS).map(|_| server.client())).await;
    let mut revisions = Vec::new();
    let reported = asked(&redis, async {
        let reports = callers.into_iter().map(|mut client| async move {
            let mut revisions = Vec::new();
            for _ in 0..REPORTS {
                let job = report(&mut client, "hot").await;
                assert_eq!(job.durability(), Durability::Durable);
                revisions.push(job.revision);
            }
            assert!(revisions.is_sorted(), "{revisions:?}");
            revisions
        });
        revisions = join_all(reports).await.concat();
    })
    .await;
    // Each report has a revision of its own.
    revisions.sort_unstable();
    assert!(revisions.iter().copied().eq((3..).take(CALLERS * REPORTS)), "{revisions:?}");
    let [reads, writes, _] = reported.map(|count| usize::try_from(count).expect("a count"));
    println!("{reads} reads and {writes} writes of {} reports", CALLERS * REPORTS);
    // On a very busy machine the check of Redis may be late; then Redis is asked.
    assert!(reads <= writes && writes <= CALLERS * REPORTS, "{reads} reads and {writes} writes");
    server.stop().await;
}

/// Of jobs that are too large together, only slightly more are read than fit into a response.
#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_is_too_large_is_not_read_to_its_end() {
    const JOBS: usize = 30;
    let redis = Redis::start().await;
    let (server, other) = (server_on(&redis).await, server_on(&redis).await);
    for server in [&server, &other] {
        Health::watch(server, "redis").await.until(Serving).await;
    }
    let mut client = server.client().await;
    let job_ids: Vec<_> = (0..JOBS).map(|number| format!("large-{number}")).collect();
    for id in &job_ids {
        create(&mut client, id).await;
        let result = Some(large_document(1_000_000));
        let completion = CompleteJobRequest { job_id: id.clone(), result, ..CompleteJobRequest::default() };
        client.complete_job(with_long_deadline(completion)).await.expect("it is taken");
    }
    let mut elsewhere = other.client().await;
    let batch = |view: View| with_long_deadline(BatchGetJobsRequest { job_ids: job_ids.clone(), view: view.into() });
    let before = commands(&redis).await[0];
    let refused = elsewhere.batch_get_jobs(batch(View::Full)).await.expect_err("it is too much");
    assert_eq!(reason(&refused), "MESSAGE_TOO_LARGE");
    let read = commands(&redis).await[0] - before;
    assert!((5..=5 + 8).contains(&read), "{read} jobs were read");
    let basic = elsewhere.batch_get_jobs(batch(View::Basic)).await.expect("it is little").into_inner();
    assert_eq!(basic.jobs.into_iter().map(|job| job.id).collect::<Vec<_>>(), job_ids);
    // A page contains as many jobs as fit.
    let request = ListJobsRequest { view: View::Full.into(), ..ListJobsRequest::default() };
    let page = elsewhere.list_jobs(with_long_deadline(request)).await.expect("a page").into_inner();
    assert!(page.jobs.len() == 3 && !page.next_page_token.is_empty(), "{} jobs", page.jobs.len());
    server.stop().await;
    other.stop().await;
}

/// Apart from the job itself, an event has a few bytes and its token.
#[tokio::test(flavor = "multi_thread")]
async fn event_has_the_size_of_a_job_and_a_token() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;
    make(&mut client, CreateJobRequest { owner: "media".to_owned(), ..new_job("a") }).await;
    let mut stream = watch(&client, "a").await;
    stream.expect(Event::Snapshot).await;
    let job = report(&mut client, "a").await;
    let seen = stream.expect(Event::Update).await;
    assert_eq!(seen.job.as_ref(), Some(&job));
    // In the token, the data set and the process have up to 16 digits each, and there are four dots.
    assert!(seen.token.len() <= 16 + 16 + 4 + "2".len() + "ffff".len() + "a".len(), "{}", seen.token);
    assert!(job.encoded_len() <= 110, "{} bytes: {job:?}", job.encoded_len());
    server.stop().await;
}

async fn call_often(client: &Client, count: usize) {
    let calls = stream::iter(0..count).map(|number| {
        let mut client = client.clone();
        async move {
            let id = format!("job-{}", number % 100);
            if number % 2 == 0 {
                report(&mut client, &id).await;
            } else {
                client.get_job(read(&id)).await.expect("it is there");
            }
        }
    });
    calls.buffer_unordered(64).for_each(async |()| {}).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_grows_over_a_hundred_thousand_calls() {
    let redis = Redis::start().await;
    let process = Process::start(&["--redis-url", &redis.url()]);
    let mut client = process.client().await;
    for number in 0..100 {
        create(&mut client, &format!("job-{number}")).await;
    }
    call_often(&client, CALLS / 5).await;
    let before = (process.resident(), process.files(), process.threads());
    call_often(&client, CALLS).await;
    let after = (process.resident(), process.files(), process.threads());
    println!("memory, files, threads: {before:?}, then {after:?}");
    assert!(after.0 < before.0 + (8 << 20), "memory grows: {before:?}, then {after:?}");
    assert!(after.1 <= before.1 + 2, "connections pile up: {before:?}, then {after:?}");
    // One thread may be started when a command first waits for long, as on a busy machine.
    assert!(after.2 <= before.2 + 1, "threads pile up: {before:?}, then {after:?}");
}
