//! Callers that read and report throughout, and the outcomes of their calls.

use std::{
    fmt::{Display, Formatter, Result},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use jobtrack::{
    domain::JobId,
    proto::v1::{CreateJobRequest, GetJobRequest, UpdateProgressRequest},
};
use tokio::{task::JoinSet, time::sleep};
use tonic::Status;

use super::{Client, process::Process};

/// Number of callers that read, and of callers that report, at each replica.
const READERS: usize = 2;
const REPORTERS: usize = 2;

/// The pause between the calls of a caller.
const PAUSE: Duration = Duration::from_millis(25);

/// Step from one job to the next, so that over time each job is read.
const STRIDE: usize = 7919;

/// The part of a round in which a call ends.
#[derive(Clone, Copy, Debug)]
pub enum Phase {
    Rest,
    Raw,
    Outage,
    Return,
}

const PHASES: [Phase; 4] = [Phase::Rest, Phase::Raw, Phase::Outage, Phase::Return];

/// Callers at all replicas.
pub struct Callers {
    tasks: JoinSet<()>,
    record: Arc<Record>,
}

#[derive(Default)]
struct Record {
    phase: AtomicUsize,
    is_over: AtomicBool,
    calls: Mutex<Calls>,
}

/// Times and failures of calls.
#[derive(Clone, Default)]
pub struct Calls {
    /// Durations, by the phase in which the calls ended.
    times: [Vec<Duration>; PHASES.len()],
    /// Calls that were not answered with OK.
    pub failures: Vec<String>,
}

impl Callers {
    pub async fn start(replicas: &[Process], ids: &[JobId]) -> Self {
        let mut callers = Self { tasks: JoinSet::new(), record: Arc::default() };
        let ids: Arc<[String]> = ids.iter().map(ToString::to_string).collect();
        for (at, replica) in replicas.iter().enumerate() {
            for reader in 0..READERS {
                let first = (at * READERS + reader) * STRIDE / 2;
                callers.tasks.spawn(read(replica.client().await, ids.clone(), first, callers.record.clone()));
            }
            for reporter in 0..REPORTERS {
                let id = format!("reported-{at}-{reporter}");
                callers.tasks.spawn(report(replica.client().await, id, callers.record.clone()));
            }
        }
        callers
    }

    /// Begins a phase.
    pub fn enter(&self, phase: Phase) {
        self.record.phase.store(phase as usize, Relaxed);
    }

    /// Stops the callers after their current calls.
    pub async fn stop(self) -> Calls {
        self.record.is_over.store(true, Relaxed);
        self.tasks.join_all().await;
        self.record.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Record {
    /// Makes a call, records its outcome, and pauses.
    async fn call<T>(&self, what: &str, call: impl Future<Output = std::result::Result<T, Status>>) {
        let started = Instant::now();
        let outcome = call.await;
        self.note(what, started.elapsed(), outcome.err());
        sleep(PAUSE).await;
    }

    fn note(&self, what: &str, time: Duration, failure: Option<Status>) {
        let phase = self.phase.load(Relaxed);
        let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.times[phase].push(time);
        if let Some(status) = failure {
            calls.failures.push(format!("{what}, {:?}: {:?} {}", PHASES[phase], status.code(), status.message()));
        }
    }
}

async fn read(mut client: Client, ids: Arc<[String]>, first: usize, record: Arc<Record>) {
    let mut at = first;
    while !record.is_over.load(Relaxed) {
        at = (at + STRIDE) % ids.len();
        let request = GetJobRequest { job_id: ids[at].clone(), ..GetJobRequest::default() };
        record.call("GetJob", client.get_job(request)).await;
    }
}

async fn report(mut client: Client, id: String, record: Arc<Record>) {
    let request =
        CreateJobRequest { job_id: id.clone(), kind: "video.render".to_owned(), ..CreateJobRequest::default() };
    record.call("CreateJob", client.create_job(request)).await;
    while !record.is_over.load(Relaxed) {
        let request = UpdateProgressRequest { job_id: id.clone(), ..UpdateProgressRequest::default() };
        record.call("UpdateProgress", client.update_progress(request)).await;
    }
}

impl Calls {
    /// Returns the number of calls.
    pub fn count(&self) -> usize {
        self.times.iter().map(Vec::len).sum()
    }

    /// Returns the duration of the longest call.
    pub fn longest(&self) -> Duration {
        self.times.iter().flatten().max().copied().unwrap_or_default()
    }
}

impl Display for Calls {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> Result {
        for phase in PHASES {
            let mut times = self.times[phase as usize].clone();
            times.sort_unstable();
            let Some(longest) = times.last() else { continue };
            let (p50, p99) = (times[times.len() / 2], times[times.len() * 99 / 100]);
            let name = format!("{phase:?}");
            writeln!(
                formatter,
                "{name:<7} {:>7} calls, p50 {p50:.2?}, p99 {p99:.2?}, longest {longest:.2?}",
                times.len()
            )?;
        }
        for failure in self.failures.iter().take(10) {
            writeln!(formatter, "{failure}")?;
        }
        Ok(())
    }
}
