//! Cost of observability: instructions per call with metrics and traces, in comparison with a server without.

use std::{process::Command, sync::Arc};

use crate::{
    instructions::callgrind::Counted,
    load::unary::{self, Plan, Target, Until},
    otlp::Receiver,
    process::Kind,
    report::{Report, Table, grouped},
    stats::{median, real},
    workload::{Jobs, Operation},
};

const JOBS: u32 = 1000;
const CALLERS: u32 = 16;

/// Number of calls before the first that is counted.
const WARM_UP: u64 = 1000;

/// Limit of the cost of metrics, as a ratio to the server without.
const LIMIT: f64 = 1.05;

/// Options of the telemetry benchmark.
#[derive(clap::Args, Default)]
pub struct Arguments {
    /// Fail if metrics exceed their limit
    #[arg(long)]
    check: bool,
}

/// Measures, and writes the section.
pub async fn run(arguments: &Arguments, report: &Report) {
    let (calls, repetitions) = if report.quick { (480, 2) } else { (2000, 5) };
    let receiver = Receiver::start().await;
    let endpoint = format!("http://{}", receiver.address);
    let neither = count(calls, repetitions, |command| _ = command.env("JOBTRACK_HTTP_LISTEN", "off")).await;
    let metrics = count(calls, repetitions, |_| {}).await;
    let both = count(calls, repetitions, |command| _ = command.env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)).await;
    assert!(!receiver.spans().is_empty(), "the traces arrived");

    let mut table = Table::new(&["call", "neither", "metrics", "ratio", "metrics and traces", "ratio"]);
    let mut most = 0_f64;
    for (at, operation) in Operation::ALL.into_iter().enumerate() {
        most = most.max(metrics[at] / neither[at]);
        table.row(vec![
            operation.name().to_owned(),
            grouped(neither[at]),
            grouped(metrics[at]),
            format!("{:.3}", metrics[at] / neither[at]),
            grouped(both[at]),
            format!("{:.2}", both[at] / neither[at]),
        ]);
    }
    let text = format!(
        "## Metrics and traces\n\nInstructions per call of a server in memory mode with {JOBS} jobs, counted by callgrind as \
         above: without metrics (`--http-listen off`), with metrics, and with metrics and a trace of each call, sent to an \
         OTLP receiver. The median of {repetitions} runs of {calls} calls, {CALLERS} at a time.\n\n{}",
        table.render()
    );
    report.write("telemetry", &text);
    if arguments.check && most > LIMIT {
        println!("a call with metrics costs {most:.3} of one without, at most {LIMIT}: TOO MUCH");
        std::process::exit(1);
    }
}

/// Returns the instructions of each operation, in a server whose command is changed by `change`.
async fn count(calls: u64, repetitions: usize, change: impl FnOnce(&mut Command)) -> Vec<f64> {
    let mut server = Counted::start_with(Kind::Jobtrack, None, change);
    let target = Arc::new(Target::grpc(server.address(), 1).await);
    let jobs = Arc::new(Jobs::new(JOBS));
    target.prepare(&jobs).await;
    let mut counts = Vec::new();
    for operation in Operation::ALL {
        let call = |calls| {
            let plan = Plan { operation, callers: CALLERS, until: Until::Calls(calls), rate: None };
            unary::run(target.clone(), jobs.clone(), plan)
        };
        call(WARM_UP).await;
        let mut counted = Vec::new();
        for _ in 0..repetitions {
            server.zero();
            let outcome = call(calls).await;
            counted.push(server.dump() / real(outcome.calls));
        }
        eprintln!("{}: {counted:?}", operation.name());
        counts.push(median(&counted));
    }
    counts
}
