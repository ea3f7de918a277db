//! Calls per second, CPU and latency of each server, in short rounds in changing order.

use std::{fmt::Write, sync::Arc, time::Duration};

use crate::{
    contender::{CONNECTIONS, Contender, Gathered, Name},
    load::unary::{self, Plan, Until},
    report::Report,
    stats::real,
    tables::{Column, Comparison, in_random_order, missing, versions},
    workload::{Jobs, Operation},
};

const CALLERS: [u32; 3] = [1, 64, 512];

/// Number of jobs that are read and updated.
const JOBS: u32 = 1024;

/// The measured servers, in the order of the tables.
const NAMES: [Name; 9] = [
    Name::Jobtrack,
    Name::Floor,
    Name::FloorAgain,
    Name::GrpcGo,
    Name::Etcd,
    Name::Nats,
    Name::JobtrackRedis,
    Name::FloorRedis,
    Name::Redis,
];

/// The results of one server in one round.
struct Round {
    rate: f64,
    /// CPU time in microseconds per call: of the server, of Redis, and of both.
    cpu: f64,
    redis_cpu: f64,
    all_cpu: f64,
    /// Latencies in microseconds.
    p50: f64,
    p99: f64,
}

const COLUMNS: [Column<Round>; 6] = [
    Column { head: "calls/s", value: |round| round.rate, with_ratio: true },
    Column { head: "CPU µs", value: |round| round.cpu, with_ratio: false },
    Column { head: "Redis CPU µs", value: |round| round.redis_cpu, with_ratio: false },
    Column { head: "all CPU µs", value: |round| round.all_cpu, with_ratio: true },
    Column { head: "p50 µs", value: |round| round.p50, with_ratio: false },
    Column { head: "p99 µs", value: |round| round.p99, with_ratio: false },
];

/// Measures all calls, and writes the section.
pub async fn run(report: &Report) {
    let (rounds, time) = if report.quick { (3, 100) } else { (15, 300) };
    let gathered = Gathered::start(&NAMES).await;
    let mut servers = Vec::new();
    for contender in &gathered.contenders {
        let jobs = Arc::new(Jobs::new(JOBS));
        unary::prepare(&*contender.client, &jobs).await;
        servers.push((contender, jobs));
    }
    let mut tables = String::new();
    for operation in Operation::ALL {
        for callers in CALLERS {
            let plan = Plan { operation, callers, until: Until::Time(Duration::from_millis(time)), rate: None };
            let mut comparison = Comparison::new(&NAMES);
            for (contender, jobs) in &servers {
                round(contender, jobs, plan).await;
            }
            for _ in 0..rounds {
                for (contender, jobs) in in_random_order(&servers) {
                    comparison.add(contender.name, round(contender, jobs, plan).await);
                }
            }
            let plural = if callers == 1 { "" } else { "s" };
            let table = comparison.render(&COLUMNS, [Name::Floor, Name::FloorAgain]);
            _ = writeln!(tables, "### {}, {callers} caller{plural}\n\n{table}", operation.name());
        }
    }
    let text = format!("{}\n{}{}\n{tables}", introduction(rounds, time), versions(), missing(&gathered.missing));
    report.write("peers-calls", &text);
}

fn introduction(rounds: usize, time: u64) -> String {
    format!(
        "## Calls, in comparison with peers\n\nMedians of {rounds} rounds of {time} ms in changing order, on \
         {CONNECTIONS} connections to each server, with {JOBS} jobs. One client makes all calls of gRPC. A ratio is that of \
         the server to jobtrack in the same round: to jobtrack in memory, and for servers with Redis to jobtrack with \
         Redis. \"Controls\" is the middle 80 % of the ratios of the two equal floors; a ratio in this range is marked ≈ \
         and shows no difference. \"All CPU\" is that of the server and of its Redis.\n\n\
         The peers do less than jobtrack:\n\n\
         - tonic floor, grpc-go floor: answer the same messages from a map, without rules for states, durability, or \
         watches across replicas. With Redis, the floor makes one scripted write for each change, and reads from Redis; \
         jobtrack answers these reads from memory.\n\
         - etcd: `Range`, `Put`, and a `Txn` that creates only what is new. No rules for states. A single member, whose \
         history is not compacted; it runs without fsync on a folder in memory, which is in its favour.\n\
         - NATS KV: a bucket in memory, read with the direct API. Updates are blind overwrites, without rules for \
         states; a creation is refused if the key exists. Its protocol is not gRPC.\n\
         - Redis, direct: `HGETALL`, and `HSET` with `PUBLISH` in one pipeline. Blind overwrites, also by creations, \
         without rules for states.\n"
    )
}

async fn round(contender: &Contender, jobs: &Arc<Jobs>, plan: Plan) -> Round {
    let before = contender.cpu_time();
    let outcome = unary::run(contender.client.clone(), jobs.clone(), plan).await;
    let after = contender.cpu_time();
    let per_call = |used: Duration| used.as_secs_f64() * 1e6 / real(outcome.calls);
    let cpu = per_call(after.server.saturating_sub(before.server));
    let redis_cpu = per_call(after.redis.saturating_sub(before.redis));
    Round {
        rate: outcome.rate(),
        cpu,
        redis_cpu,
        all_cpu: cpu + redis_cpu,
        p50: outcome.latency(0.5),
        p99: outcome.latency(0.99),
    }
}
