//! The time in which many replicas return together: `cargo bench --bench recovery`, with a redis-server on the PATH.
//!
//! Ten servers, each a process of its own, hold the same 100,000 jobs. Redis is killed and starts again with all its
//! data, so that each replica compares all its cached jobs before it serves from Redis. Callers read and report
//! throughout. In the same run, ten raw clients, each on one connection, read as many versions in pipelines.
//!
//! | it fails unless | |
//! |---|---|
//! | time | all replicas serve in at most 3 times the time of the raw clients (medians of the rounds) |
//! | bytes | Redis sent, and received, at most 1.5 times what the versions need |
//! | callers | every call was answered with OK |
//!
//! `-- --replicas 10 --jobs 100000 --rounds 3` is the default; with fewer jobs, pauses between attempts count for more.

mod callers;
mod raw;

#[path = "../compare/cpu.rs"]
mod cpu;

#[path = "../../tests/it/support/faketime.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod faketime;

#[path = "../../tests/it/support/process.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod process;

#[path = "../../tests/it/support/programs.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod programs;

#[path = "../../tests/it/support/redis/mod.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod servers;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use callers::{Callers, Phase};
use clap::Parser;
use futures_util::{StreamExt, future::join_all, stream};
use jobtrack::{
    clock::{Clock, SteeredClock, SystemClock},
    domain::{ChangeContext, ChangeId, Job, JobId, NewJob, Retention},
    proto::health::health_client::HealthClient,
    proto::v1::{
        BatchGetJobsRequest, Durability, GetJobRequest, GetStatsRequest, StorageMode,
        admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
    },
    store::{
        CommitEvent, JobStore, Listener, Presence, RedisStore, Replaced,
        redis::{Options, Target},
    },
};
use process::Process;
use servers::Redis;
use tokio::time::{sleep, timeout};
use tonic::{Streaming, transport::Channel};
use tonic_health::{
    ServingStatus,
    pb::{HealthCheckRequest, HealthCheckResponse},
};
use uuid::Uuid;

/// The allocator of jobtrack, so that the raw clients have the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A client of `JobService`.
type Client = JobServiceClient<Channel>;

/// A client of `AdminService`.
type Admin = AdminServiceClient<Channel>;

/// Maximum ratios to the raw clients, and to the bytes that the versions need.
const TIME_RATIO_MAX: f64 = 3.0;
const BYTES_RATIO_MAX: f64 = 1.5;

/// Number of jobs that are written at a time.
const WRITES_AT_ONCE: usize = 256;

/// Number of jobs that a replica reads with one call, and of such calls at a time.
const BATCH_JOBS: usize = 100;
const BATCHES_AT_ONCE: usize = 4;

/// Duration of an outage, after all replicas have noticed it.
const OUTAGE: Duration = Duration::from_secs(2);

/// Pause before a round.
const ROUND_PAUSE: Duration = Duration::from_secs(2);

/// Interval at which a replica is asked whether it serves.
const PROBE_INTERVAL: Duration = Duration::from_millis(5);

/// Maximum time until a replica has noticed an outage or its end.
const DETECTION_TIMEOUT: Duration = Duration::from_secs(300);

/// Measures the time in which replicas with many cached jobs recover together.
#[derive(Parser)]
struct Arguments {
    /// Number of replicas that recover together
    #[arg(long, default_value_t = 10)]
    replicas: usize,
    /// Number of jobs that each replica has cached
    #[arg(long, default_value_t = 100_000)]
    jobs: usize,
    /// Number of outages, each after a reading by raw clients
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The return of all replicas after an outage.
struct Return {
    time: Duration,
    /// Bytes that Redis sent and received until all replicas served.
    bytes: [u64; 2],
    cpu: Duration,
    redis_cpu: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { replicas, jobs, rounds, .. } = Arguments::parse();
    let mut redis = Redis::with(&["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"]).await;
    let ids = fill(&redis, jobs).await;
    let keys = ids.iter().map(raw::key).collect::<Vec<_>>();
    let replicas: Vec<_> = (0..replicas).map(|_| start(&redis)).collect();
    for replica in &replicas {
        hold(replica, &ids).await;
    }
    println!("{} replicas hold {jobs} jobs each", replicas.len());

    let needed = raw::bytes(&redis, &keys).await.map(|bytes| bytes * replicas.len() as u64);
    let callers = Callers::start(&replicas, &ids).await;
    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), [Vec::new(), Vec::new()]);
    for round in 1..=rounds {
        sleep(ROUND_PAUSE).await;
        callers.enter(Phase::Raw);
        let raw = raw::read_all(&redis, &keys, replicas.len()).await;
        callers.enter(Phase::Rest);
        let Return { time, bytes, cpu, redis_cpu } = come_back(&mut redis, &replicas, &callers, &ids).await;
        println!(
            "round {round}: raw clients {:.2?} (CPU of Redis {:.2?}); replicas {time:.2?} (CPU {cpu:.2?}, of Redis \
             {redis_cpu:.2?}); Redis sent {} and received {} bytes",
            raw.time, raw.redis_cpu, bytes[0], bytes[1],
        );
        theirs.push(raw.time.as_secs_f64());
        ours.push(time.as_secs_f64());
        for (ratios, (bytes, needed)) in ratios.iter_mut().zip(bytes.into_iter().zip(needed)) {
            ratios.push(ratio(bytes, needed));
        }
    }
    let calls = callers.stop().await;
    println!();
    let (time, raw) = (median(ours), median(theirs));
    let [sent, received] = ratios.map(median);
    let mut passed = true;
    let mut bar = |what: String, is_met: bool| {
        passed &= is_met;
        println!("{} {what}", if is_met { "met   " } else { "MISSED" });
    };
    bar(
        format!("time: {time:.2} s, raw clients {raw:.2} s, ratio {:.2} of at most {TIME_RATIO_MAX}", time / raw),
        time / raw <= TIME_RATIO_MAX,
    );
    let most = BYTES_RATIO_MAX;
    bar(format!("bytes sent by Redis: {sent:.2} of at most {most} times {}", needed[0]), sent <= most);
    bar(format!("bytes received by Redis: {received:.2} of at most {most} times {}", needed[1]), received <= most);
    bar(
        format!(
            "calls: {} of {} failed; the longest took {:.2?}",
            calls.failures.len(),
            calls.count(),
            calls.longest()
        ),
        calls.failures.is_empty(),
    );
    println!("{calls}");
    ExitCode::from(u8::from(!passed))
}

fn ratio(bytes: u64, needed: u64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio of some digits")]
    let ratio = bytes as f64 / needed as f64;
    ratio
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Starts a replica that has room for all jobs.
fn start(redis: &Redis) -> Process {
    Process::start(&["--redis-url", &redis.url(), "--max-memory-jobs", "10000000"])
}

/// A listener that ignores all events.
struct Deaf;

impl Listener for Deaf {
    fn on_commit(&self, _: CommitEvent) {}
}

/// Creates jobs. Returns their ids.
async fn fill(redis: &Redis, jobs: usize) -> Vec<JobId> {
    let options = Options {
        target: Target::parse(&redis.url()).expect("a valid address"),
        pool_size: 2,
        timeout: Duration::from_secs(4),
        key_prefix: "job:".to_owned(),
        replica_grace: Duration::from_secs(1),
    };
    let clock = Arc::new(SteeredClock::new(Arc::new(SystemClock)));
    let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
    let store = RedisStore::open(options, Arc::new(Deaf), clock, presence).await.expect("Redis is usable");
    let ids: Vec<_> = (0..jobs).map(|_| JobId::parse(&Uuid::new_v4().to_string()).expect("a valid id")).collect();
    let writes = stream::iter(&ids).enumerate().map(|(counter, id)| {
        let job = job(id, counter as u64);
        let store = &store;
        async move { store.replace(job, None).await.expect("Redis answers") }
    });
    let stored = writes.buffer_unordered(WRITES_AT_ONCE).all(async |written| matches!(written, Replaced::Stored(_)));
    assert!(stored.await, "nobody else writes");
    ids
}

fn job(id: &JobId, counter: u64) -> Arc<Job> {
    let new = NewJob {
        kind: "video.render".into(),
        owner: format!("owner-{}", counter % 100),
        labels: [("team".to_owned(), "media".to_owned())].into(),
        ..NewJob::default()
    };
    let none = Duration::ZERO;
    let context = ChangeContext {
        now: SystemClock.now(),
        change_id: ChangeId { process: Uuid::new_v4().as_u64_pair().0, counter },
        retention: Retention { succeeded: none, failed: none, cancelled: none, active: none },
    };
    Arc::new(Job::create(id.clone(), new, None, Uuid::new_v4(), &context))
}

/// Fills the cache of a replica with all jobs, by reading them.
async fn hold(replica: &Process, ids: &[JobId]) {
    let client = &replica.client().await;
    let batches = stream::iter(ids.chunks(BATCH_JOBS)).map(|ids| {
        let mut client = client.clone();
        let job_ids = ids.iter().map(ToString::to_string).collect();
        async move { client.batch_get_jobs(BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() }).await }
    });
    let read = batches.buffer_unordered(BATCHES_AT_ONCE).all(async |read| {
        let answer = read.expect("they can be read").into_inner();
        answer.missing_ids.is_empty()
    });
    assert!(read.await, "all jobs are there");
    let stats = replica.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    let held = usize::try_from(stats.jobs_in_memory).unwrap_or_default();
    assert!(held >= ids.len(), "it does not hold all of them: {stats:?}");
}

/// Kills Redis and starts it again. Measures from its first answer until all replicas serve from it.
async fn come_back(redis: &mut Redis, replicas: &[Process], callers: &Callers, ids: &[JobId]) -> Return {
    let mut health = join_all(replicas.iter().map(Health::watch)).await;
    callers.enter(Phase::Outage);
    redis.kill();
    join_all(health.iter_mut().map(|health| health.until(ServingStatus::NotServing))).await;
    sleep(OUTAGE).await;
    redis.restart().await;
    let (started, cpu_before, redis_cpu_before) = (Instant::now(), cpu_of(replicas), raw::cpu(redis).await);
    callers.enter(Phase::Return);
    let serve = replicas.iter().zip(&mut health).map(async |(replica, health)| {
        health.until(ServingStatus::Serving).await;
        while !serves_from_redis(replica, &ids[0]).await {
            sleep(PROBE_INTERVAL).await;
        }
    });
    join_all(serve).await;
    let time = started.elapsed();
    callers.enter(Phase::Rest);
    // The counters of Redis start at zero with its process.
    Return {
        time,
        bytes: raw::traffic(redis).await,
        cpu: cpu_of(replicas).saturating_sub(cpu_before),
        redis_cpu: raw::cpu(redis).await.saturating_sub(redis_cpu_before),
    }
}

fn cpu_of(replicas: &[Process]) -> Duration {
    replicas.iter().map(|replica| cpu::time(replica.id())).sum()
}

/// Returns whether a replica serves from Redis.
async fn serves_from_redis(replica: &Process, id: &JobId) -> bool {
    let stats = replica.admin().await.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
    let request = GetJobRequest { job_id: id.to_string(), ..GetJobRequest::default() };
    let read = replica.client().await.get_job(request).await.expect("it answers").into_inner();
    let durability = read.job.expect("a job").durability();
    stats.storage_mode() == StorageMode::Redis && durability == Durability::Durable
}

/// The health of a replica's link to Redis, as it changes.
struct Health(Streaming<HealthCheckResponse>);

impl Health {
    async fn watch(replica: &Process) -> Self {
        let request = HealthCheckRequest { service: "redis".to_owned() };
        let stream = HealthClient::new(replica.channel().await).watch(request).await;
        Self(stream.expect("health can be watched").into_inner())
    }

    async fn until(&mut self, status: ServingStatus) {
        let is_told =
            async { while self.0.message().await.expect("it goes on").expect("it goes on").status != status as i32 {} };
        timeout(DETECTION_TIMEOUT, is_told).await.expect("it takes no longer");
    }
}
