//! One job with many subscribers: CPU per event, and delivery latency.

use std::sync::Arc;

use crate::{
    load::{
        board::Reports,
        unary::Target,
        watch::{Audience, Subscribers},
    },
    process::{Kind, Server},
    report::{Report, Table, grouped},
    stats::{Spread, median, real, shuffled},
    workload::Jobs,
};

const SUBSCRIBERS: usize = 1000;
const CONNECTIONS: usize = 10;

/// Reports per second at a steady pace, which leaves both servers idle time.
const PACE: f64 = 15.0;

/// The measured servers, in this order.
const CONTENDERS: [Kind; 3] = [Kind::Floor, Kind::Floor, Kind::Jobtrack];

/// The length of a run.
#[derive(Clone, Copy)]
struct Size {
    rounds: usize,
    /// Number of reports in each round.
    reports: usize,
}

/// The results of one server in one round.
struct Round {
    /// CPU time of the server in microseconds per event.
    cpu: f64,
    /// Events per second.
    rate: f64,
    /// Events that arrived, in percent of the expected number: one event for each report and subscriber.
    arrived: f64,
    /// Median latency in milliseconds.
    p50: f64,
    p99: f64,
}

/// One of the results.
type Value = fn(&Round) -> f64;

/// A server with subscribers.
struct Contender {
    server: Server,
    audience: Audience,
}

/// Measures, and writes the section.
pub async fn run(report: &Report) {
    let size = if report.quick { Size { rounds: 3, reports: 20 } } else { Size { rounds: 15, reports: 30 } };
    let mut contenders = Vec::new();
    for kind in CONTENDERS {
        contenders.push(Contender::start(kind, size).await);
    }
    let heads = ["reports", "value", "floor", "jobtrack", "ratio", "controls"];
    let mut table = Table::new(&heads);
    for (name, rate) in [("at a steady pace", Some(PACE)), ("each after the last answer", None)] {
        let rounds = compare(&contenders, size, rate).await;
        let values: [(&str, Value); 5] = [
            ("CPU per event, µs", |round| round.cpu),
            ("events a second", |round| round.rate),
            ("arrived, %", |round| round.arrived),
            ("delivery p50, ms", |round| round.p50),
            ("delivery p99, ms", |round| round.p99),
        ];
        for (value, of) in values {
            table.row(row(name, value, &rounds, of));
        }
    }
    report.write(
        "watch",
        &format!(
            "## One job, {SUBSCRIBERS} subscribers\n\nThe subscribers use {CONNECTIONS} connections, in memory mode. \
             Reports come at {PACE} a second, or each after the answer to the last one. \"CPU per event\" is the whole CPU \
             time of the server, reports included, divided by the number of events that arrived. jobtrack may skip \
             versions that a newer one has replaced. Medians of {} rounds of {} reports in changing order; marks and \
             controls as above.\n\n{}",
            size.rounds,
            size.reports,
            table.render()
        ),
    );
}

impl Contender {
    async fn start(kind: Kind, size: Size) -> Self {
        let server = kind.start(None);
        let jobs = Arc::new(Jobs::new(1));
        Target::grpc(server.address, 1).await.prepare(&jobs).await;
        let room = 8 + 2 * (size.rounds + 1) * size.reports;
        let subscribers = Subscribers::grpc(SUBSCRIBERS, CONNECTIONS);
        let audience = Audience::gather(server.address, jobs, subscribers, room).await;
        let contender = Self { server, audience };
        contender.round(Reports { count: size.reports, rate: None }).await;
        contender
    }

    async fn round(&self, reports: Reports) -> Round {
        let before = self.server.cpu_time();
        let delivery = self.audience.report(reports).await;
        let used = self.server.cpu_time().saturating_sub(before);
        Round {
            cpu: used.as_secs_f64() * 1e6 / real(delivery.events),
            rate: delivery.rate(),
            arrived: real(delivery.events) / real((reports.count * SUBSCRIBERS) as u64) * 100.0,
            p50: delivery.latency(0.5),
            p99: delivery.latency(0.99),
        }
    }
}

/// Returns the rounds of each server.
async fn compare(contenders: &[Contender], size: Size, rate: Option<f64>) -> Vec<Vec<Round>> {
    let mut rounds: Vec<_> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..size.rounds {
        for at in shuffled(contenders.len()) {
            rounds[at].push(contenders[at].round(Reports { count: size.reports, rate }).await);
        }
    }
    rounds
}

fn row(name: &str, value: &str, rounds: &[Vec<Round>], of: Value) -> Vec<String> {
    let values: Vec<Vec<f64>> = rounds.iter().map(|rounds| rounds.iter().map(of).collect()).collect();
    let ratios = |of: usize, to: usize| values[of].iter().zip(&values[to]).map(|(of, to)| of / to);
    let spread = Spread::of(&ratios(1, 0).collect::<Vec<_>>());
    let ratio = median(&ratios(2, 0).chain(ratios(2, 1)).collect::<Vec<_>>());
    let number = |at: usize| {
        let median = median(&values[at]);
        if median > 1000.0 { grouped(median) } else { format!("{median:.1}") }
    };
    let mark = if spread.holds(ratio) { " ≈" } else { "" };
    vec![
        name.to_owned(),
        value.to_owned(),
        number(0),
        number(2),
        format!("{ratio:.2}{mark}"),
        format!("{:.2}–{:.2}", spread.low, spread.high),
    ]
}
