//! The support for stepped wall clocks: steps reach the processes, and affect only their wall clocks.

use std::time::{Duration, Instant, SystemTime};

use tokio::{join, time::sleep};

use crate::support::{
    create,
    faketime::WallClock,
    process::Process,
    reason,
    redis::Redis,
    replicas::{in_time, read},
};

const HOUR: i64 = 3600;

/// The time into a wait of one second at which the clock is stepped.
const STEP_AFTER: Duration = Duration::from_millis(500);

/// The time between two reads of a timer.
const POLL_INTERVAL: Duration = Duration::from_millis(200);

/// The maximum difference of two reads of the same clock.
const TOLERANCE: Duration = Duration::from_secs(60);

/// Returns the seconds by which a time differs from the present.
fn off(time: SystemTime) -> i64 {
    let now = SystemTime::now();
    let seconds = |time: Duration| i64::try_from(time.as_secs()).expect("not that far");
    time.duration_since(now).map_or_else(|behind| -seconds(behind.duration()), seconds)
}

/// Fails unless a time differs from the present by this number of seconds.
#[track_caller]
fn assert_off(time: SystemTime, by: i64) {
    assert!(off(time).abs_diff(by) < TOLERANCE.as_secs(), "{} s off and not {by}", off(time));
}

/// A call that waits for a second uses the steady clock.
#[tokio::test(flavor = "multi_thread")]
async fn steps_reach_a_server_and_leave_its_steady_clock_alone() {
    let clock = WallClock::new();
    let process = Process::by_clock(&clock, &["--log-format", "json"]);
    let mut client = process.client().await;
    create(&mut client, "a").await;
    for off in [HOUR, -HOUR] {
        let begun = Instant::now();
        let mut request = read("a");
        request.min_revision = Some(2);
        let step = async {
            sleep(STEP_AFTER).await;
            clock.set_off(off);
        };
        let (answer, ()) = join!(in_time("an answer", client.get_job(request)), step);
        assert_eq!(reason(&answer.expect_err("there is no such revision")), "REVISION_NOT_REACHED");
        assert!(begun.elapsed() > STEP_AFTER + STEP_AFTER / 2, "{:?}", begun.elapsed());
    }
    process.signal("TERM");
    let (_, log) = process.wait();
    let times: Vec<_> = log.lines().map(logged_at).collect();
    assert_off(times[0], 0);
    assert_off(times[times.len() - 1], -HOUR);
}

/// Returns the time of a JSON log line.
fn logged_at(line: &str) -> SystemTime {
    let line: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    humantime::parse_rfc3339(line["timestamp"].as_str().expect("a time")).expect("a time")
}

/// Redis runs its timers by the steady clock. One of them counts in `lru_clock`.
#[tokio::test(flavor = "multi_thread")]
async fn steps_reach_redis_and_leave_its_steady_clock_alone() {
    let clock = WallClock::new();
    let redis = Redis::with_clock(&clock, &[]).await;
    for off in [0, HOUR, -HOUR, 0] {
        let before = redis_timer(&redis).await;
        clock.set_off(off);
        for words in [&["TIME"][..], &["EVAL", "return redis.call('TIME')", "0"]] {
            let (seconds, _): (u64, u64) = redis::from_redis_value(redis.command(words).await).expect("a time");
            assert_off(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds), off);
        }
        let counts = async {
            while redis_timer(&redis).await == before {
                sleep(POLL_INTERVAL).await;
            }
        };
        in_time("a turn of Redis's timer", counts).await;
    }
}

/// Returns the state of a timer of Redis that counts seconds.
async fn redis_timer(redis: &Redis) -> String {
    let info = redis.info("server").await;
    info.lines().find(|line| line.starts_with("lru_clock:")).expect("it is told").to_owned()
}
