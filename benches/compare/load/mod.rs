//! The load generator.

pub mod grpc;
mod http;
pub mod unary;
pub mod watch;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::ValueEnum;

use self::{
    unary::{Plan, Target, Until},
    watch::{Audience, Reports},
};
use crate::workload::{Jobs, Operation};

/// A load, by hand.
#[derive(clap::Args)]
pub struct Arguments {
    /// Where the server is, as IP:PORT
    address: SocketAddr,
    what: What,
    /// How many connections are open
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// How many calls are under way at a time
    #[arg(long, default_value_t = 64)]
    callers: u32,
    /// How many watch the job
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Calls or reports a second; without it the next follows the answer
    #[arg(long)]
    rate: Option<f64>,
    /// How long to call, in seconds; reports are 50 for each second
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// How many jobs are read and updated
    #[arg(long, default_value_t = 1024)]
    jobs: u32,
    /// The server speaks JSON over HTTP/1.1
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum What {
    Get,
    Update,
    Create,
    Watch,
}

/// Calls a server and prints how it was.
pub async fn run(arguments: &Arguments) {
    let jobs = Arc::new(Jobs::new(arguments.jobs));
    let target = if arguments.json {
        Target::json(arguments.address)
    } else {
        Target::grpc(arguments.address, arguments.connections).await
    };
    target.prepare(&jobs).await;
    let operation = match arguments.what {
        What::Get => Operation::Get,
        What::Update => Operation::Update,
        What::Create => Operation::Create,
        What::Watch => return watch(arguments, jobs).await,
    };
    let until = Until::Time(Duration::from_secs_f64(arguments.seconds));
    let plan = Plan { operation, callers: arguments.callers, until, rate: arguments.rate };
    let outcome = unary::run(Arc::new(target), jobs, plan).await;
    println!(
        "{} calls, {:.0} a second; p50 {:.0} µs, p99 {:.0} µs, p99.9 {:.0} µs; from memory {}",
        outcome.calls,
        outcome.rate(),
        outcome.latency(0.5),
        outcome.latency(0.99),
        outcome.latency(0.999),
        outcome.from_memory
    );
}

async fn watch(arguments: &Arguments, jobs: Arc<Jobs>) {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small and positive")]
    let count = (arguments.seconds * 50.0) as usize;
    let Arguments { address, subscribers, connections, rate, .. } = *arguments;
    // It has risen once for each job that was prepared.
    let room = count + jobs.count as usize + 1;
    let audience = Audience::gather(address, jobs, subscribers, connections, room).await;
    let delivery = audience.report(Reports { count, rate }).await;
    println!(
        "{} events, {:.0} a second; p50 {:.1} ms, p99 {:.1} ms",
        delivery.events,
        delivery.rate(),
        delivery.latency(0.5),
        delivery.latency(0.99)
    );
}
