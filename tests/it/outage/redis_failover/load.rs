//! Callers that report on jobs through two servers.

use std::{collections::BTreeMap, time::Instant};

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    Durability, GetJobRequest, GetStatsRequest, Job, Progress, UpdateProgressRequest, reconciled_job::Outcome,
};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::{PACE, WAIT_TIMEOUT, record::Record};
use crate::support::{Admin, Client, Server, create, pace::Pace, replicas::try_get};

/// A call and its result.
pub struct Call {
    pub begun: Instant,
    pub ended: Instant,
    /// Index of the server.
    pub server: usize,
    pub heard: Heard,
}

/// The result of a call. Each report has a unique number, which the job keeps as its progress.
pub enum Heard {
    Stored { revision: i64, number: i64, durable: bool },
    Read { revision: i64, number: i64, durable: bool },
    Failed(Status),
}

impl Call {
    /// Returns the revision that was stored, in Redis or only in this process.
    pub fn stored(&self) -> Option<i64> {
        match self.heard {
            Heard::Stored { revision, .. } => Some(revision),
            _ => None,
        }
    }

    /// Returns the revision that was stored in Redis.
    pub fn durable(&self) -> Option<i64> {
        match self.heard {
            Heard::Stored { revision, durable: true, .. } => Some(revision),
            _ => None,
        }
    }

    /// Returns whether it was answered from memory, because Redis was unavailable.
    pub fn is_volatile(&self) -> bool {
        matches!(self.heard, Heard::Stored { durable: false, .. } | Heard::Read { durable: false, .. })
    }

    pub fn failure(&self) -> Option<&Status> {
        match &self.heard {
            Heard::Failed(status) => Some(status),
            _ => None,
        }
    }

    /// Returns whether this answer from Redis shows that an `earlier` write is lost: the job's only writer sees
    /// revisions and numbers rise.
    pub fn disproves(&self, earlier: &Self) -> bool {
        let Heard::Stored { revision: before, number: number_before, .. } = earlier.heard else { return false };
        match self.heard {
            Heard::Stored { revision, durable: true, .. } => revision <= before,
            Heard::Read { revision, number, durable: true } => revision < before || number < number_before,
            _ => false,
        }
    }
}

/// One caller for each job, which reports on it through two servers in turn. After an error it reads the job before it
/// continues.
pub struct Load {
    stop: CancellationToken,
    callers: Vec<Caller>,
    reported: JoinHandle<BTreeMap<String, &'static str>>,
    clients: [Client; 2],
}

struct Caller {
    id: String,
    /// Start time of the last two consecutive reports that were stored in Redis, one through each server.
    good: watch::Receiver<Instant>,
    running: JoinHandle<Vec<Call>>,
}

impl Load {
    /// Creates jobs and starts to report on them.
    pub async fn start(servers: [&Server; 2], ids: &[String]) -> Self {
        let stop = CancellationToken::new();
        let clients = [servers[0].client().await, servers[1].client().await];
        let mut callers = Vec::new();
        for id in ids {
            create(&mut clients[0].clone(), id).await;
            let (told, good) = watch::channel(Instant::now());
            let running = tokio::spawn(call(clients.clone(), id.clone(), told, stop.clone()));
            callers.push(Caller { id: id.clone(), good, running });
        }
        let reported = tokio::spawn(follow_reports([servers[0].admin().await, servers[1].admin().await], stop.clone()));
        let load = Self { stop, callers, reported, clients };
        load.good_since(Instant::now()).await;
        load
    }

    /// Waits until every caller has reports stored in Redis, through both servers, that it began after `time`.
    pub async fn good_since(&self, time: Instant) {
        let all = self.callers.iter().map(|caller| async {
            let mut good = caller.good.clone();
            let reached = timeout(WAIT_TIMEOUT, good.wait_for(|begun| *begun > time)).await;
            reached.err().map(|_| &caller.id)
        });
        let bad: Vec<_> = join_all(all).await.into_iter().flatten().collect();
        assert!(bad.is_empty(), "writes are not good again within {WAIT_TIMEOUT:?} for {} jobs: {bad:?}", bad.len());
    }

    /// Stops the callers. Returns all calls.
    pub async fn stop(self) -> Record {
        self.stop.cancel();
        let mut calls = BTreeMap::new();
        let mut last = BTreeMap::new();
        for caller in self.callers {
            let made = caller.running.await.expect("a caller ends without a panic");
            let acknowledged = made.iter().rev().find_map(Call::stored);
            let job = get_at_least(&mut self.clients[0].clone(), &caller.id, acknowledged).await;
            last.insert(caller.id.clone(), job);
            calls.insert(caller.id, made);
        }
        let reported = self.reported.await.expect("the reported can be read");
        Record { calls, last, reported, pace: Pace::measure().await }
    }
}

/// Reads the reports of reconciliations until it is stopped, and once more. Returns the jobs with a change that
/// conflicted or was dropped.
async fn follow_reports(mut admins: [Admin; 2], stop: CancellationToken) -> BTreeMap<String, &'static str> {
    let mut told = BTreeMap::new();
    loop {
        let is_last = stop.is_cancelled();
        for admin in &mut admins {
            let stats = admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner();
            for job in stats.last_reconciliation.into_iter().flat_map(|reported| reported.jobs) {
                match job.outcome() {
                    Outcome::Conflicted => _ = told.insert(job.job_id, "conflicted"),
                    Outcome::Dropped => _ = told.insert(job.job_id, "dropped"),
                    _ => {}
                }
            }
        }
        if is_last {
            return told;
        }
        sleep(PACE * 4).await;
    }
}

async fn call(clients: [Client; 2], id: String, good: watch::Sender<Instant>, stop: CancellationToken) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    for number in 1.. {
        if stop.is_cancelled() {
            break;
        }
        let server = usize::from(number % 2 == 0);
        let client = &mut clients[server].clone();
        let failed = calls.last().is_some_and(|call| call.failure().is_some());
        let begun = Instant::now();
        let outcome = if failed { read(client, &id).await } else { write(client, &id, number).await };
        let heard = outcome.unwrap_or_else(Heard::Failed);
        calls.push(Call { begun, ended: Instant::now(), server, heard });
        if let [.., one, other] = &calls[..]
            && one.durable().is_some()
            && other.durable().is_some()
        {
            good.send_replace(one.begun);
        }
        sleep(PACE).await;
    }
    calls
}

async fn write(client: &mut Client, id: &str, number: i64) -> Result<Heard, Status> {
    let request = UpdateProgressRequest {
        job_id: id.to_owned(),
        progress: Some(Progress { completed: Some(number), ..Progress::default() }),
        sequence: Some(number),
        ..UpdateProgressRequest::default()
    };
    let answer = client.update_progress(request).await?.into_inner();
    assert!(answer.applied, "a report with a higher sequence was ignored: {:?}", answer.job);
    let job = answer.job.expect("a job");
    Ok(Heard::Stored { revision: job.revision, number, durable: job.durability() == Durability::Durable })
}

async fn read(client: &mut Client, id: &str) -> Result<Heard, Status> {
    let job = try_get(client, id).await?;
    let durable = job.durability() == Durability::Durable;
    Ok(Heard::Read { revision: job.revision, number: number_of(&job), durable })
}

/// Returns the number of the last report that a job contains.
pub fn number_of(job: &Job) -> i64 {
    job.progress.as_ref().and_then(|progress| progress.completed).unwrap_or_default()
}

/// Returns the current job, at least at the revision of its last change, which another server may have made just now;
/// without that bound if that change is lost.
async fn get_at_least(client: &mut Client, id: &str, min_revision: Option<i64>) -> Job {
    match client.get_job(GetJobRequest { job_id: id.to_owned(), min_revision, ..GetJobRequest::default() }).await {
        Ok(answer) => answer.into_inner().job.expect("a job"),
        Err(status) if status.code() == Code::Unavailable => try_get(client, id).await.expect("it can be read"),
        Err(status) => panic!("{status:?}"),
    }
}
