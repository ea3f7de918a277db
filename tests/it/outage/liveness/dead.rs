//! Dead workers: their jobs fail, are marked as lost or expire, on every replica, whatever else is down.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{
    CreateJobRequest, Job, Liveness,
    job::{Outcome, State},
};
use rstest::rstest;
use tokio::time::sleep;
use tonic::{Code, Status};

use super::{LEASE, LEASE_MILLIS, OUTAGE, Rule, SHORT_GRACE, Site, flags};
use crate::support::{
    Client,
    process::Process,
    relay::Link,
    replicas::{read, whole},
    watching::{make, millis, report},
};

/// Maximum time from the end of the lease until a dead worker is noticed without a disturbance: 5 s, on a very busy
/// machine.
pub const FAILED_WITHIN: Duration = Duration::from_secs(30);

/// Maximum time until a dead worker is noticed after an outage or a restart.
const FAILED_AFTER_OUTAGE_WITHIN: Duration = Duration::from_secs(60);

/// Interval between reads of a job.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// Number of jobs of each kind.
const JOBS: usize = 6;

/// Reads each job until `shown` returns a value. Fails if that exceeds `limit`, or if it happens before the end of the
/// lease, which began at `reported` or later.
async fn until_shown<T>(
    what: &str,
    client: &mut Client,
    ids: &[String],
    reported: Instant,
    limit: Duration,
    shown: impl Fn(Result<Job, Status>) -> Option<T>,
) -> Vec<T> {
    let begun = Instant::now();
    let mut all = Vec::new();
    for id in ids {
        loop {
            let answer = client.get_job(read(id)).await;
            let answer = answer.map(|answer| answer.into_inner().job.expect("a job"));
            let told = format!("{answer:?}");
            if let Some(found) = shown(answer) {
                assert!(reported.elapsed() >= LEASE, "{what} after {:?}: {told}", reported.elapsed());
                all.push(found);
                break;
            }
            assert!(begun.elapsed() < limit, "not {what} after {:?}: {told}", begun.elapsed());
            sleep(POLL_INTERVAL).await;
        }
    }
    println!("{what} {:?} after the last report, {:?} after it was asked", reported.elapsed(), begun.elapsed());
    all
}

/// Waits until each job has failed with its worker, after the end of its lease and within `limit`.
pub async fn until_failed(client: &mut Client, ids: &[String], reported: Instant, limit: Duration) -> Vec<Job> {
    let failed = |answer: Result<Job, Status>| answer.ok().filter(|job| job.state() == State::Failed);
    let jobs = until_shown("failed", client, ids, reported, limit, failed).await;
    for job in &jobs {
        let Some(Outcome::Failure(failure)) = &job.outcome else { panic!("no failure in {job:?}") };
        assert_eq!(failure.reason, "WORKER_LOST", "{job:?}");
    }
    jobs
}

/// Waits until each job is shown with a lost worker, and still active.
async fn until_lost(client: &mut Client, ids: &[String], reported: Instant, limit: Duration) {
    let lost = |answer: Result<Job, Status>| answer.ok().filter(|job| job.liveness() == Liveness::Lost);
    let jobs = until_shown("lost", client, ids, reported, limit, lost).await;
    assert!(jobs.iter().all(|job| job.state() == State::Running), "{jobs:?}");
}

/// An event directly after the death of the workers.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Disturbance {
    Nothing,
    RedisRestarts,
    RedisIsEmptied,
    /// The replica to which the workers reported is killed.
    ReplicaIsKilled,
    ReplicaStops,
    /// That replica is cut off for as long as the jobs last.
    ReplicaIsCutOff,
    BothReplicasRestart,
}

impl Disturbance {
    /// Causes the event. Returns the replicas to ask afterwards.
    async fn happen(self, site: &mut Site) -> &'static [usize] {
        match self {
            Self::Nothing => {}
            Self::RedisRestarts | Self::RedisIsEmptied => {
                site.lose_redis().await;
                sleep(OUTAGE).await;
                match self {
                    Self::RedisRestarts => site.redis.restart().await,
                    _ => site.redis.restart_empty().await,
                }
                for replica in &site.replicas {
                    whole(replica).await;
                }
            }
            Self::ReplicaIsKilled => site.replicas[0].signal("KILL"),
            Self::ReplicaStops => site.replicas[0].signal("TERM"),
            Self::ReplicaIsCutOff => site.cut_off(0, Link::Cut).await,
            Self::BothReplicasRestart => {
                for (replica, relay) in site.replicas.iter_mut().zip(&site.relays) {
                    replica.signal("KILL");
                    *replica = Process::start(&flags(&relay.url(), SHORT_GRACE, &[]));
                }
            }
        }
        match self {
            Self::ReplicaIsKilled | Self::ReplicaStops | Self::ReplicaIsCutOff => &[1],
            _ => &[0, 1],
        }
    }

    /// Returns the maximum time to notice the dead workers after the event.
    fn limit(self) -> Duration {
        LEASE + if self == Self::Nothing { FAILED_WITHIN } else { FAILED_AFTER_OUTAGE_WITHIN }
    }
}

#[rstest]
#[case::in_ordinary_times(Disturbance::Nothing)]
#[case::after_a_restart_of_redis(Disturbance::RedisRestarts)]
#[case::after_a_loss_of_data(Disturbance::RedisIsEmptied)]
#[case::after_the_death_of_its_replica(Disturbance::ReplicaIsKilled)]
#[case::after_the_stop_of_its_replica(Disturbance::ReplicaStops)]
#[case::while_its_replica_is_cut_off(Disturbance::ReplicaIsCutOff)]
#[case::after_a_restart_of_all_replicas(Disturbance::BothReplicasRestart)]
#[tokio::test(flavor = "multi_thread")]
async fn dead_worker_is_lost_on_every_replica(#[case] disturbance: Disturbance) {
    let mut site = Site::start(SHORT_GRACE, &[]).await;
    let client = &mut site.clients().await[0];
    let failing = Rule::Lease.create(client, "failing", JOBS).await;
    let lasting: Vec<_> = (0..JOBS).map(|number| format!("lasting-{number}")).collect();
    for id in &lasting {
        let job =
            CreateJobRequest { fail_when_lost: false, lease_timeout: millis(LEASE_MILLIS), ..Rule::Lease.job(id) };
        make(client, job).await;
    }
    let reported = Instant::now();
    for id in failing.iter().chain(&lasting) {
        report(client, id).await;
    }

    let asked = disturbance.happen(&mut site).await;
    let limit = disturbance.limit();
    for &replica in asked {
        let client = &mut site.replicas[replica].client().await;
        until_failed(client, &failing, reported, limit).await;
        until_lost(client, &lasting, reported, limit).await;
    }
    if disturbance == Disturbance::ReplicaIsCutOff {
        // While the replica is cut off it may show any worker as lost that does not report to it.
        let client = &mut site.replicas[0].client().await;
        until_lost(client, &lasting, reported, limit).await;
        site.heal(0).await;
        until_failed(client, &failing, reported, limit).await;
    }
}

/// A worker is shown as lost after its lease even while no decision is possible. A decision that ends a job waits.
#[tokio::test(flavor = "multi_thread")]
async fn dead_worker_shows_as_lost_while_redis_is_unavailable() {
    let mut site = Site::start(SHORT_GRACE, &[]).await;
    let mut clients = site.clients().await;
    let ids = Rule::Lease.create(&mut clients[0], "failing", JOBS).await;
    let reported = Instant::now();
    for id in &ids {
        let revision = report(&mut clients[0], id).await.revision;
        super::read(&mut clients[1], id, revision).await;
    }
    site.lose_redis().await;
    for client in &mut clients {
        until_lost(client, &ids, reported, LEASE + FAILED_WITHIN).await;
    }
    site.redis.restart().await;
    for client in &mut clients {
        until_failed(client, &ids, reported, LEASE + FAILED_AFTER_OUTAGE_WITHIN).await;
    }
}

#[rstest]
#[case::in_ordinary_times(Disturbance::Nothing)]
#[case::after_a_restart_of_redis(Disturbance::RedisRestarts)]
#[case::after_the_death_of_its_replica(Disturbance::ReplicaIsKilled)]
#[tokio::test(flavor = "multi_thread")]
async fn active_job_without_reports_expires_on_every_replica(#[case] disturbance: Disturbance) {
    let mut site = Site::start(SHORT_GRACE, Rule::TtlActive.flags()).await;
    let client = &mut site.clients().await[0];
    let ids = Rule::TtlActive.create(client, "silent", JOBS).await;
    let reported = Instant::now();
    for id in &ids {
        report(client, id).await;
    }
    let asked = disturbance.happen(&mut site).await;
    for &replica in asked {
        let client = &mut site.replicas[replica].client().await;
        let gone = |answer: Result<Job, Status>| answer.err().filter(|status| status.code() == Code::NotFound);
        until_shown("gone", client, &ids, reported, disturbance.limit(), gone).await;
    }
}
