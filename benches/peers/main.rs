//! Costs of jobtrack in comparison with servers that others use in its place: `cargo bench --bench peers`.
//!
//! The peers are etcd, NATS KV, a server with grpc-go, Redis used directly, and the floor of `cargo bench --bench
//! compare`, a bare tonic server. All that speak gRPC get the same calls from the same client. None of them has rules for
//! the states of a job, and each does less than jobtrack in other ways, which the texts of the sections name.
//!
//! | `cargo bench --bench peers --` | |
//! |---|---|
//! | `calls` | get, update and create at 1, 64 and 512 callers: rate, CPU, latency |
//! | `fan-out` | one job with 1 to 10,000 subscribers: CPU per event, rate, time to delivery; `--subscribers N` for one |
//! | `dashboards` | 100 watchers of all of 100 jobs |
//! | `memory` | resident bytes per job and per idle watch |
//! | `start` | time from the start of a process to its first answer |
//! | (nothing) | all of these |
//!
//! Each prints tables and writes them to its section of `docs/benchmarks.md`. `--quick` makes a short run and writes
//! below `target/tmp/benchmarks/` instead. Requires `redis-server`.
//!
//! etcd and nats-server are those that `JOBTRACK_BENCH_ETCD` and `JOBTRACK_BENCH_NATS` name, or those in `PATH`; else
//! they are taken from Debian's packages, which are unpacked below `target/peers/`. So are the compiler and the libraries
//! for the server with grpc-go, unless `JOBTRACK_BENCH_GRPC_GO` names a built one. What can't be had is named as not
//! measured, with the reason.

mod calls;
mod contender;
mod dashboards;
mod debian;
mod delivery;
mod direct;
mod etcd;
mod fan_out;
mod grpc_go;
mod launch;
mod memory;
mod nats;
mod records;
mod start;
mod tables;
mod watchers;

#[path = "../compare/cpu.rs"]
mod cpu;

#[path = "../compare/floor/mod.rs"]
mod floor;

#[path = "../compare/load/mod.rs"]
#[allow(dead_code, reason = "the other benchmark uses what this does not")]
mod load;

#[path = "../compare/process.rs"]
#[allow(dead_code, reason = "the other benchmark uses what this does not")]
mod process;

#[path = "../compare/report.rs"]
#[allow(dead_code, reason = "the other benchmark uses what this does not")]
mod report;

#[path = "../compare/stats.rs"]
mod stats;

#[path = "../compare/svg.rs"]
#[allow(dead_code, reason = "the other benchmark uses what this does not")]
mod svg;

#[path = "../compare/workload.rs"]
#[allow(dead_code, reason = "the other benchmark uses what this does not")]
mod workload;

#[path = "../../tests/it/support/faketime.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod faketime;

#[path = "../../tests/it/support/programs.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod programs;

#[path = "../../tests/it/support/redis/mod.rs"]
#[allow(dead_code, reason = "the tests use what this does not")]
mod servers;

use clap::{Parser, Subcommand};
use report::Report;
use tokio::runtime::Runtime;

/// The allocator of jobtrack, so that the floor has the same.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures jobtrack in comparison with its peers.
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
    /// Calls per second, CPU per call and latency
    Calls,
    /// CPU per event and delivery latency of one job's subscribers
    FanOut(fan_out::Arguments),
    /// CPU per event of watches of all jobs
    Dashboards,
    /// Bytes per job and per idle watch
    Memory,
    /// Time to the first answer
    Start,
    /// Serves the floor
    Floor(floor::Arguments),
}

fn main() {
    let Arguments { command, quick, .. } = Arguments::parse();
    Runtime::new().expect("a runtime can be started").block_on(run(command, quick));
}

async fn run(command: Option<Command>, quick: bool) {
    let report = Report::new(quick);
    match command {
        None => {
            calls::run(&report).await;
            fan_out::run(&fan_out::Arguments::default(), &report).await;
            dashboards::run(&report).await;
            memory::run(&report).await;
            start::run(&report).await;
        }
        Some(Command::Calls) => calls::run(&report).await,
        Some(Command::FanOut(arguments)) => fan_out::run(&arguments, &report).await,
        Some(Command::Dashboards) => dashboards::run(&report).await,
        Some(Command::Memory) => memory::run(&report).await,
        Some(Command::Start) => start::run(&report).await,
        Some(Command::Floor(arguments)) => floor::serve(arguments).await,
    }
}
