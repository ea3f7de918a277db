//! The load generator.

pub mod api;
pub mod board;
pub mod grpc;
mod http;
pub mod unary;
pub mod watch;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use clap::ValueEnum;

use self::{
    board::Reports,
    unary::{Plan, Target, Until},
    watch::{Audience, Subscribers},
};
use crate::workload::{Jobs, Operation};

/// Options of a load that is started by hand.
#[derive(clap::Args)]
pub struct Arguments {
    /// Address of the server, as IP:PORT
    address: SocketAddr,
    what: What,
    /// Number of connections
    #[arg(long, default_value_t = 4)]
    connections: usize,
    /// Number of concurrent calls
    #[arg(long, default_value_t = 64)]
    callers: u32,
    /// Number of subscribers of the job
    #[arg(long, default_value_t = 1000)]
    subscribers: usize,
    /// Calls or reports per second; without it, each call follows the last response
    #[arg(long)]
    rate: Option<f64>,
    /// Duration in seconds; a watch makes 50 reports for each second
    #[arg(long, default_value_t = 5.0)]
    seconds: f64,
    /// Number of jobs that are read and updated
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

/// Calls a server and prints the results.
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
    // The counter has risen once for each prepared job.
    let room = count + jobs.count as usize + 1;
    let audience = Audience::gather(address, jobs, Subscribers::grpc(subscribers, connections), room).await;
    let delivery = audience.report(Reports { count, rate }).await;
    println!(
        "{} events, {:.0} a second; p50 {:.1} ms, p99 {:.1} ms",
        delivery.events,
        delivery.rate(),
        delivery.latency(0.5),
        delivery.latency(0.99)
    );
}
