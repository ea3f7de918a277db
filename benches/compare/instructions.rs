//! Instructions per call in the server, counted by callgrind.

pub mod callgrind;

use std::sync::Arc;

use clap::ValueEnum;

use self::callgrind::Counted;
use crate::{
    load::unary::{self, Outcome, Plan, Target, Until},
    process::{Kind, Server},
    report::{Report, Table, grouped},
    servers::Redis,
    stats::{median, real},
    workload::{Jobs, Operation},
};

/// Number of concurrent calls, over one connection.
const CALLERS: u32 = 16;

/// Number of calls before the first that is counted.
const WARM_UP: u64 = 300;

/// Number of lines of a profile that are printed.
const PROFILE_LINES: usize = 40;

/// Options of the instruction counts.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Fail if a call exceeds its limit, as a ratio to the floor
    #[arg(long)]
    check: bool,
    /// Only print the functions that take the most instructions of this call
    #[arg(long, value_name = "OPERATION")]
    profile: Option<Operation>,
    /// Profile a server with Redis, and jobs of this origin
    #[arg(long, value_name = "ORIGIN", num_args = 0..=1, default_missing_value = "here", requires = "profile")]
    redis: Option<Origin>,
    /// Profile the floor
    #[arg(long, requires = "profile")]
    floor: bool,
}

/// A call that is counted.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Case {
    name: &'static str,
    operation: Operation,
    redis: bool,
    jobs: Origin,
}

/// The origin of the jobs of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Origin {
    /// Created through the measured server.
    Here,
    /// Created through another replica; the measured server has not seen them.
    Elsewhere,
}

const fn case(name: &'static str, operation: Operation, redis: bool, jobs: Origin) -> Case {
    Case { name, operation, redis, jobs }
}

const CASES: [Case; 7] = [
    case("GetJob, memory", Operation::Get, false, Origin::Here),
    case("UpdateProgress, memory", Operation::Update, false, Origin::Here),
    case("CreateJob, memory", Operation::Create, false, Origin::Here),
    case("GetJob, not held: from Redis", Operation::Get, true, Origin::Elsewhere),
    case("GetJob, held, with Redis", Operation::Get, true, Origin::Here),
    case("UpdateProgress, held, with Redis", Operation::Update, true, Origin::Here),
    case("CreateJob, with Redis", Operation::Create, true, Origin::Here),
];

/// Counts, and writes the section; or prints a profile.
pub async fn run(arguments: &Arguments, report: &Report) {
    let redis = Redis::start().await;
    let size = Size::of(report.quick);
    if let Some(operation) = arguments.profile {
        return profile(arguments, operation, &redis, size).await;
    }
    let mut counts = Vec::new();
    for with_redis in [false, true] {
        let url = redis.url();
        let url = with_redis.then_some(url.as_str());
        let mut floor = Subject::start(Kind::Floor, url).await;
        let mut floors = Vec::new();
        for case in CASES.iter().filter(|case| case.redis == with_redis) {
            floors.push(floor.count(*case, size).await);
        }
        drop(floor);
        let mut jobtrack = Subject::start(Kind::Jobtrack, url).await;
        for (case, floor) in CASES.iter().filter(|case| case.redis == with_redis).zip(floors) {
            counts.push((*case, floor, jobtrack.count(*case, size).await));
        }
    }
    report.write("instructions", &render(&counts, size));
    if arguments.check {
        check(&counts);
    }
}

/// Limits of the instructions per call, as ratios to the floor in memory.
const LIMITS: [(&str, f64); 3] =
    [("GetJob, memory", 1.15), ("GetJob, held, with Redis", 1.17), ("UpdateProgress, memory", 1.2)];

/// Fails if a call exceeds its limit.
fn check(counts: &[(Case, Count, Count)]) {
    let mut failed = false;
    for (name, limit) in LIMITS {
        let (case, _, jobtrack) = counts.iter().find(|(case, ..)| case.name == name).expect("it was counted");
        let is_floor = |(other, ..): &&(Case, Count, Count)| other.operation == case.operation && !other.redis;
        let (_, floor, _) = counts.iter().find(is_floor).expect("it was counted");
        let ratio = jobtrack.median() / floor.median();
        let verdict = if ratio <= limit { "good" } else { "TOO MUCH" };
        println!("{name}: {ratio:.3} of the floor, at most {limit}: {verdict}");
        failed |= ratio > limit;
    }
    if failed {
        std::process::exit(1);
    }
}

/// The length of a measurement.
#[derive(Clone, Copy)]
struct Size {
    calls: u64,
    repetitions: usize,
}

impl Size {
    fn of(quick: bool) -> Self {
        if quick { Self { calls: 480, repetitions: 2 } } else { Self { calls: 2000, repetitions: 5 } }
    }
}

/// Instructions per call.
struct Count {
    repetitions: Vec<f64>,
    /// Share of the calls that were reads answered from memory.
    from_memory: f64,
}

impl Count {
    fn median(&self) -> f64 {
        median(&self.repetitions)
    }

    /// Returns the relative difference of repetitions.
    fn spread(&self) -> f64 {
        let largest = self.repetitions.iter().copied().fold(f64::MIN, f64::max);
        let least = self.repetitions.iter().copied().fold(f64::MAX, f64::min);
        (largest - least) / self.median()
    }
}

/// A server under callgrind.
struct Subject {
    kind: Kind,
    server: Counted,
    target: Arc<Target>,
    /// Another replica, which creates the jobs that the measured server has not seen.
    other: Option<(Server, Arc<Target>)>,
}

impl Subject {
    async fn start(kind: Kind, redis: Option<&str>) -> Self {
        let server = Counted::start(kind, redis);
        let target = Arc::new(Target::grpc(server.address(), 1).await);
        let mut other = None;
        if let (Kind::Jobtrack, Some(url)) = (kind, redis) {
            let server = kind.start(Some(url));
            let target = Arc::new(Target::grpc(server.address, 1).await);
            other = Some((server, target));
        }
        Self { kind, server, target, other }
    }

    /// Counts the instructions of a call.
    async fn count(&mut self, case: Case, size: Size) -> Count {
        let mut repetitions = Vec::new();
        let mut from_memory = 0;
        let mut jobs = self.prepare(case, size).await;
        for number in 0..size.repetitions {
            if number > 0 && case.jobs == Origin::Elsewhere {
                jobs = self.prepare(case, size).await;
            }
            self.server.zero();
            let outcome = self.call(&jobs, case.operation, size.calls).await;
            let counted = self.server.dump();
            let idle = if case.redis { self.server.idle(outcome.elapsed).await } else { 0.0 };
            repetitions.push((counted - idle) / real(outcome.calls));
            from_memory += outcome.from_memory;
        }
        let calls = size.calls * size.repetitions as u64;
        let count = Count { repetitions, from_memory: real(from_memory) / real(calls) };
        eprintln!("{:?}, {}: {:?}", self.kind, case.name, count.repetitions);
        count
    }

    /// Creates jobs for a case, and warms up the server.
    async fn prepare(&self, case: Case, size: Size) -> Arc<Jobs> {
        let elsewhere = self.other.as_ref().filter(|_| case.jobs == Origin::Elsewhere);
        // Each of these jobs is read once, and callers are not equally fast.
        let count = if elsewhere.is_some() { u32::try_from(size.calls).expect("it is small") * 2 } else { 256 };
        let jobs = Arc::new(Jobs::new(count));
        let through = elsewhere.map_or(&self.target, |(_, target)| target);
        through.prepare(&jobs).await;
        if elsewhere.is_some() {
            return jobs;
        }
        // Every job is read twice: a cached job is served without asking Redis only after Redis has confirmed it once.
        self.call(&jobs, Operation::Get, 512).await;
        self.call(&jobs, case.operation, WARM_UP).await;
        jobs
    }

    async fn call(&self, jobs: &Arc<Jobs>, operation: Operation, calls: u64) -> Outcome {
        let plan = Plan { operation, callers: CALLERS, until: Until::Calls(calls), rate: None };
        unary::run(self.target.clone(), jobs.clone(), plan).await
    }
}

fn render(counts: &[(Case, Count, Count)], size: Size) -> String {
    let heads = ["call", "floor", "spread", "jobtrack", "spread", "ratio", "ratio to the floor in memory", "held"];
    let mut table = Table::new(&heads);
    for (case, floor, jobtrack) in counts {
        let in_memory = |(other, _, _): &&(Case, Count, Count)| other.operation == case.operation && !other.redis;
        let in_memory = counts.iter().find(in_memory).map_or(f64::NAN, |(_, floor, _)| floor.median());
        let held = if case.operation == Operation::Get {
            format!("{:.0} %", jobtrack.from_memory * 100.0)
        } else {
            String::new()
        };
        table.row(vec![
            case.name.to_owned(),
            grouped(floor.median()),
            format!("{:.2} %", floor.spread() * 100.0),
            grouped(jobtrack.median()),
            format!("{:.2} %", jobtrack.spread() * 100.0),
            format!("{:.2}", jobtrack.median() / floor.median()),
            format!("{:.2}", jobtrack.median() / in_memory),
            held,
        ]);
    }
    format!(
        "## Instructions per call\n\nInstructions in the server, counted by callgrind in user mode: the median of {} runs of \
         {} calls, {CALLERS} at a time over one connection. \"Spread\" is the difference between the runs. With Redis, the \
         instructions of an idle server in the same time are subtracted. \"Held\" is the share of reads that jobtrack \
         answered from memory; the floor with Redis always asks Redis.\n\n{}",
        size.repetitions,
        size.calls,
        table.render()
    )
}

/// Prints the functions that take the instructions of a call.
async fn profile(arguments: &Arguments, operation: Operation, redis: &Redis, size: Size) {
    let kind = if arguments.floor { Kind::Floor } else { Kind::Jobtrack };
    let url = redis.url();
    let mut subject = Subject::start(kind, arguments.redis.map(|_| &*url)).await;
    let origin = arguments.redis.unwrap_or(Origin::Here);
    let case = case("profile", operation, arguments.redis.is_some(), origin);
    let jobs = subject.prepare(case, size).await;
    subject.server.zero();
    let calls = subject.call(&jobs, operation, size.calls).await.calls;
    subject.server.dump();
    println!("{calls} calls; {} holds them all", subject.server.keep().display());
    for inclusive in [false, true] {
        println!("{}", subject.server.annotate(inclusive, PROFILE_LINES));
    }
}
