//! The conditions of a time-driven decision. The tests write the past into Redis instead of waiting for it.

use std::{sync::Arc, time::Duration};

use jobtrack::{
    domain::{Change, Timestamp},
    proto::v1::{Durability, GetJobRequest, GetStatsRequest},
    store::{Decided, Decision, JobStore},
};
use redis::from_redis_value;
use rstest::rstest;
use tokio::time::sleep;
use tonic_health::ServingStatus::{NotServing, Serving};

use super::{Bench, HOUR, PARTITION};
use crate::support::{
    Server, create,
    jobs::{apply, at, cancel, heartbeat, success},
    records::key_of,
    redis::Redis,
    relay::{Link, Relay},
    replicas::{Health, in_time, server_on},
    watching::{self, report},
};

/// Times in seconds before the present; negative times are in the future.
#[derive(Clone, Copy, Debug)]
struct Past {
    heard: i64,
    heard_since: i64,
    last: i64,
    mark: Option<i64>,
}

/// No report of a worker for long, although it could have reported.
const SILENT: Past = Past { heard: HOUR, heard_since: HOUR, last: 0, mark: None };

/// A decision about a job with a lease of this many seconds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Due {
    /// The job fails.
    Final(u64),
    /// The worker counts as lost until it reports again.
    Lost(u64),
}

#[rstest]
#[case::lease_is_over(Due::Final(30), SILENT, true)]
#[case::lease_is_just_over(Due::Final(30), Past { heard: 40, ..SILENT }, true)]
#[case::heard_within_the_lease(Due::Final(30), Past { heard: 20, ..SILENT }, false)]
#[case::heard_in_the_future(Due::Final(30), Past { heard: -HOUR, ..SILENT }, false)]
#[case::hears_within_the_lease(Due::Final(30), Past { heard_since: 20, ..SILENT }, false)]
#[case::hears_within_the_bound(Due::Final(30), Past { heard_since: 40, ..SILENT }, false)]
#[case::hears_longer_than_the_bound(Due::Final(30), Past { heard_since: 70, ..SILENT }, true)]
#[case::nobody_serves(Due::Final(30), Past { last: 10, ..SILENT }, false)]
#[case::beat_of_the_future(Due::Final(30), Past { last: -HOUR, ..SILENT }, false)]
#[case::one_is_away_since_the_lease_ran(Due::Final(30), Past { heard: 40, mark: Some(20), ..SILENT }, false)]
#[case::all_is_there_since_the_lease_was_over(Due::Final(30), Past { heard: 40, mark: Some(2), ..SILENT }, true)]
#[case::one_is_away_for_longer_than_promised(Due::Final(30), Past { heard: 200, mark: Some(190), ..SILENT }, true)]
#[case::mark_of_the_future(Due::Final(30), Past { mark: Some(-HOUR), ..SILENT }, false)]
#[case::short_lease(Due::Final(1), Past { heard: 2, ..SILENT }, false)]
#[case::short_lease_and_some_beats(Due::Final(1), Past { heard: 7, ..SILENT }, true)]
#[case::loss_in_the_lease(Due::Lost(30), Past { heard: 20, ..SILENT }, false)]
#[case::loss_that_could_not_be_heard(Due::Lost(30), Past { heard_since: 20, ..SILENT }, false)]
#[case::loss_where_nobody_serves(Due::Lost(30), Past { last: 10, ..SILENT }, false)]
#[case::loss_does_not_wait_for_the_bound(Due::Lost(30), Past { heard_since: 40, ..SILENT }, true)]
#[case::loss_does_not_wait_for_replicas(Due::Lost(30), Past { heard: 40, mark: Some(20), ..SILENT }, true)]
#[case::loss_does_not_wait_for_a_mark_of_the_future(Due::Lost(30), Past { mark: Some(-HOUR), ..SILENT }, true)]
#[tokio::test]
async fn decision_waits_until_no_report_can_be_missing(#[case] due: Due, #[case] past: Past, #[case] taken: bool) {
    let bench = Bench::start().await;
    let (Due::Final(lease) | Due::Lost(lease)) = due;
    let job = bench.run(Duration::from_secs(lease), due == Due::Final(lease)).await;
    let (beat, record) = (bench.beat_key(), bench.job_key(&job));
    bench.set_ago(&record, "heard", past.heard).await;
    bench.set_ago(&beat, "heard_since", past.heard_since).await;
    if let Some(mark) = past.mark {
        bench.set_ago(&beat, "mark:another", mark).await;
    }
    bench.set_ago(&beat, "last", past.last).await;
    match bench.lose_worker(&job).await {
        Decided::Stored(stored) => assert!(taken, "{due:?}, {past:?}: it comes too early: {stored:?}"),
        Decided::Deferred => assert!(!taken, "{due:?}, {past:?}: it does not come"),
        Decided::Conflict => panic!("{due:?}, {past:?}: nobody else changes the job"),
    }
    let there = bench.store.get(&job.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!(there.version.revision, job.version.revision + i64::from(taken), "{due:?}, {past:?}");
    let now = Timestamp::from_micros(bench.now().await);
    assert!(there.heard.is_some_and(|heard| heard <= now), "a moment of the future stays: {there:?}");
}

/// A lease runs from the last report, and from no other change.
#[tokio::test]
async fn report_is_heard_when_it_is_stored_and_other_changes_are_not() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(30), true).await;
    let before = Timestamp::from_micros(bench.now().await);
    assert!(running.heard.is_some_and(|heard| heard <= before), "{running:?}");
    let reported = bench.put(&apply(&running, &heartbeat(), 2), Some(&running)).await;
    let after = Timestamp::from_micros(bench.now().await);
    assert!(reported.heard.is_some_and(|heard| (before..=after).contains(&heard)), "{reported:?}");
    let asked = bench.put(&apply(&reported, &cancel(false), 3), Some(&reported)).await;
    assert_eq!(asked.heard, reported.heard, "nobody reported");
    for job in [&reported, &asked] {
        assert_eq!(job.since, running.since, "the id is taken since its creation");
    }
    let there = bench.store.get(&asked.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!((there.heard, there.since), (asked.heard, asked.since));
}

/// The times of a job that Redis has lost are restored: an incarnation that took the id in the meantime came later.
#[tokio::test]
async fn job_that_is_put_back_has_the_id_since_it_had_it_first() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(30), true).await;
    let ended = bench.put(&apply(&running, &success(), 2), Some(&running)).await;
    assert!(ended.since.is_some() && ended.durable_time.is_some(), "{ended:?}");
    let _: i64 = bench.ask(&["DEL", &bench.job_key(&ended)]).await;
    let back = bench.put(&ended, None).await;
    assert_eq!((back.since, back.durable_time), (ended.since, ended.durable_time));
    let there = bench.store.get(&ended.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!((there.since, there.durable_time), (ended.since, ended.durable_time));
}

/// A report at a replica that was cut off loses to a later change elsewhere. Its worker was alive nevertheless, and the
/// lease runs from when Redis learns of the report.
#[rstest]
#[case::redis_has_the_higher_revision(true)]
#[case::both_have_the_same_revision(false)]
#[tokio::test(flavor = "multi_thread")]
async fn report_that_loses_a_merge_counts_as_heard(#[case] is_higher: bool) {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let (cut_off, serving) = (Server::with(&["--redis-url", &relay.url()]).await, server_on(&redis).await);
    let (mut client, mut elsewhere) = (cut_off.client().await, serving.client().await);
    create(&mut client, "a").await;
    report(&mut client, "a").await;
    let key = key_of(&redis, "a").await;
    let heard = async || from_redis_value::<i64>(redis.command(&["HGET", &key, "heard"]).await).expect("a time");

    relay.set_all(Link::Cut);
    Health::watch(&cut_off, "redis").await.until(NotServing).await;
    // With a higher revision in Redis, only the report of the worker is recorded.
    if is_higher {
        report(&mut elsewhere, "a").await;
    }
    let reported = report(&mut client, "a").await;
    assert_eq!(reported.durability(), Durability::Volatile, "{reported:?}");
    let asked = watching::cancel(&mut elsewhere, "a", false).await;
    let before = heard().await;
    relay.set_all(Link::Pass);
    Health::watch(&cut_off, "redis").await.until(Serving).await;
    let request =
        GetJobRequest { job_id: "a".to_owned(), min_revision: Some(asked.revision), ..GetJobRequest::default() };
    let mut admin = cut_off.admin().await;
    let is_clean = async {
        while admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner().dirty_jobs > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    };
    in_time("a merge", is_clean).await;
    let there = client.get_job(request).await.expect("it is there").into_inner().job.expect("a job");
    assert!(there.cancel.is_some() && there.worker == asked.worker, "the later change stands: {there:?}");
    assert!(heard().await > before, "the report was not heard");
    cut_off.stop().await;
    serving.stop().await;
}

#[rstest]
#[case::is_final(true)]
#[case::is_a_loss(false)]
#[tokio::test]
async fn decision_about_another_version_is_a_conflict(#[case] fail_when_lost: bool) {
    let bench = Bench::start().await;
    let job = bench.run(Duration::from_secs(1), fail_when_lost).await;
    let ended = bench.put(&apply(&job, &success(), 2), Some(&job)).await;
    let (beat, record) = (bench.beat_key(), bench.job_key(&job));
    bench.set_ago(&record, "heard", HOUR).await;
    bench.set_ago(&beat, "heard_since", HOUR).await;
    bench.set_ago(&beat, "last", 0).await;
    let decided = bench.lose_worker(&job).await;
    assert!(matches!(decided, Decided::Conflict), "{decided:?}");
    let there = bench.store.get(&job.id).await.expect("Redis answers").expect("it is there").job;
    assert_eq!(there.version, ended.version);
}

/// A caller may ask whether a worker is lost without delaying the decision.
#[tokio::test]
async fn decision_that_is_only_asked_for_postpones_nothing() {
    let bench = Bench::start().await;
    let running = bench.run(Duration::from_secs(60), false).await;
    bench.beat().await;
    let key = format!("{}s:{{{PARTITION}}}:lease", bench.prefix);
    let score = async || bench.ask::<String>(&["ZSCORE", &key, running.id.as_str()]).await;
    let before = score().await;
    let lost = Arc::new(apply(&running, &Change::LoseWorker, 2));
    let deadline = running.silence_deadline().expect("it runs under a lease");
    for (is_due, stays) in [(false, true), (true, false)] {
        let decision = Decision { deadline, is_revertible: false, is_due, now: at(2) };
        let decided = bench.store.decide(lost.clone(), &running, decision).await.expect("Redis answers");
        assert!(matches!(decided, Decided::Deferred), "{decided:?}");
        assert_eq!(score().await == before, stays);
    }
}

/// A replica is cut off, the worker stops, and a beat of the replica that serves comes so late that nobody knows
/// whether workers could report. The decision waits as after an outage, and then it is made.
#[tokio::test]
async fn stopped_worker_is_noticed_although_a_beat_came_late() {
    let bench = Bench::start().await;
    let job = bench.run(Duration::from_secs(30), true).await;
    let (beat, record) = (bench.beat_key(), bench.job_key(&job));
    bench.beat().await;
    bench.set_ago(&record, "heard", 200).await;
    bench.set_ago(&beat, "heard_since", HOUR).await;
    bench.set_ago(&beat, "mark:cut_off", 199).await;
    bench.set_ago(&beat, "last", 10).await;
    bench.beat().await;
    let decided = bench.lose_worker(&job).await;
    assert!(matches!(decided, Decided::Deferred), "{decided:?}");

    // The same a moment after the lease and the bound, with beats in time.
    bench.set_ago(&beat, "heard_since", 70).await;
    bench.beat().await;
    let decided = bench.lose_worker(&job).await;
    assert!(matches!(decided, Decided::Stored(_)), "{decided:?}");
}
