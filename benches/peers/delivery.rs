//! Subscribers of a server, and the cost of their events.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::FutureExt;
use tokio::time::sleep;

use crate::{
    contender::{Contender, Gathered, Name},
    load::{
        board::{Board, Delivery, Reports},
        unary,
    },
    stats::{real, shuffled},
    tables::{Column, Comparison},
    watchers::{Subject, subscribe},
    workload::Jobs,
};

/// Pause after a round.
const ROUND_PAUSE: Duration = Duration::from_millis(20);

/// The length of a measurement.
#[derive(Clone, Copy)]
pub struct Size {
    pub rounds: usize,
    /// Reports of a round at a steady pace, and then as fast as they are answered.
    pub paced: usize,
    pub unpaced: usize,
    /// Reports per second at the steady pace.
    pub pace: f64,
}

/// The results of one server in one round.
pub struct Round {
    /// CPU time of the server and its Redis in microseconds per event, at the steady pace.
    cpu: f64,
    /// Latencies in milliseconds, at the steady pace.
    p50: f64,
    p99: f64,
    /// CPU time per event, events per second, and events in percent of the expected number (one for each report and
    /// subscriber), when reports are as fast as they are answered.
    full_cpu: f64,
    rate: f64,
    arrived: f64,
}

pub const COLUMNS: [Column<Round>; 6] = [
    Column { head: "CPU µs per event", value: |round| round.cpu, with_ratio: true },
    Column { head: "p50 ms", value: |round| round.p50, with_ratio: false },
    Column { head: "p99 ms", value: |round| round.p99, with_ratio: false },
    Column { head: "full rate: CPU µs", value: |round| round.full_cpu, with_ratio: true },
    Column { head: "events/s", value: |round| round.rate, with_ratio: true },
    Column { head: "arrived %", value: |round| round.arrived, with_ratio: false },
];

/// A server with subscribers.
struct Audience {
    contender: Contender,
    jobs: Jobs,
    /// Number of jobs that are reported on, in turn.
    reported: u32,
    board: Arc<Board>,
    subscribers: usize,
}

impl Audience {
    /// Creates jobs, and opens subscriptions of the first one, or of all.
    async fn gather(contender: Contender, subject: Subject, jobs: u32, count: usize, size: Size) -> Self {
        let reported = if subject == Subject::All { jobs } else { 1 };
        let jobs = Jobs::new(jobs);
        unary::prepare(&*contender.client, &jobs).await;
        let room = jobs.count as usize + 2 + (size.rounds + 1) * (size.paced + size.unpaced);
        let board = Arc::new(Board::new(count, room));
        subscribe(&contender, &jobs, subject, count, &board).await;
        Self { contender, jobs, reported, board, subscribers: count }
    }

    async fn round(&self, size: Size) -> Round {
        let (cpu, paced) = self.deliver(Reports { count: size.paced, rate: Some(size.pace) }).await;
        let (full_cpu, unpaced) = self.deliver(Reports { count: size.unpaced, rate: None }).await;
        Round {
            cpu,
            p50: paced.latency(0.5),
            p99: paced.latency(0.99),
            full_cpu,
            rate: unpaced.rate(),
            arrived: real(unpaced.events) / real((size.unpaced * self.subscribers) as u64) * 100.0,
        }
    }

    /// Makes reports. Returns the CPU time in microseconds per event, and the events.
    async fn deliver(&self, reports: Reports) -> (f64, Delivery) {
        let before = self.contender.cpu_time();
        let report = async |turn: usize, is_last| {
            let job = u32::try_from(turn).expect("there are few reports") % self.reported;
            let request = self.jobs.update_request(job);
            self.board.announce(&request, is_last);
            self.contender.client.update(0, &self.jobs, job, request).await;
        };
        let delivery = self.board.measure(reports, report).await;
        let after = self.contender.cpu_time();
        let used = (after.server + after.redis).saturating_sub(before.server + before.redis);
        (used.as_secs_f64() * 1e6 / real(delivery.events), delivery)
    }
}

/// Subscribers of the servers that can be measured, and the reasons for which others can't.
pub struct Audiences {
    audiences: Vec<Audience>,
    pub missing: Vec<(Name, String)>,
}

impl Audiences {
    /// Gathers the subscribers of each server.
    pub async fn gather(gathered: Gathered, subject: Subject, jobs: u32, count: usize, size: Size) -> Self {
        let mut all = Self { audiences: Vec::new(), missing: gathered.missing };
        for contender in gathered.contenders {
            let name = contender.name;
            match attempt(Audience::gather(contender, subject, jobs, count, size)).await {
                Ok(audience) => all.audiences.push(audience),
                Err(reason) => all.missing.push((name, reason)),
            }
        }
        all
    }

    /// Compares the servers, in changing order. A server that fails takes no further part, and is killed, so that what
    /// it still does disturbs no other.
    pub async fn compare(&mut self, names: &[Name], size: Size) -> Comparison<Round> {
        let mut comparison = Comparison::new(names);
        // The first round is not counted.
        for turn in 0..=size.rounds {
            for at in shuffled(names.len()) {
                let Some(found) = self.audiences.iter().position(|it| it.contender.name == names[at]) else { continue };
                match attempt(self.audiences[found].round(size)).await {
                    Ok(round) if turn > 0 => comparison.add(names[at], round),
                    Ok(_) => {}
                    Err(reason) => {
                        self.audiences.remove(found);
                        self.missing.push((names[at], reason));
                    }
                }
                // Events that are still under way must not count for the next round.
                sleep(ROUND_PAUSE).await;
            }
        }
        comparison
    }
}

/// Returns the message of a failure in place of the result. A server with very many subscribers may not answer in time.
async fn attempt<T>(measurement: impl Future<Output = T>) -> Result<T, String> {
    AssertUnwindSafe(measurement).catch_unwind().await.map_err(|failure| {
        let text = failure.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| failure.downcast_ref::<&str>().copied()).unwrap_or("unknown");
        format!("it failed: {text}")
    })
}
