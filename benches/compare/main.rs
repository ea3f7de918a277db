//! Costs of jobtrack in comparison with a server that only answers the measured calls, and their growth: `cargo bench
//! --bench compare`.
//!
//! The measure is the *floor*: a bare tonic server that answers the same messages from a sharded map, optionally with
//! one scripted Redis write for each change. Absolute figures say little on a shared machine, so every figure is a
//! ratio to the floor in the same run, next to the ratio of two floors to each other, the *controls*; or a count of
//! instructions, which is reproducible.
//!
//! | `cargo bench --bench compare --` | |
//! |---|---|
//! | `ratios` | calls per second and CPU per call: floor, jobtrack, a stock pool, a home-made server (`FastAPI`, redis-py) |
//! | `writes` | writes with Redis, and single callers: rates, CPU of the server and of Redis, scripts |
//! | `instructions` | instructions per call under callgrind; `--profile OPERATION` prints where they go |
//! | `telemetry` | instructions per call with metrics and traces, as ratios to a server without |
//! | `api` | instructions and CPU of JSON and of server-sent events, as ratios to gRPC on the same server |
//! | `watch` | one job with many subscribers: CPU per event and time to delivery |
//! | `memory` | bytes per idle watch and per job |
//! | `openings` | CPU and bytes per watch, in memory and with Redis; CPU while nothing happens; bytes per connection |
//! | `purge` | time per purged job, and bytes per job before and after |
//! | `growth` | growth of costs with watched jobs, subscribers, jobs, and jobs to reconcile |
//! | (nothing) | all of these |
//!
//! Each prints tables and writes them to its section of `docs/benchmarks.md`, with plots next to it. `--quick` makes a
//! short run and writes below `target/tmp/benchmarks/` instead. Requires `redis-server`; `instructions`, `telemetry`
//! and `api` require valgrind, and the home-made server Python 3.
//!
//! | parts that can be started by hand | |
//! |---|---|
//! | `floor [--redis URL [--stock]]` | serves the floor, on a free port that it prints |
//! | `load ADDRESS get\|update\|create` | calls of 64 callers on 4 connections, unless flags change that |
//! | `load ADDRESS watch` | events of 1,000 subscribers of one job |

mod api;
mod cpu;
mod floor;
mod growth;
mod instructions;
mod load;
mod memory;
mod openings;
mod process;
mod purge;
mod ratios;
mod report;
mod seeds;
mod stats;
mod svg;
mod telemetry;
mod watch;
mod workload;
mod writes;

#[path = "../../tests/it/support/faketime.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod faketime;

#[path = "../../tests/it/support/programs.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod programs;

#[path = "../../tests/it/support/redis/mod.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod servers;

#[path = "../../tests/it/support/otlp.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod otlp;

use clap::{Parser, Subcommand};
use report::Report;
use tokio::runtime::Runtime;

/// The allocator of jobtrack, so that the floor has the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures jobtrack in comparison with a bare server.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Make a short, less exact run, and write below target/
    #[arg(long, global = true)]
    quick: bool,
    /// Passed by cargo to every benchmark
    #[arg(long, global = true, hide = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Command {
    /// Calls per second and CPU per call, as ratios to the floor
    Ratios,
    /// Rates, CPU and scripts of writes with Redis, and of single callers, as ratios to the floor
    Writes,
    /// Instructions per call, as ratios to the floor
    Instructions(instructions::Arguments),
    /// Instructions per call with metrics and traces, as ratios to a server without
    Telemetry(telemetry::Arguments),
    /// Instructions and CPU of JSON and events, as ratios to gRPC
    Api(api::Arguments),
    /// CPU per event and delivery latency, as ratios to the floor
    Watch,
    /// Bytes per idle watch and per job
    Memory,
    /// CPU and bytes of many watches in memory and with Redis, and bytes per connection
    Openings,
    /// Time per purged job, and bytes per job before and after
    Purge,
    /// Growth of costs
    Growth(growth::Arguments),
    /// Serves the floor
    Floor(floor::Arguments),
    /// Calls a server
    Load(load::Arguments),
}

fn main() {
    let Arguments { command, quick, .. } = Arguments::parse();
    Runtime::new().expect("a runtime can be started").block_on(run(command, quick));
}

async fn run(command: Option<Command>, quick: bool) {
    let report = Report::new(quick);
    match command {
        None => {
            instructions::run(&instructions::Arguments::default(), &report).await;
            ratios::run(&report).await;
            writes::run(&report).await;
            telemetry::run(&telemetry::Arguments::default(), &report).await;
            api::run(&api::Arguments::default(), &report).await;
            watch::run(&report).await;
            memory::run(&report).await;
            openings::run(&report).await;
            purge::run(&report).await;
            growth::run(&growth::Arguments::default(), &report).await;
        }
        Some(Command::Ratios) => ratios::run(&report).await,
        Some(Command::Writes) => writes::run(&report).await,
        Some(Command::Instructions(arguments)) => instructions::run(&arguments, &report).await,
        Some(Command::Telemetry(arguments)) => telemetry::run(&arguments, &report).await,
        Some(Command::Api(arguments)) => api::run(&arguments, &report).await,
        Some(Command::Watch) => watch::run(&report).await,
        Some(Command::Memory) => memory::run(&report).await,
        Some(Command::Openings) => openings::run(&report).await,
        Some(Command::Purge) => purge::run(&report).await,
        Some(Command::Growth(arguments)) => growth::run(&arguments, &report).await,
        Some(Command::Floor(arguments)) => floor::serve(arguments).await,
        Some(Command::Load(arguments)) => load::run(&arguments).await,
    }
}
