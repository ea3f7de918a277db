//! Time that passes while Redis or a replica is unavailable, or a clock is wrong: no job whose worker reports is
//! harmed, and a dead worker is noticed nevertheless. All tests run the real binary.

mod apart;
mod clocks;
mod dead;
mod leases;
mod onlooker;
mod workers;

use std::time::Duration;

use jobtrack::proto::{
    EncodedStruct,
    v1::{
        CompleteJobRequest, CreateJobRequest, GetJobRequest, Job, Liveness,
        job::{Outcome, State},
    },
};

use crate::support::{
    Client, new_job,
    process::Process,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{degraded, whole},
    text_document,
    watching::{make, millis},
};
use workers::Worked;

/// Time without a report after which a decision about a job is due, in milliseconds.
const LEASE_MILLIS: i64 = 3000;
const LEASE: Duration = Duration::from_secs(3);

/// Length of an outage: longer than a lease, and longer than the few beats that any decision by time waits for.
const OUTAGE: Duration = Duration::from_secs(7);

/// Time that the first replica to come back has for wrong decisions, until the other one is back.
const HEAD_START: Duration = Duration::from_millis(1500);

/// Replica grace of tests in which replicas come back: leaves time for a busy machine and for pauses between attempts
/// to connect.
const LONG_GRACE: &str = "20s";

/// Replica grace of tests in which no replica comes back.
const SHORT_GRACE: &str = "2s";

/// Flags of Redis. Its append-only file is not rewritten, so that it can be copied at any time.
const REDIS_FLAGS: [&str; 4] = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];

/// Returns the flags of a replica on this Redis that promises to be back within `grace`.
fn flags<'a>(url: &'a str, grace: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--redis-url", url, "--replica-grace", grace], more].concat()
}

/// Two replicas in front of a Redis, each behind a relay of its own.
struct Site {
    redis: Redis,
    relays: [Relay; 2],
    replicas: [Process; 2],
}

impl Site {
    async fn start(grace: &str, more: &[&str]) -> Self {
        let redis = Redis::with(&REDIS_FLAGS).await;
        let relays = [Relay::to(redis.port).await, Relay::to(redis.port).await];
        let replicas = [0, 1].map(|number| {
            let url = relays[number].url();
            Process::start(&flags(&url, grace, more))
        });
        Self { redis, relays, replicas }
    }

    /// Returns a client of each replica.
    async fn clients(&self) -> [Client; 2] {
        [self.replicas[0].client().await, self.replicas[1].client().await]
    }

    /// Changes the link between a replica and Redis.
    fn link(&self, replica: usize, link: Link) {
        self.relays[replica].set_all(link);
    }

    /// Kills Redis, and waits until both replicas have noticed.
    async fn lose_redis(&mut self) {
        self.redis.kill();
        for replica in &self.replicas {
            degraded(replica).await;
        }
    }

    /// Cuts a replica off from Redis, and waits until it has noticed.
    async fn cut_off(&self, replica: usize, link: Link) {
        self.link(replica, link);
        degraded(&self.replicas[replica]).await;
    }

    /// Reverts [`cut_off`](Self::cut_off), and waits until the replica serves from Redis.
    async fn heal(&self, replica: usize) {
        self.link(replica, Link::Pass);
        whole(&self.replicas[replica]).await;
    }
}

/// The rule that harms a job without a report for [`LEASE`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// The job fails with its worker.
    Lease,
    /// The job expires, though it is active.
    TtlActive,
}

impl Rule {
    fn flags(self) -> &'static [&'static str] {
        match self {
            Self::Lease => &[],
            Self::TtlActive => &["--ttl-active", "3s"],
        }
    }

    /// Returns the creation of a job under this rule.
    fn job(self, id: &str) -> CreateJobRequest {
        match self {
            Self::Lease => {
                CreateJobRequest { lease_timeout: millis(LEASE_MILLIS), fail_when_lost: true, ..new_job(id) }
            }
            Self::TtlActive => new_job(id),
        }
    }

    /// Creates jobs under this rule, and returns their ids.
    async fn create(self, client: &mut Client, name: &str, count: usize) -> Vec<String> {
        let ids: Vec<_> = (0..count).map(|number| format!("{name}-{number}")).collect();
        for id in &ids {
            make(client, self.job(id)).await;
        }
        ids
    }
}

/// Reads a job, at this revision or a later one.
async fn read(client: &mut Client, id: &str, revision: i64) -> Job {
    let request = GetJobRequest { job_id: id.to_owned(), min_revision: Some(revision), ..GetJobRequest::default() };
    let answer = client.get_job(request).await;
    answer.unwrap_or_else(|status| panic!("{id}: {status:?}")).into_inner().job.expect("a job")
}

/// Fails unless each of these jobs is active and live, with every report that was acknowledged to its worker.
async fn assert_alive(client: &mut Client, rule: Rule, worked: &[Worked]) {
    for Worked { id, reports, revision, .. } in worked {
        let job = read(client, id, *revision).await;
        assert_eq!(job.state(), State::Running, "{job:?}");
        let live = if rule == Rule::Lease { Liveness::Live } else { Liveness::Unspecified };
        assert_eq!(job.liveness(), live, "{job:?}");
        let completed = job.progress.as_ref().and_then(|progress| progress.completed);
        assert!(completed >= Some(*reports), "{reports} reports were acknowledged, but: {job:?}");
    }
}

/// Returns the result of a job.
fn result(id: &str) -> EncodedStruct {
    text_document(&format!("done: {id}"))
}

/// Completes jobs, each with its result.
async fn complete_all(client: &mut Client, ids: &[String]) {
    for id in ids {
        let request =
            CompleteJobRequest { job_id: id.clone(), result: Some(result(id)), ..CompleteJobRequest::default() };
        client.complete_job(request).await.unwrap_or_else(|status| panic!("{id} is not completed: {status:?}"));
    }
}

/// Fails unless each of these jobs succeeded with its result.
async fn assert_completed(client: &mut Client, ids: &[String]) {
    for id in ids {
        let job = read(client, id, 1).await;
        assert_eq!((job.state(), &job.outcome), (State::Succeeded, &Some(Outcome::Result(result(id)))), "{job:?}");
    }
}
