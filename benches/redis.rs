//! Costs of Redis: `cargo bench --bench redis`, with a redis-server on the PATH.
//!
//! Prints the scripted writes per second that 64 callers get from a stock pool that lends a connection to one caller at
//! a time, with and without a PING before each use, and from the store, whose callers share connections; then the time
//! of a page of 50 among a thousand and a million jobs, and the size of a job in Redis.

#[path = "../tests/it/support/faketime.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod faketime;

#[path = "../tests/it/support/programs.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod programs;

#[path = "../tests/it/support/redis/mod.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod servers;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bb8_redis::{RedisConnectionManager, bb8};
use futures_util::future::join_all;
use jobtrack::{
    clock::{Clock, SteeredClock, SystemClock},
    domain::{
        Applied, Change, ChangeContext, ChangeId, Cursor, Filter, Job, JobId, ListQuery, NewJob, Order, Owners,
        Progress, Report, Retention, State, View,
    },
    store::{
        CommitEvent, JobStore, Listener, Presence, RedisStore, Replaced,
        redis::{Options, Target},
    },
};
use redis::{Cmd, cmd};
use servers::Redis;
use uuid::Uuid;

const CALLERS: usize = 64;
const WRITES: usize = 400;
const ROUNDS: usize = 5;
const PAGES: u32 = 501;

#[tokio::main]
async fn main() {
    let redis = Redis::start().await;
    writes(&redis).await;
    Box::pin(listing(&redis)).await;
}

/// A listener that ignores all events.
struct Deaf;

impl Listener for Deaf {
    fn on_commit(&self, _: CommitEvent) {}
}

async fn open(redis: &Redis, pool_size: u32) -> RedisStore {
    let options = Options {
        target: Target::parse(&redis.url()).expect("a valid address"),
        pool_size,
        timeout: Duration::from_secs(4),
        key_prefix: "job:".to_owned(),
        replica_grace: Duration::from_secs(30),
    };
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    RedisStore::open(options, Arc::new(Deaf), clock, Arc::new(Presence::new(RedisStore::PARTITIONING.count)))
        .await
        .expect("Redis is usable")
}

fn change_context() -> ChangeContext {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let none = Duration::ZERO;
    ChangeContext {
        now: SystemClock.now(),
        change_id: ChangeId { process: 1, counter: COUNTER.fetch_add(1, Relaxed) },
        retention: Retention { succeeded: none, failed: none, cancelled: none, active: none },
    }
}

fn job(id: &str) -> Job {
    let new = NewJob {
        kind: "video.render".into(),
        owner: "owner-1".into(),
        labels: [("team".to_owned(), "media".to_owned())].into(),
        ..NewJob::default()
    };
    Job::create(JobId::parse(id).expect("a valid id"), new, None, Uuid::new_v4(), &change_context())
}

fn report(job: &Job, completed: i64) -> Job {
    let progress = Progress {
        completed: Some(completed),
        total: Some(1_000_000),
        stage: Some("rendering".into()),
        ..Progress::default()
    };
    match job
        .apply(&Change::Report(Report { progress, worker: "worker-1".into(), ..Report::default() }), &change_context())
    {
        Ok(Applied::Changed(next)) => *next,
        other => panic!("a report changes a job: {other:?}"),
    }
}

/// Returns the calls per second of callers that each report on a job of their own.
async fn rate<C: Future<Output = ()>>(caller: impl Fn(usize) -> C) -> f64 {
    let started = Instant::now();
    join_all((0..CALLERS).map(&caller)).await;
    f64::from(u32::try_from(CALLERS * WRITES).expect("it is small")) / started.elapsed().as_secs_f64()
}

async fn writes(redis: &Redis) {
    println!("{CALLERS} callers, scripted writes a second, {ROUNDS} rounds (ratio to the first)");
    let names = ["stock pool, PING", "stock pool, no PING", "store, 1 shared", "store, 2 shared", "store, 8 shared"];
    let mut rates = vec![Vec::new(); names.len()];
    let mut stores = Vec::new();
    for connections in [1, 2, 8] {
        stores.push(open(redis, connections).await);
    }
    for round in 0..ROUNDS {
        for at in 0..names.len() {
            let at = (at + round) % names.len();
            let rate = match at {
                0 | 1 => stock(redis, at == 0).await,
                _ => shared(&stores[at - 2]).await,
            };
            rates[at].push(rate);
        }
    }
    let medians: Vec<_> = rates.into_iter().map(median).collect();
    for (name, rate) in names.iter().zip(&medians) {
        println!("{name:<22} {rate:>9.0} {:>6.2}", rate / medians[0]);
    }
}

/// Returns the rate of the same write with a stock pool: a connection belongs to one caller at a time.
async fn stock(redis: &Redis, ping: bool) -> f64 {
    let manager = RedisConnectionManager::new(redis.url()).expect("a valid address");
    let pool = bb8::Pool::builder().max_size(8).test_on_check_out(ping).build(manager).await.expect("a pool");
    let hash: String = {
        let mut link = pool.get().await.expect("a connection");
        let load = include_str!("../src/store/redis/replace.lua");
        cmd("SCRIPT").arg("LOAD").arg(load).query_async(&mut *link).await.expect("the script loads")
    };
    let (pool, hash) = (&pool, &hash);
    rate(|_| async move {
        let mut current = job(&Uuid::new_v4().to_string());
        run(pool, write(hash, &current, None)).await;
        for completed in 0..i64::try_from(WRITES).expect("it is small") {
            let next = report(&current, completed);
            run(pool, write(hash, &next, Some(&current))).await;
            current = next;
        }
    })
    .await
}

async fn run(pool: &bb8::Pool<RedisConnectionManager>, write: Cmd) {
    let mut link = pool.get().await.expect("a connection");
    let done: redis::Value = write.query_async(&mut *link).await.expect("an answer");
    assert!(matches!(done, redis::Value::BulkString(_)), "it is stored: {done:?}");
}

/// Returns a write as the store makes it, without index entries.
fn write(hash: &str, next: &Job, previous: Option<&Job>) -> Cmd {
    let written = |job: &Job| {
        let version = job.version;
        let change_id = format!("{:x}.{:x}", version.change_id.process, version.change_id.counter);
        let incarnation_id = version.incarnation_id.simple();
        format!("{} {change_id} {} {incarnation_id}", version.revision, version.first_revision)
    };
    let mut command = cmd("EVALSHA");
    command.arg(hash).arg(2).arg(format!("job:{{0}}:{}", next.id)).arg("jobs:{0}:commits");
    command.arg(previous.map(written).unwrap_or_default());
    command.arg(next.id.as_str()).arg("jobs:{0}:changes:0");
    command.arg(format!("{{\"id\":\"{}\",\"rev\":{},\"state\":\"RUNNING\"}}", next.id, next.version.revision));
    command.arg("now").arg(if previous.is_none() { "first" } else { "" }).arg("");
    command.arg(if previous.is_none() { "whole" } else { "part" }).arg(0);
    command.arg("v").arg(written(next)).arg("job").arg(serde_json::to_vec(next).expect("a job is JSON"));
    command
}

async fn shared(store: &RedisStore) -> f64 {
    rate(|_| async move {
        let mut current = put(store, job(&Uuid::new_v4().to_string()), None).await;
        for completed in 0..i64::try_from(WRITES).expect("it is small") {
            current = put(store, report(&current, completed), Some(&current)).await;
        }
    })
    .await
}

async fn put(store: &RedisStore, job: Job, previous: Option<&Job>) -> Arc<Job> {
    match store.replace(Arc::new(job), previous).await.expect("Redis answers") {
        Replaced::Stored(stored) => stored.job,
        Replaced::Conflict(current) => panic!("nobody else writes: {current:?}"),
    }
}

async fn listing(redis: &Redis) {
    redis.command(&["FLUSHALL"]).await;
    let store = open(redis, 8).await;
    let filters = [
        ("all", Filter::default()),
        ("running", Filter { states: [State::Running].into(), ..Filter::default() }),
        ("active", Filter { states: [State::Pending, State::Running].into(), ..Filter::default() }),
        ("owner", Filter { owners: Owners::one("owner-1"), ..Filter::default() }),
        (
            "owner, running",
            Filter { owners: Owners::one("owner-1"), states: [State::Running].into(), ..Filter::default() },
        ),
    ];
    let (mut there, mut medians) = (0, Vec::new());
    for size in [1_000, 1_000_000] {
        fill(&store, there..size).await;
        there = size;
        for (_, filter) in &filters {
            medians.push(page(&store, filter).await);
        }
    }
    println!("\n{:<16} {:>14} {:>14} {:>6}", "a page of 50", "of 1,000", "of 1,000,000", "ratio");
    for (at, (name, _)) in filters.iter().enumerate() {
        let (few, many) = (medians[at], medians[at + filters.len()]);
        println!("{name:<16} {few:>11.0} µs {many:>11.0} µs {:>6.2}", many / few);
    }
    weigh(redis, &store, there).await;
}

/// Creates jobs, every other one running.
async fn fill(store: &RedisStore, numbers: std::ops::Range<u32>) {
    let numbers: Vec<_> = numbers.collect();
    for some in numbers.chunks(256) {
        join_all(some.iter().map(|n| async move {
            let made = put(store, job(&format!("job-{n:08}")), None).await;
            if n % 2 == 1 {
                put(store, report(&made, 1), Some(&made)).await;
            }
        }))
        .await;
    }
}

/// Returns the median time of a page, in microseconds.
async fn page(store: &RedisStore, filter: &Filter) -> f64 {
    let query = |after| ListQuery {
        filter: filter.clone(),
        order: Order::Newest,
        limit: 50,
        max_bytes: usize::MAX,
        after,
        now: SystemClock.now(),
        confined: false,
        view: View::Full,
    };
    let mut times = Vec::new();
    let mut after: Option<Cursor> = None;
    for _ in 0..PAGES {
        let started = Instant::now();
        let page = store.list(&query(after.take())).await.expect("Redis answers");
        times.push(started.elapsed().as_secs_f64() * 1e6);
        after = page.next;
    }
    median(times)
}

/// Prints the memory of a job: its hash, and its share of the total.
async fn weigh(redis: &Redis, store: &RedisStore, jobs: u32) {
    let newest = ListQuery {
        filter: Filter::default(),
        order: Order::Newest,
        limit: 1,
        max_bytes: usize::MAX,
        after: None,
        now: SystemClock.now(),
        confined: false,
        view: View::Full,
    };
    let newest = store.list(&newest).await.expect("Redis answers").jobs[0].job.clone();
    let info = redis.info("memory").await;
    let used = info.lines().find_map(|line| line.strip_prefix("used_memory_dataset:")).expect("Redis tells its memory");
    let used: f64 = used.trim().parse().expect("a number");
    println!("\nthe newest of {jobs} jobs has {} bytes of JSON", serde_json::to_vec(&*newest).expect("JSON").len());
    let keys: Vec<String> =
        redis::from_redis_value(redis.command(&["ZRANGE", "jobs:{0}:created", "0", "0"]).await).expect("ids of jobs");
    let hash = redis.command(&["MEMORY", "USAGE", &format!("job:{{0}}:{}", keys[0])]).await;
    println!("MEMORY USAGE of a job's hash: {hash:?}");
    println!("bytes in Redis for each, with its index entries: {:.0}", used / f64::from(jobs));
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}
