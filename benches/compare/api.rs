//! The HTTP API in comparison with gRPC, on the same server: instructions and CPU per call, and per event of many
//! subscribers.

use std::sync::Arc;

use http::Version;

use crate::{
    instructions::callgrind::Counted,
    load::{
        api::ApiClient,
        board::Reports,
        unary::{self, Plan, Target, Until},
        watch::{Audience, Subscribers},
    },
    process::{Kind, Server},
    report::{Report, Table, grouped},
    stats::{median, real},
    workload::{Jobs, Operation},
};

const CALLERS: u32 = 16;
const SUBSCRIBERS: usize = 1000;

/// Options of the comparison.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Fail if a call or an event exceeds its limit, as a ratio to gRPC
    #[arg(long)]
    check: bool,
    /// Only print the functions that take the most instructions of this case, by its number in the table
    #[arg(long, value_name = "NUMBER")]
    profile: Option<usize>,
}

/// The work that is measured.
#[derive(Clone, Copy)]
enum Work {
    Calls(Operation, Face),
    Events(Subscribers),
}

/// The form of calls.
#[derive(Clone, Copy)]
enum Face {
    Grpc,
    Json(Version),
}

/// Two kinds of the same work: over gRPC, and over the HTTP API.
struct Case {
    name: &'static str,
    grpc: Work,
    api: Work,
    /// Maximum ratio of instructions.
    limit: f64,
}

const fn calls(name: &'static str, operation: Operation, version: Version) -> Case {
    Case {
        name,
        grpc: Work::Calls(operation, Face::Grpc),
        api: Work::Calls(operation, Face::Json(version)),
        limit: 1.5,
    }
}

const fn events(name: &'static str, connections: usize, version: Version) -> Case {
    let grpc = Work::Events(Subscribers::grpc(SUBSCRIBERS, connections));
    let api = Work::Events(Subscribers { count: SUBSCRIBERS, connections, events: Some(version) });
    Case { name, grpc, api, limit: 1.2 }
}

const CASES: [Case; 6] = [
    calls("GetJob, HTTP/2", Operation::Get, Version::HTTP_2),
    calls("GetJob, HTTP/1.1", Operation::Get, Version::HTTP_11),
    calls("UpdateProgress, HTTP/2", Operation::Update, Version::HTTP_2),
    calls("UpdateProgress, HTTP/1.1", Operation::Update, Version::HTTP_11),
    events("event, 10 connections of HTTP/2", 10, Version::HTTP_2),
    events("event, a connection of HTTP/1.1 each", SUBSCRIBERS, Version::HTTP_11),
];

/// The length of a measurement.
#[derive(Clone, Copy)]
struct Size {
    calls: u64,
    reports: usize,
    repetitions: usize,
}

impl Size {
    fn of(quick: bool) -> Self {
        if quick {
            Self { calls: 480, reports: 5, repetitions: 2 }
        } else {
            Self { calls: 2000, reports: 20, repetitions: 5 }
        }
    }
}

/// The costs of one call or event: instructions, and microseconds of CPU.
struct Cost {
    instructions: f64,
    cpu: f64,
}

/// Measures, and writes the section; or prints a profile.
pub async fn run(arguments: &Arguments, report: &Report) {
    let size = Size::of(report.quick);
    if let Some(number) = arguments.profile {
        return profile(&CASES[number], size).await;
    }
    let heads = ["call", "gRPC", "HTTP API", "ratio", "CPU µs: gRPC", "HTTP API", "ratio"];
    let mut table = Table::new(&heads);
    let mut failed = false;
    for case in &CASES {
        let (grpc, api) = (cost(case.grpc, size).await, cost(case.api, size).await);
        let ratio = api.instructions / grpc.instructions;
        let verdict = if ratio <= case.limit { "good" } else { "TOO MUCH" };
        eprintln!("{}: {ratio:.3} of gRPC, at most {}: {verdict}", case.name, case.limit);
        failed |= ratio > case.limit;
        let ratio = format!("{ratio:.2}");
        let (grpc_cpu, api_cpu) = (format!("{:.1}", grpc.cpu), format!("{:.1}", api.cpu));
        let (grpc_count, api_count) = (grouped(grpc.instructions), grouped(api.instructions));
        let cpu_ratio = format!("{:.2}", api.cpu / grpc.cpu);
        table.row(vec![case.name.to_owned(), grpc_count, api_count, ratio, grpc_cpu, api_cpu, cpu_ratio]);
    }
    report.write("api", &render(&table, size));
    if arguments.check && failed {
        std::process::exit(1);
    }
}

fn render(table: &Table, size: Size) -> String {
    format!(
        "## JSON and events compared with gRPC\n\nInstructions in the server, counted by callgrind in user mode, and its \
         CPU time, per call and per event. Calls: the median of {} runs of {} calls, {CALLERS} at a time, over one \
         connection or over as many of HTTP/1.1. Events: the median of {} runs of {} reports on one job with \
         {SUBSCRIBERS} subscribers, each of which has an event before the next report; those of gRPC have as many \
         connections as those of the HTTP API.\n\n{}",
        size.repetitions,
        size.calls,
        size.repetitions,
        size.reports,
        table.render()
    )
}

/// Work that is ready to be done.
enum Ready {
    Calls(Arc<Target>, Arc<Jobs>, Operation),
    Events(Box<Audience>),
}

impl Ready {
    /// Prepares work of a server at this address.
    async fn new(address: std::net::SocketAddr, work: Work, size: Size) -> Self {
        let grpc = Target::grpc(address, 1).await;
        match work {
            Work::Calls(operation, face) => {
                let jobs = Arc::new(Jobs::new(256));
                grpc.prepare(&jobs).await;
                let target = match face {
                    Face::Grpc => grpc,
                    Face::Json(version) => Target::Api(Box::new(ApiClient::new(address, version))),
                };
                let ready = Self::Calls(Arc::new(target), jobs, operation);
                ready.run(size).await;
                ready
            }
            Work::Events(subscribers) => {
                let jobs = Arc::new(Jobs::new(1));
                grpc.prepare(&jobs).await;
                let room = 8 + (size.repetitions + 1) * size.reports;
                let ready = Self::Events(Box::new(Audience::gather(address, jobs, subscribers, room).await));
                ready.run(size).await;
                ready
            }
        }
    }

    /// Does the work. Returns the number of calls or events.
    async fn run(&self, size: Size) -> u64 {
        match self {
            Self::Calls(target, jobs, operation) => {
                let until = Until::Calls(size.calls);
                let plan = Plan { operation: *operation, callers: CALLERS, until, rate: None };
                unary::run(target.clone(), jobs.clone(), plan).await.calls
            }
            Self::Events(audience) => {
                let mut events = 0;
                for _ in 0..size.reports {
                    events += audience.report(Reports { count: 1, rate: None }).await.events;
                }
                events
            }
        }
    }
}

async fn cost(work: Work, size: Size) -> Cost {
    let mut counted = Counted::start(Kind::Jobtrack, None);
    let ready = Ready::new(counted.address(), work, size).await;
    let mut instructions = Vec::new();
    for _ in 0..size.repetitions {
        counted.zero();
        let done = ready.run(size).await;
        instructions.push(counted.dump() / real(done));
    }
    drop((ready, counted));
    let server: Server = Kind::Jobtrack.start(None);
    let ready = Ready::new(server.address, work, size).await;
    let mut cpu = Vec::new();
    for _ in 0..size.repetitions {
        let before = server.cpu_time();
        let done = ready.run(size).await;
        cpu.push(server.cpu_time().saturating_sub(before).as_secs_f64() * 1e6 / real(done));
    }
    Cost { instructions: median(&instructions), cpu: median(&cpu) }
}

/// Prints the functions that take the instructions of a case, over gRPC and over the HTTP API.
async fn profile(case: &Case, size: Size) {
    for (name, work) in [("gRPC", case.grpc), ("HTTP API", case.api)] {
        let mut counted = Counted::start(Kind::Jobtrack, None);
        let ready = Ready::new(counted.address(), work, size).await;
        counted.zero();
        let done = ready.run(size).await;
        let each = counted.dump() / real(done);
        println!(
            "{}, {name}: {} each of {done}; {} holds them all",
            case.name,
            grouped(each),
            counted.keep().display()
        );
        for inclusive in [false, true] {
            println!("{}", counted.annotate(inclusive, 60));
        }
    }
}
