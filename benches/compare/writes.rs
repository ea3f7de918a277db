//! Writes with Redis, and single callers: rates, CPU of the server and of Redis, and commands, as ratios to the floor.
//! Rounds are short and their order changes; two equal floors among them show how much of a difference is noise.

use std::{sync::Arc, time::Duration};

use crate::{
    load::unary::{self, Plan, Target, Until},
    process::{Kind, Server},
    report::{Report, Table},
    servers::Redis,
    stats::{Spread, median, real, shuffled},
    workload::{Jobs, Operation},
};

const CONNECTIONS: usize = 4;

/// Number of jobs, unless a case has fewer.
const JOBS: u32 = 1024;

/// Number of jobs with which one job is compared.
const SEPARATE_JOBS: u32 = 64;

/// A measured load.
struct Case {
    name: &'static str,
    operation: Operation,
    callers: u32,
    /// Number of jobs that are called for.
    jobs: u32,
    redis: bool,
}

const fn case(name: &'static str, operation: Operation, callers: u32, jobs: u32, redis: bool) -> Case {
    Case { name, operation, callers, jobs, redis }
}

const CASES: &[Case] = &[
    case("get, memory, 1 caller", Operation::Get, 1, JOBS, false),
    case("get, memory, 64 callers", Operation::Get, 64, JOBS, false),
    case("update, 1 caller", Operation::Update, 1, JOBS, true),
    case("update, 2 callers", Operation::Update, 2, JOBS, true),
    case("update, 64 callers", Operation::Update, 64, JOBS, true),
    case("update, 512 callers", Operation::Update, 512, JOBS, true),
    case("update of one job, 16 callers", Operation::Update, 16, 1, true),
    case("update of one job, 64 callers", Operation::Update, 64, 1, true),
    case("create, 1 caller", Operation::Create, 1, JOBS, true),
    case("create, 64 callers", Operation::Create, 64, JOBS, true),
];

/// The measured servers. The first two are the controls.
const CONTROL: usize = 0;
const OTHER_CONTROL: usize = 1;
const JOBTRACK: usize = 2;

/// A running server with its jobs.
struct Contender {
    server: Server,
    target: Arc<Target>,
    jobs: Arc<Jobs>,
}

/// The results of one server in one round, per call.
#[derive(Clone, Copy, Default)]
struct Round {
    rate: f64,
    cpu: f64,
    redis_cpu: f64,
    scripts: f64,
    p50: f64,
}

/// Measures all cases, and writes the section.
pub async fn run(report: &Report) {
    let (rounds, time) = if report.quick { (5, 150) } else { (21, 300) };
    let time = Duration::from_millis(time);
    let redis = Redis::start().await;
    let mut table = Table::new(&[
        "call",
        "calls/s: ratio",
        "controls",
        "CPU: ratio",
        "controls",
        "Redis CPU: ratio",
        "Redis µs",
        "scripts",
        "p50: ratio",
    ]);
    for with_redis in [false, true] {
        let url = redis.url();
        let contenders = gather(with_redis.then_some(url.as_str())).await;
        for case in CASES.iter().filter(|case| case.redis == with_redis) {
            let measured = measure(case, &contenders, &redis, rounds, time).await;
            table.row(row(case, &measured));
        }
    }
    let text = format!(
        "## Writes with Redis, and single callers\n\nRatios of jobtrack to the floor in the same round, on \
         {CONNECTIONS} connections (one for a single caller): medians of {rounds} rounds of {} ms in changing order. The \
         floor makes one scripted write for each change. \"Redis CPU\" is the CPU time of Redis per call, \"scripts\" the \
         number of scripts that Redis executes for a call to jobtrack. \
         Updates of one job are compared with updates of {SEPARATE_JOBS} jobs by as many callers of jobtrack.\n\n{}",
        time.as_millis(),
        table.render()
    );
    report.write("writes", &text);
}

async fn gather(redis: Option<&str>) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for kind in [Kind::Floor, Kind::Floor, Kind::Jobtrack] {
        let server = kind.start(redis);
        let target = Arc::new(Target::grpc(server.address, CONNECTIONS).await);
        let jobs = Arc::new(Jobs::new(JOBS));
        target.prepare(&jobs).await;
        contenders.push(Contender { server, target, jobs });
    }
    contenders
}

/// Measures the servers. Calls for one job are compared with those for [`SEPARATE_JOBS`] jobs on the same server, because
/// the floor has no rule for concurrent changes.
async fn measure(
    case: &Case,
    contenders: &[Contender],
    redis: &Redis,
    rounds: usize,
    time: Duration,
) -> [Vec<Round>; 3] {
    let mut measured: Vec<_> = contenders.iter().map(|one| (one, one.jobs.clone())).collect();
    if case.jobs == 1 {
        let jobtrack = &contenders[JOBTRACK];
        let (separate, one) = (Arc::new(Jobs::new(SEPARATE_JOBS)), Arc::new(Jobs::contended()));
        for jobs in [&separate, &one] {
            jobtrack.target.prepare(jobs).await;
        }
        measured = vec![(jobtrack, separate.clone()), (jobtrack, separate), (jobtrack, one)];
    }
    for (contender, jobs) in &measured {
        contender.round(case, jobs, redis, time).await;
    }
    let mut results = [const { Vec::new() }; 3];
    for _ in 0..rounds {
        for at in shuffled(measured.len()) {
            let (contender, jobs) = &measured[at];
            results[at].push(contender.round(case, jobs, redis, time).await);
        }
    }
    results
}

impl Contender {
    async fn round(&self, case: &Case, jobs: &Arc<Jobs>, redis: &Redis, time: Duration) -> Round {
        let plan = Plan { operation: case.operation, callers: case.callers, until: Until::Time(time), rate: None };
        let (server_before, redis_before) = (self.server.cpu_time(), redis_cpu(redis).await);
        let [scripts] = redis.calls(["evalsha"]).await;
        let outcome = unary::run(self.target.clone(), jobs.clone(), plan).await;
        let used = self.server.cpu_time().saturating_sub(server_before).as_secs_f64();
        let [scripts_now] = redis.calls(["evalsha"]).await;
        let calls = real(outcome.calls);
        Round {
            rate: outcome.rate(),
            cpu: used * 1e6 / calls,
            redis_cpu: (redis_cpu(redis).await - redis_before) * 1e6 / calls,
            scripts: real(u64::try_from(scripts_now - scripts).unwrap_or_default()) / calls,
            p50: outcome.latency(0.5),
        }
    }
}

/// Returns the CPU time of Redis in seconds.
pub async fn redis_cpu(redis: &Redis) -> f64 {
    let info = redis.info("cpu").await;
    let used = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name)).expect("INFO has it");
        line.trim().parse::<f64>().expect("a number of seconds")
    };
    used("used_cpu_sys:") + used("used_cpu_user:")
}

fn row(case: &Case, measured: &[Vec<Round>; 3]) -> Vec<String> {
    let ratios = |of: usize, to: usize, value: fn(&Round) -> f64| -> Vec<f64> {
        measured[of].iter().zip(&measured[to]).map(|(of, to)| value(of) / value(to)).collect()
    };
    let to_floor = |value: fn(&Round) -> f64| {
        median(&[ratios(JOBTRACK, CONTROL, value), ratios(JOBTRACK, OTHER_CONTROL, value)].concat())
    };
    let spread = |value: fn(&Round) -> f64| {
        let Spread { low, high } = Spread::of(&ratios(OTHER_CONTROL, CONTROL, value));
        format!("{low:.2}–{high:.2}")
    };
    let own = |value: fn(&Round) -> f64| median(&measured[JOBTRACK].iter().map(value).collect::<Vec<_>>());
    let with_redis = |text: String| if case.redis { text } else { String::new() };
    vec![
        case.name.to_owned(),
        format!("{:.2}", to_floor(|round| round.rate)),
        spread(|round| round.rate),
        format!("{:.2}", to_floor(|round| round.cpu)),
        spread(|round| round.cpu),
        with_redis(format!("{:.2}", to_floor(|round| round.redis_cpu))),
        with_redis(format!("{:.1}", own(|round| round.redis_cpu))),
        with_redis(format!("{:.2}", own(|round| round.scripts))),
        format!("{:.2}", to_floor(|round| round.p50)),
    ]
}
