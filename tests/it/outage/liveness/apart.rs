//! One replica is cut off from Redis, and the other one serves. Neither makes a time-driven decision to end a job whose
//! worker reports to the other one.

use std::time::{Duration, Instant};

use jobtrack::proto::v1::{Durability, Job, Source, job::State};
use rstest::rstest;
use tokio::time::sleep;

use super::{
    LEASE, LONG_GRACE, OUTAGE, Rule, SHORT_GRACE, Site, assert_alive, assert_completed, complete_all,
    dead::{FAILED_WITHIN, until_failed},
    onlooker::Onlooker,
    read,
    workers::Workers,
};
use crate::support::{Client, relay::Link, replicas, watching::report};

/// Number of jobs.
const JOBS: usize = 12;

/// Interval between reads at the replica that is cut off.
const POLL_INTERVAL: Duration = Duration::from_millis(500);

/// Reads jobs for as long as an outage lasts. The replica must answer jobs in its memory from there, as active.
async fn assert_held_active(client: &mut Client, ids: &[String]) {
    let begun = Instant::now();
    while begun.elapsed() < OUTAGE {
        for id in ids {
            let answer = client.get_job(replicas::read(id)).await;
            let answer = answer.unwrap_or_else(|status| panic!("{id} is held: {status:?}")).into_inner();
            assert_eq!(answer.source(), Source::Memory, "{answer:?}");
            assert_eq!(answer.job.expect("a job").state(), State::Running, "{id}");
        }
        sleep(POLL_INTERVAL).await;
    }
}

/// Reports on jobs at a replica that is cut off, which makes them dirty there.
async fn report_volatile(client: &mut Client, ids: &[String]) {
    for id in ids {
        let reported = report(client, id).await;
        assert_eq!(reported.durability(), Durability::Volatile, "{reported:?}");
    }
}

/// The cut-off replica receives no more reports. It ends no job, whether or not it received a last report, and after
/// its return the version of the other replica wins.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_replica_ends_no_job_that_another_keeps_alive(
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
    #[values(Link::Cut, Link::Hole)] link: Link,
) {
    let site = Site::start(LONG_GRACE, rule.flags()).await;
    let mut clients = site.clients().await;
    let ids = rule.create(&mut clients[0], "live", JOBS).await;
    drop(Workers::start(&clients[0], &ids).await);
    let workers = Workers::start(&clients[1], &ids).await;
    let onlookers = [Onlooker::start(&clients[0]).await, Onlooker::start(&clients[1]).await];

    site.cut_off(0, link).await;
    report_volatile(&mut clients[0], &ids[..JOBS / 2]).await;
    assert_held_active(&mut clients[0], &ids).await;
    site.heal(0).await;
    workers.go_on().await;

    for client in &mut clients {
        assert_alive(client, rule, &workers.worked()).await;
    }
    workers.assert_none_refused();
    let [cut_off, serving] = onlookers;
    cut_off.assert_no_job_ended_by_time().await;
    serving.assert_no_worker_lost().await;
}

/// A job that has ended unknown to a replica does not expire there as an active one.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_replica_takes_no_durable_end_away(
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
    #[values(Link::Cut, Link::Hole)] link: Link,
) {
    let site = Site::start(LONG_GRACE, rule.flags()).await;
    let mut clients = site.clients().await;
    let ids = rule.create(&mut clients[0], "ending", JOBS).await;
    drop(Workers::start(&clients[0], &ids).await);

    site.cut_off(0, link).await;
    report_volatile(&mut clients[0], &ids[..JOBS / 2]).await;
    complete_all(&mut clients[1], &ids).await;
    for id in &ids {
        assert_eq!(read(&mut clients[1], id, 1).await.durability(), Durability::Durable);
    }
    assert_held_active(&mut clients[0], &ids).await;
    site.heal(0).await;

    for client in &mut clients {
        assert_completed(client, &ids).await;
    }
}

/// The workers report at the replica that is cut off, or complete their jobs there. The other one receives no reports
/// and waits for it: within the replica grace everything that it has acknowledged is kept.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn serving_replica_waits_for_what_a_cut_off_one_acknowledged(#[values(Rule::Lease, Rule::TtlActive)] rule: Rule) {
    let site = Site::start(LONG_GRACE, rule.flags()).await;
    let mut clients = site.clients().await;
    let live = rule.create(&mut clients[0], "live", JOBS).await;
    let ending = rule.create(&mut clients[0], "ending", JOBS / 2).await;
    let workers = Workers::start(&clients[0], &live).await;
    drop(Workers::start(&clients[0], &ending).await);
    let onlookers = [Onlooker::start(&clients[0]).await, Onlooker::start(&clients[1]).await];

    site.cut_off(0, Link::Cut).await;
    complete_all(&mut clients[0], &ending).await;
    sleep(OUTAGE).await;
    site.heal(0).await;
    workers.go_on().await;

    for client in &mut clients {
        assert_alive(client, rule, &workers.worked()).await;
        assert_completed(client, &ending).await;
    }
    workers.assert_none_refused();
    let [cut_off, serving] = onlookers;
    cut_off.assert_no_worker_lost().await;
    serving.assert_no_job_ended_by_time().await;
}

/// No other replica can know a job that Redis has never had, so its replica decides alone.
#[tokio::test(flavor = "multi_thread")]
async fn cut_off_replica_fails_its_own_jobs_with_their_workers() {
    let site = Site::start(SHORT_GRACE, &[]).await;
    let mut clients = site.clients().await;
    site.cut_off(0, Link::Cut).await;
    let ids = Rule::Lease.create(&mut clients[0], "own", JOBS).await;
    let reported = Instant::now();
    for id in &ids {
        report(&mut clients[0], id).await;
    }
    let volatile = |job: &Job| assert_eq!(job.durability(), Durability::Volatile, "{job:?}");
    until_failed(&mut clients[0], &ids, reported, LEASE + FAILED_WITHIN).await.iter().for_each(volatile);
    site.heal(0).await;
    for client in &mut clients {
        until_failed(client, &ids, reported, LEASE + FAILED_WITHIN).await;
    }
}
