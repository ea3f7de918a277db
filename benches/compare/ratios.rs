//! Calls per second and CPU per call in direct comparison. Rounds are short and their order changes; two equal servers
//! among them show how much of a difference is noise.

use std::{sync::Arc, time::Duration};

use crate::{
    load::unary::{self, Outcome, Plan, Target, Until},
    process::{Kind, Server},
    report::{Report, Table, grouped},
    seeds,
    servers::Redis,
    stats::{Spread, median, real, shuffled},
    workload::{Jobs, Operation},
};

const CONNECTIONS: usize = 4;
const CALLERS: u32 = 64;
const JOBS: u32 = 1024;

/// The length of a run.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    time: Duration,
}

impl Size {
    fn of(quick: bool) -> Self {
        if quick {
            Self { rounds: 5, time: Duration::from_millis(150) }
        } else {
            Self { rounds: 31, time: Duration::from_millis(300) }
        }
    }
}

/// The measured servers. The first two are the controls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    Control,
    OtherControl,
    Jobtrack,
    Stock,
    Seeds,
}

/// A running server with its jobs.
struct Contender {
    name: Name,
    server: Server,
    target: Arc<Target>,
    jobs: Arc<Jobs>,
}

/// The results of one server in one round.
struct Round {
    rate: f64,
    /// CPU time of the server in microseconds per call.
    cpu: f64,
    p50: f64,
    p99: f64,
}

/// Measures in memory and with Redis, and writes the section.
pub async fn run(report: &Report) {
    let size = Size::of(report.quick);
    let memory = gather(None, &[Name::Control, Name::OtherControl, Name::Jobtrack]).await;
    let in_memory = compare(&memory, size).await;
    drop(memory);
    let redis = Redis::start().await;
    let all = [Name::Control, Name::OtherControl, Name::Jobtrack, Name::Stock, Name::Seeds];
    let with_redis = compare(&gather(Some(&redis.url()), &all).await, size).await;
    report.write("ratios", &render(&in_memory, &with_redis, size));
}

async fn gather(redis: Option<&str>, names: &[Name]) -> Vec<Contender> {
    let mut contenders = Vec::new();
    for &name in names {
        contenders.push(Contender::start(name, redis).await);
    }
    contenders
}

impl Contender {
    async fn start(name: Name, redis: Option<&str>) -> Self {
        let server = match name {
            Name::Control | Name::OtherControl => Kind::Floor.start(redis),
            Name::Jobtrack => Kind::Jobtrack.start(redis),
            Name::Stock => Kind::Stock.start(redis),
            Name::Seeds => seeds::start(redis.expect("the home-made server needs Redis")),
        };
        let target = match name {
            Name::Seeds => Target::json(server.address),
            _ => Target::grpc(server.address, CONNECTIONS).await,
        };
        let jobs = Arc::new(Jobs::new(JOBS));
        target.prepare(&jobs).await;
        let contender = Self { name, server, target: Arc::new(target), jobs };
        for operation in [Operation::Get, Operation::Update, Operation::Get] {
            contender.call(operation, Duration::from_millis(300)).await;
        }
        contender
    }

    async fn call(&self, operation: Operation, time: Duration) -> Outcome {
        let plan = Plan { operation, callers: CALLERS, until: Until::Time(time), rate: None };
        unary::run(self.target.clone(), self.jobs.clone(), plan).await
    }

    async fn round(&self, operation: Operation, time: Duration) -> Round {
        let before = self.server.cpu_time();
        let outcome = self.call(operation, time).await;
        let used = self.server.cpu_time().saturating_sub(before);
        Round {
            rate: outcome.rate(),
            cpu: used.as_secs_f64() * 1e6 / real(outcome.calls),
            p50: outcome.latency(0.5),
            p99: outcome.latency(0.99),
        }
    }
}

/// The results of all servers for one operation: the rounds of each, in the same order.
struct Comparison {
    operation: Operation,
    rounds: Vec<(Name, Vec<Round>)>,
}

async fn compare(contenders: &[Contender], size: Size) -> Vec<Comparison> {
    let mut comparisons = Vec::new();
    for operation in Operation::ALL {
        let mut rounds: Vec<(Name, Vec<Round>)> = contenders.iter().map(|it| (it.name, Vec::new())).collect();
        for _ in 0..size.rounds {
            for at in shuffled(contenders.len()) {
                rounds[at].1.push(contenders[at].round(operation, size.time).await);
            }
        }
        comparisons.push(Comparison { operation, rounds });
    }
    comparisons
}

impl Comparison {
    fn rounds(&self, name: Name) -> &[Round] {
        self.rounds.iter().find(|(other, _)| *other == name).map_or(&[], |(_, rounds)| rounds)
    }

    /// Returns the ratio of one server to another in each round.
    fn ratios(&self, of: Name, to: Name, value: fn(&Round) -> f64) -> Vec<f64> {
        self.rounds(of).iter().zip(self.rounds(to)).map(|(of, to)| value(of) / value(to)).collect()
    }

    /// Returns the ratios of one server to both controls.
    fn to_controls(&self, of: Name, value: fn(&Round) -> f64) -> Vec<f64> {
        let mut ratios = self.ratios(of, Name::Control, value);
        ratios.extend(self.ratios(of, Name::OtherControl, value));
        ratios
    }

    /// Returns the median ratio of one server to the floor, marked if it is within the spread of the controls.
    fn to_floor(&self, of: Name, value: fn(&Round) -> f64) -> String {
        let ratio = median(&self.to_controls(of, value));
        let mark = if self.spread(value).holds(ratio) { " ≈" } else { "" };
        format!("{ratio:.2}{mark}")
    }

    fn spread(&self, value: fn(&Round) -> f64) -> Spread {
        Spread::of(&self.ratios(Name::OtherControl, Name::Control, value))
    }

    fn median(&self, of: Name, value: fn(&Round) -> f64) -> f64 {
        median(&self.rounds(of).iter().map(value).collect::<Vec<_>>())
    }
}

fn rate(round: &Round) -> f64 {
    round.rate
}

fn cpu(round: &Round) -> f64 {
    round.cpu
}

fn render(in_memory: &[Comparison], with_redis: &[Comparison], size: Size) -> String {
    let heads =
        ["call", "calls/s: floor", "jobtrack", "ratio", "controls", "CPU µs: floor", "jobtrack", "ratio", "controls"];
    let mut to_floor = Table::new(&heads);
    let heads = ["call", "floor p50", "p99", "jobtrack p50", "p99"];
    let mut latencies = Table::new(&heads);
    for (place, comparisons) in [("memory", in_memory), ("Redis", with_redis)] {
        for comparison in comparisons {
            let name = format!("{}, {place}", comparison.operation.name());
            to_floor.row(floor_row(name.clone(), comparison));
            latencies.row(latency_row(name, comparison));
        }
    }
    let heads = ["call, Redis", "jobtrack/s", "stock pool/s", "ratio", "home-made/s", "ratio"];
    let mut to_others = Table::new(&heads);
    for comparison in with_redis {
        to_others.row(others_row(comparison));
    }
    format!(
        "## Calls side by side\n\n{CALLERS} callers on {CONNECTIONS} connections, on the same machine as all servers. \
         Medians of {} rounds of {} ms in changing order; a ratio compares two servers in the same round. \"Controls\" is \
         the middle 80 % of the ratios of two equal floors: a ratio in this range is marked ≈ and shows no difference. \
         With Redis, jobtrack answers these reads from memory, while the floor asks Redis.\n\n{}\n\
         Latencies under this load, in microseconds:\n\n{}\n\
         \"Stock pool\" is a floor with bb8-redis in its default settings: a connection serves one call at a time, after a \
         PING. \"Home-made\" is a small Python server, as people write it without jobtrack: FastAPI and redis-py in \
         one process, with get, modify and setex.\n\n{}",
        size.rounds,
        size.time.as_millis(),
        to_floor.render(),
        latencies.render(),
        to_others.render()
    )
}

fn floor_row(name: String, comparison: &Comparison) -> Vec<String> {
    let mut cells = vec![name];
    for value in [rate, cpu] {
        let number = |name| {
            let median = comparison.median(name, value);
            if median > 1000.0 { grouped(median) } else { format!("{median:.1}") }
        };
        let spread = comparison.spread(value);
        cells.push(number(Name::Control));
        cells.push(number(Name::Jobtrack));
        cells.push(comparison.to_floor(Name::Jobtrack, value));
        cells.push(format!("{:.2}–{:.2}", spread.low, spread.high));
    }
    cells
}

fn latency_row(name: String, comparison: &Comparison) -> Vec<String> {
    let mut cells = vec![name];
    for name in [Name::Control, Name::Jobtrack] {
        cells.push(grouped(comparison.median(name, |round| round.p50)));
        cells.push(grouped(comparison.median(name, |round| round.p99)));
    }
    cells
}

fn others_row(comparison: &Comparison) -> Vec<String> {
    let mut cells = vec![comparison.operation.name().to_owned(), grouped(comparison.median(Name::Jobtrack, rate))];
    for other in [Name::Stock, Name::Seeds] {
        cells.push(grouped(comparison.median(other, rate)));
        cells.push(format!("{:.2}", median(&comparison.ratios(Name::Jobtrack, other, rate))));
    }
    cells
}
