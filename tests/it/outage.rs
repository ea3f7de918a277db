//! Time that passes while somebody is away or a clock is wrong: no job whose worker is heard is harmed by it, and a
//! worker that is dead is noticed all the same. All with the real binary.

mod apart;
mod clocks;
mod dead;
mod leases;
mod onlooker;
mod workers;

use std::time::Duration;

use jobtrack::proto::v1::{
    CompleteJobRequest, CreateJobRequest, GetJobRequest, Job, Liveness,
    job::{Outcome, State},
};
use prost_types::{Struct, Value, value::Kind};
use tonic_health::ServingStatus::{NotServing, Serving};

use crate::support::{
    Client, new_job,
    process::Process,
    redis::Redis,
    relay::{Link, Relay},
    replicas::Health,
    watching::{make, millis},
};
use workers::Worked;

/// The time after which a job is due of whose worker nothing was heard, in milliseconds.
const LEASE_MILLIS: i64 = 3000;
const LEASE: Duration = Duration::from_secs(3);

/// The length of an outage: longer than a lease, and longer than the few beats that any decision by time waits for.
const OUTAGE: Duration = Duration::from_secs(7);

/// The time that the replica that is back first has for wrong decisions, until the other one is back.
const HEAD_START: Duration = Duration::from_millis(1500);

/// The promised time of return where replicas are away and have to be heard in the end: a busy machine and pauses
/// between attempts to connect fit in.
const LONG_GRACE: &str = "20s";

/// The promised time of return where nobody comes back.
const SHORT_GRACE: &str = "2s";

/// The file to which Redis appends is not written anew, so that it can be copied at any time.
const REDIS_FLAGS: [&str; 4] = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];

/// Flags of a replica on this Redis that promises to be back within `grace`.
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

    /// Calls of each replica.
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

    /// Ends what [`cut_off`](Self::cut_off) began, and waits until the replica serves from Redis.
    async fn heal(&self, replica: usize) {
        self.link(replica, Link::Pass);
        whole(&self.replicas[replica]).await;
    }
}

/// Waits until a replica has reconciled what it holds, and serves from Redis.
async fn whole(replica: &Process) {
    Health::watch_on(replica.channel().await, "redis").await.until(Serving).await;
}

/// Waits until a replica has noticed that Redis is away.
async fn degraded(replica: &Process) {
    Health::watch_on(replica.channel().await, "redis").await.until(NotServing).await;
}

/// The rule that harms a job of which nothing was heard for [`LEASE`].
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

    /// A job under this rule.
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

/// Reads a job, no older than this revision.
async fn read(client: &mut Client, id: &str, revision: i64) -> Job {
    let request = GetJobRequest { job_id: id.to_owned(), min_revision: Some(revision) };
    let answer = client.get_job(request).await;
    answer.unwrap_or_else(|status| panic!("{id}: {status:?}")).into_inner().job.expect("a job")
}

/// Fails unless each of these jobs is active and live, with all that its worker was told to be taken.
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

/// The result of a job's work.
fn result(id: &str) -> Struct {
    let text = Value { kind: Some(Kind::StringValue(format!("done: {id}"))) };
    Struct { fields: [("text".to_owned(), text)].into() }
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
