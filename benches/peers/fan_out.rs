//! One job with many subscribers.

use std::fmt::Write;

use crate::{
    contender::{Gathered, Name},
    delivery::{Audiences, COLUMNS, Size},
    report::{Report, grouped},
    stats::real,
    tables::{missing, versions},
    watchers::{REDIS_SUBSCRIBERS_MAX, Subject},
};

const SUBSCRIBERS: [usize; 4] = [1, 100, 1000, 10_000];

/// Maximum number of subscribers in a short run.
const QUICK_SUBSCRIBERS_MAX: usize = 1000;

/// Events per second of all subscribers at the steady pace, and the minimum and maximum number of reports per second.
const EVENT_RATE: f64 = 10_000.0;
const PACE_MIN: f64 = 1.0;
const PACE_MAX: f64 = 100.0;

/// Maximum number of events in a round as fast as reports are answered, and the minimum and maximum number of reports.
const FULL_EVENTS: usize = 30_000;
const FULL_REPORTS_MIN: usize = 5;
const FULL_REPORTS_MAX: usize = 500;

const NAMES: [Name; 8] = [
    Name::Jobtrack,
    Name::Floor,
    Name::FloorAgain,
    Name::Etcd,
    Name::Nats,
    Name::NatsCore,
    Name::JobtrackRedis,
    Name::Redis,
];

/// Options of the measurement.
#[derive(Default, clap::Args)]
pub struct Arguments {
    /// Only this number of subscribers
    #[arg(long)]
    subscribers: Option<usize>,
}

/// Measures all numbers of subscribers, and writes the section.
pub async fn run(arguments: &Arguments, report: &Report) {
    let mut text = format!("{INTRODUCTION}\n{}", versions());
    let counts = arguments.subscribers.map_or(SUBSCRIBERS.to_vec(), |count| vec![count]);
    for count in counts {
        let name = grouped(real(count as u64));
        if report.quick && arguments.subscribers.is_none() && count > QUICK_SUBSCRIBERS_MAX {
            _ = writeln!(text, "\n### {name} subscribers\n\nNot measured in a short run.");
            continue;
        }
        let plural = if count == 1 { "" } else { "s" };
        let measured = measure(count, size(count, report.quick)).await;
        _ = write!(text, "\n### {name} subscriber{plural}\n\n{measured}");
    }
    report.write("peers-fan-out", &text);
}

const INTRODUCTION: &str = "## Events of one job, in comparison with peers

Subscribers of one job, at most 500 on a connection. Reports come at a steady pace, for at most 10,000 events per second \
with up to 10,000 subscribers; or, in the columns from \"full rate\" on, each after the answer to the last one. CPU is \
that of the server and its Redis, reports included, divided by the events that arrived. jobtrack may skip versions that \
a newer one has replaced, and so may a bucket of NATS KV, which keeps one version of a key; all others deliver \
each. Each watch is a gRPC stream of its own, or a consumer of NATS; a watch of etcd begins without the current value. \
A subscription of NATS or Redis has no state to begin with, and misses what happens while it is not connected; one of \
Redis needs a connection of its own. The floor knows no watchers on other replicas, and keeps no events to resume from.
";

fn size(count: usize, quick: bool) -> Size {
    let pace = (EVENT_RATE / real(count as u64)).clamp(PACE_MIN, PACE_MAX);
    let unpaced = (FULL_EVENTS / count).clamp(FULL_REPORTS_MIN, FULL_REPORTS_MAX);
    let rounds = if quick { 3 } else { 9 };
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is small and positive")]
    let paced = if quick { pace / 4.0 } else { pace }.max(3.0) as usize;
    Size { rounds, paced, unpaced, pace }
}

async fn measure(count: usize, size: Size) -> String {
    let names = NAMES.into_iter().filter(|&name| name != Name::Redis || count <= REDIS_SUBSCRIBERS_MAX);
    let mut gathered = Gathered::start(&names.collect::<Vec<_>>()).await;
    if count > REDIS_SUBSCRIBERS_MAX {
        gathered.missing.push((Name::Redis, "each subscriber needs a connection".to_owned()));
    }
    let mut audiences = Audiences::gather(gathered, Subject::Job(0), 1, count, size).await;
    let comparison = audiences.compare(&NAMES, size).await;
    let note = format!("{} rounds, {:.0} reports/s at the steady pace.", size.rounds, size.pace);
    format!("{note}\n\n{}{}", comparison.render(&COLUMNS, [Name::Floor, Name::FloorAgain]), missing(&audiences.missing))
}
