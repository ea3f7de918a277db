//! Outages and restarts that exceed the leases of jobs whose workers report as often as they can.

use std::time::Duration;

use rstest::rstest;
use tokio::time::sleep;

use super::{
    HEAD_START, LONG_GRACE, OUTAGE, REDIS_FLAGS, Rule, Site, assert_alive, assert_completed, complete_all, flags,
    onlooker::Onlooker, workers::Workers,
};
use crate::support::{
    process::Process,
    reason,
    redis::Redis,
    relay::Link,
    replicas::{degraded, whole},
};

/// Number of jobs with active workers.
const LIVE_JOBS: usize = 12;

/// Number of jobs that end in the outage.
const ENDING_JOBS: usize = 4;

/// The data of Redis after the outage.
#[derive(Clone, Copy, Debug)]
enum Back {
    WithItsData,
    Empty,
    /// It has the jobs without the reports since.
    FromAnOldCopy,
}

/// The first replica to reach Redis again: the one that the workers report to, or the other one.
#[derive(Clone, Copy, Debug)]
enum First {
    Hearing = 0,
    Other = 1,
}

/// The workers report at one replica all the time, and all their reports are acknowledged. Whichever replica reaches
/// Redis first, and whatever data Redis has, acknowledged reports are kept.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn outage_longer_than_leases_harms_no_job_that_was_heard(
    #[values(Back::WithItsData, Back::Empty, Back::FromAnOldCopy)] back: Back,
    #[values(First::Other, First::Hearing)] first: First,
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
) {
    let mut site = Site::start(LONG_GRACE, rule.flags()).await;
    let mut clients = site.clients().await;
    let live = rule.create(&mut clients[0], "live", LIVE_JOBS).await;
    let ending = rule.create(&mut clients[0], "ending", ENDING_JOBS).await;
    let onlookers = [Onlooker::start(&clients[0]).await, Onlooker::start(&clients[1]).await];
    let workers = Workers::start(&clients[0], &live).await;
    let last_reports = Workers::start(&clients[0], &ending).await;
    site.redis.save_aside();
    workers.go_on().await;

    site.lose_redis().await;
    drop(last_reports);
    complete_all(&mut clients[0], &ending).await;
    sleep(OUTAGE).await;
    workers.assert_none_refused();
    let (first, held) = (first as usize, 1 - first as usize);
    site.link(held, Link::Cut);
    match back {
        Back::WithItsData => site.redis.restart().await,
        Back::Empty => site.redis.restart_empty().await,
        Back::FromAnOldCopy => site.redis.restart_from_aside().await,
    }
    whole(&site.replicas[first]).await;
    sleep(HEAD_START).await;
    site.heal(held).await;

    workers.go_on().await;
    for client in &mut clients {
        assert_alive(client, rule, &workers.worked()).await;
        assert_completed(client, &ending).await;
    }
    workers.assert_none_refused();
    let [hearing, other] = onlookers;
    hearing.assert_no_worker_lost().await;
    other.assert_no_job_ended_by_time().await;
}

/// The time after an outage without decisions ends, too. Reports to either replica count then.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn jobs_that_are_heard_outlive_the_grace_after_an_outage(#[values(Rule::Lease, Rule::TtlActive)] rule: Rule) {
    const GRACE_IS_OVER: Duration = Duration::from_secs(15);
    let mut site = Site::start("10s", rule.flags()).await;
    let mut clients = site.clients().await;
    let mut workers = Vec::new();
    for (client, name) in clients.iter_mut().zip(["a", "b"]) {
        let ids = rule.create(client, name, LIVE_JOBS / 2).await;
        workers.push(Workers::start(client, &ids).await);
    }
    site.lose_redis().await;
    sleep(OUTAGE).await;
    site.redis.restart().await;
    for replica in &site.replicas {
        whole(replica).await;
    }
    sleep(GRACE_IS_OVER).await;
    for workers in workers {
        workers.go_on().await;
        for client in &mut clients {
            assert_alive(client, rule, &workers.worked()).await;
        }
        workers.assert_none_refused();
    }
}

/// The way in which the only replica goes down.
#[derive(Clone, Copy, Debug)]
enum Down {
    Killed,
    Stopped,
    /// Killed together with Redis, which is back first.
    KilledWithRedis,
}

/// No worker can report while the only replica is down. The workers retry a moment after its return.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn downtime_longer_than_leases_harms_no_job(
    #[values(Down::Killed, Down::Stopped, Down::KilledWithRedis)] down: Down,
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
) {
    let mut redis = Redis::with(&REDIS_FLAGS).await;
    let url = redis.url();
    let flags = flags(&url, LONG_GRACE, rule.flags());
    let replica = Process::start(&flags);
    let mut client = replica.client().await;
    let ids = rule.create(&mut client, "live", LIVE_JOBS).await;
    drop(Workers::start(&client, &ids).await);

    replica.signal(if matches!(down, Down::Stopped) { "TERM" } else { "KILL" });
    replica.wait();
    if matches!(down, Down::KilledWithRedis) {
        redis.restart().await;
    }
    sleep(OUTAGE).await;
    let replica = Process::start(&flags);
    assert_workers_continue(&replica, rule, &ids).await;
}

/// Fails unless workers that retry a moment after the start of a process find their jobs unchanged.
async fn assert_workers_continue(process: &Process, rule: Rule, ids: &[String]) {
    let mut client = process.client().await;
    let onlooker = Onlooker::start(&client).await;
    sleep(HEAD_START).await;

    let workers = Workers::start(&client, ids).await;
    assert_alive(&mut client, rule, &workers.worked()).await;
    workers.assert_none_refused();
    onlooker.assert_no_job_ended_by_time().await;
}

/// No worker can report while the only process is paused. The workers retry shortly after it continues.
#[rstest]
#[case::lease(Rule::Lease)]
#[tokio::test(flavor = "multi_thread")]
async fn pause_of_the_only_process_harms_no_job(#[case] rule: Rule) {
    let process = Process::start(rule.flags());
    let mut client = process.client().await;
    let ids = rule.create(&mut client, "live", LIVE_JOBS).await;
    drop(Workers::start(&client, &ids).await);

    process.signal("STOP");
    sleep(OUTAGE).await;
    process.signal("CONT");
    assert_workers_continue(&process, rule, &ids).await;
}

/// No worker can report while Redis is unavailable if changes are rejected then.
#[rstest]
#[tokio::test(flavor = "multi_thread")]
async fn outage_longer_than_leases_harms_no_job_where_reports_are_refused(
    #[values(Rule::Lease, Rule::TtlActive)] rule: Rule,
) {
    let mut redis = Redis::with(&REDIS_FLAGS).await;
    let url = redis.url();
    let flags = [&flags(&url, LONG_GRACE, rule.flags())[..], &["--fallback", "reject"]].concat();
    let replica = Process::start(&flags);
    let mut client = replica.client().await;
    let ids = rule.create(&mut client, "live", LIVE_JOBS).await;
    let onlooker = Onlooker::start(&client).await;
    let workers = Workers::start(&client, &ids).await;

    redis.kill();
    degraded(&replica).await;
    sleep(OUTAGE).await;
    redis.restart().await;
    whole(&replica).await;
    workers.go_on().await;

    assert_alive(&mut client, rule, &workers.worked()).await;
    for worked in workers.worked() {
        assert!(!worked.refused.is_empty(), "Redis was away: {worked:?}");
        let others: Vec<_> = worked.refused.iter().filter(|status| reason(status) != "STORE_UNAVAILABLE").collect();
        assert!(others.is_empty(), "{}: {others:?}", worked.id);
    }
    onlooker.assert_no_job_ended_by_time().await;
}
