//! The records of beats. The tests write the past into Redis instead of waiting for it.

use std::time::Duration;

use jobtrack::{domain::Timestamp, store::PrimaryStore};
use redis::from_redis_value;
use rstest::rstest;
use tokio::time::sleep;
use tonic_health::ServingStatus::Serving;

use super::{Beat, Bench, HOUR, PARTITION};
use crate::support::{
    create,
    jobs::at,
    records::key_of,
    redis::Redis,
    replicas::{Health, in_time, server_on},
};

/// A condition that the next beat finds.
#[derive(Clone, Copy, Debug)]
enum Found {
    Nothing,
    AnotherServerProcess,
    OldBeat,
    NoBeat,
    BeatOfTheFuture,
    HearsSinceTheFuture,
}

/// Time in which no worker could report does not count, and a restart may have lost reports.
#[rstest]
#[case::nothing(Found::Nothing, false, false)]
#[case::restart(Found::AnotherServerProcess, true, true)]
#[case::silence(Found::OldBeat, true, false)]
#[case::loss_of_the_last_beat(Found::NoBeat, true, false)]
#[case::clock_set_back(Found::BeatOfTheFuture, true, false)]
#[case::clock_set_back_since(Found::HearsSinceTheFuture, true, false)]
#[tokio::test]
async fn beat_notes_since_when_workers_are_heard(#[case] found: Found, #[case] anew: bool, #[case] is_loss: bool) {
    let bench = Bench::start().await;
    let key = bench.beat_key();
    let before = bench.beat().await;
    let history = bench.store.history(PARTITION);
    match found {
        Found::Nothing => {}
        Found::AnotherServerProcess => _ = bench.ask::<i64>(&["HSET", &key, "run", "another"]).await,
        Found::OldBeat => bench.set_ago(&key, "last", 10).await,
        Found::NoBeat => _ = bench.ask::<i64>(&["HDEL", &key, "last"]).await,
        Found::BeatOfTheFuture => bench.set_ago(&key, "last", -HOUR).await,
        Found::HearsSinceTheFuture => bench.set_ago(&key, "heard_since", -HOUR).await,
    }
    let after = bench.beat().await;
    if anew {
        assert!(after.is_now("heard_since"), "{found:?}: {:?}", after.fields);
    } else {
        assert_eq!(after.heard_since(), before.heard_since(), "{found:?}");
    }
    assert_eq!(bench.presence.heard_since(PARTITION).as_micros(), after.heard_since(), "{found:?}");
    assert!(after.is_now("last"), "{found:?}: {:?}", after.fields);
    assert_eq!(after.fields["lineage"] != before.fields["lineage"], is_loss, "{found:?}");
    assert_eq!(after.fields["run"], before.fields["run"], "{found:?}");
    let is_continued = history.is_continued_by(&bench.store.history(PARTITION));
    assert_eq!(is_continued, !is_loss, "{found:?}");
}

/// A replica that does not serve receives no reports.
#[tokio::test]
async fn beat_of_a_replica_that_does_not_serve_is_no_sign_that_workers_are_heard() {
    let bench = Bench::start().await;
    bench.beat().await;
    bench.presence.set_serving(PARTITION, false);
    bench.set_ago(&bench.beat_key(), "last", 2).await;
    let silent = bench.beat().await;
    assert!(!silent.is_now("last"), "{:?}", silent.fields);
    bench.presence.set_serving(PARTITION, true);
    assert!(bench.beat().await.is_now("last"));
}

/// The mark of a replica is the time up to which Redis has everything that the replica acknowledged. A beat can't vouch
/// for its own time: Redis may lack a change that is acknowledged during the beat.
#[tokio::test]
async fn mark_is_the_time_of_the_last_beat_before_anything_was_dirty() {
    let bench = Bench::start().await;
    let first = bench.beat().await;
    let second = bench.beat().await;
    let (_, mark) = second.mark().expect("it serves");
    assert!((first.begun..=first.ended).contains(&mark), "{:?}", second.fields);

    bench.presence.begin_dirty(PARTITION);
    bench.presence.set_dirty_jobs(PARTITION, 1);
    bench.beat().await;
    let (_, dirty) = bench.beat().await.mark().expect("it serves");
    assert!((second.begun..=second.ended).contains(&dirty), "{mark}, {dirty}");
    bench.presence.set_dirty_jobs(PARTITION, 0);
    let (_, clean) = bench.beat().await.mark().expect("it serves");
    assert!(clean > dirty);

    bench.presence.set_serving(PARTITION, false);
    bench.beat().await;
    let (_, away) = bench.beat().await.mark().expect("it stays for as long as the bound");
    assert_eq!(away, clean, "a replica that does not serve says that Redis has all that it acknowledged");
}

/// Marks that arrive out of order, or after the clock was set back, do not lower the correct one.
#[tokio::test]
async fn mark_is_only_raised_and_never_in_the_future() {
    let bench = Bench::start().await;
    bench.beat().await;
    let key = bench.beat_key();
    let beat = bench.beat().await;
    let name = beat.mark().expect("it serves").0.to_owned();

    bench.set_ago(&key, &name, 0).await;
    let raised: i64 = bench.ask(&["HGET", &key, &name]).await;
    assert_eq!(bench.beat().await.mark(), Some((&*name, raised)), "the mark is lowered");

    bench.set_ago(&key, &name, -HOUR).await;
    let (_, mark) = (bench.beat().await.mark()).map(|(name, mark)| (name.to_owned(), mark)).expect("it serves");
    assert!(mark <= bench.now().await, "a mark of the future stays");

    // The clock of Redis was set back since the last beat.
    bench.presence.beat_answered(PARTITION, Timestamp::from_micros(bench.now().await + HOUR * 1_000_000), at(0));
    let (_, mark) = bench.beat().await.mark().expect("it is there");
    assert!(mark <= bench.now().await, "a mark of the future is noted");
}

/// Decisions do not wait for a replica that stopped with everything stored; they wait for a while for one that
/// disappeared.
#[tokio::test]
async fn marks_of_replicas_that_stopped_or_are_long_gone_are_removed() {
    let bench = Bench::start().await;
    bench.beat().await;
    bench.set_ago(&bench.beat_key(), "mark:gone", HOUR).await;
    bench.set_ago(&bench.beat_key(), "mark:late", 30).await;
    let beat = bench.beat().await;
    assert!(!beat.fields.contains_key("mark:gone") && beat.fields.contains_key("mark:late"), "{:?}", beat.fields);
    let _: i64 = bench.ask(&["HDEL", &bench.beat_key(), "mark:late"]).await;
    assert!(bench.beat().await.mark().is_some());
    bench.presence.set_serving(PARTITION, false);
    bench.store.leave(PARTITION).await.expect("Redis answers");
    assert_eq!(bench.beat().await.mark(), None);
}

/// A replica is registered as long as it sends beats, even while it does not serve, and for a while after its last
/// beat.
#[tokio::test]
async fn replicas_that_stopped_or_are_long_gone_are_not_registered() {
    let bench = Bench::start().await;
    let registered = |beat: &Beat| -> Vec<String> {
        let mut names: Vec<_> = beat.fields.keys().filter_map(|name| name.strip_prefix("about:")).collect();
        names.sort_unstable();
        names.into_iter().map(str::to_owned).collect()
    };
    bench.presence.set_serving(PARTITION, false);
    assert!(registered(&bench.beat().await).is_empty(), "it does not serve yet");
    bench.presence.set_serving(PARTITION, true);
    let own = registered(&bench.beat().await);
    assert_eq!(own.len(), 1);
    for (name, ago) in [("gone", HOUR), ("future", -HOUR), ("late", 30), (&own[0], HOUR)] {
        let about = format!("{} 1 9.9.9", bench.now().await - ago * 1_000_000);
        let _: i64 = bench.ask(&["HSET", &bench.beat_key(), &format!("about:{name}"), &about]).await;
    }
    bench.presence.set_serving(PARTITION, false);
    let mut expected = vec!["late".to_owned(), own[0].clone()];
    expected.sort_unstable();
    assert_eq!(registered(&bench.beat().await), expected);
    bench.store.leave(PARTITION).await.expect("Redis answers");
    assert_eq!(registered(&bench.beat().await), ["late"]);
}

/// A loss that one replica notices is known to all others.
#[tokio::test(flavor = "multi_thread")]
async fn count_of_commits_that_has_fallen_begins_another_lineage() {
    let redis = Redis::start().await;
    let server = server_on(&redis).await;
    create(&mut server.client().await, "a").await;
    let key = key_of(&redis, "a").await;
    let partition = key.split(':').nth(1).expect("a partition");
    let beat = format!("jobs:{partition}:beat");
    let lineage =
        async || from_redis_value::<Option<String>>(redis.command(&["HGET", &beat, "lineage"]).await).expect("a name");
    let before = lineage().await;
    assert!(before.is_some(), "the replica serves, so it has beaten");
    // All commits were received when the counter is lower than that.
    let is_told = async {
        while lineage().await == before {
            redis.command(&["SET", &format!("jobs:{partition}:commits"), "0"]).await;
            sleep(Duration::from_millis(50)).await;
        }
    };
    in_time("another lineage", is_told).await;
    Health::watch(&server, "redis").await.until(Serving).await;
    server.stop().await;
}
