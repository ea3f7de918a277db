//! The log and the metrics give the reason for which Redis is unavailable.

use redis::Client;
use rstest::rstest;

use crate::support::{
    http::Scrape,
    process::Process,
    redis::{Redis, as_user, ask},
};

/// A password that must not be shown.
const SECRET: &str = "s3cret-Pa55";

/// Starts a Redis whose user `tracker` has a password, while the default user has none.
async fn redis_with_user() -> Redis {
    let redis = Redis::with(&["--lua-time-limit", "50"]).await;
    redis.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]).await;
    redis
}

/// Starts a process with metrics that serves from this Redis.
async fn serving(url: &str) -> Process {
    let process = Process::start(&["--redis-url", url, "--http-listen", "127.0.0.1:0"]);
    process.logged(&["INFO", "Redis serves"]).await;
    process
}

/// Waits until the log has this reason with these words, and the metrics have the reason.
async fn assert_told(process: &Process, reason: &str, words: &[&str]) {
    let field = format!("reason={reason} ");
    process.logged(&[&["WARN", "Redis is unavailable", &field], words].concat()).await;
    let series = format!("jobtrack_redis_command_failures_total{{reason=\"{reason}\"}}");
    Scrape::until(process.http(), reason, |scrape| scrape.count(&series) > 0).await;
}

#[rstest]
#[case::oom(&["CONFIG", "SET", "maxmemory", "1"], "OOM", &["maxmemory"])]
#[case::no_replicas(&["CONFIG", "SET", "min-replicas-to-write", "1"], "NOREPLICAS", &["replicas"])]
#[case::read_only(&["REPLICAOF", "127.0.0.1", "1"], "READONLY", &["replica"])]
#[case::no_perm(&["ACL", "SETUSER", "tracker", "-evalsha"], "NOPERM", &["command=\"evalsha\""])]
#[case::no_perm_in_a_script(&["ACL", "SETUSER", "tracker", "-hset"], "NOPERM", &["script"])]
#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_keeps_the_name_that_redis_gives_it(
    #[case] cause: &[&str],
    #[case] reason: &str,
    #[case] words: &[&str],
) {
    let redis = redis_with_user().await;
    let process = serving(&as_user(&redis.url(), "tracker", SECRET)).await;
    redis.command(cause).await;
    assert_told(&process, reason, words).await;
    let log = process.log();
    assert_eq!(log.matches("Redis serves").count(), 1, "it does not seem to serve in between: {log}");
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_no_longer_count_are_the_reason() {
    let redis = redis_with_user().await;
    let (with, without) = (serving(&as_user(&redis.url(), "tracker", SECRET)).await, serving(&redis.url()).await);
    redis.command(&["ACL", "SETUSER", "tracker", "resetpass", ">another"]).await;
    redis.command(&["CONFIG", "SET", "requirepass", SECRET]).await;
    let client = Client::open(as_user(&redis.url(), "default", SECRET)).expect("a valid address");
    ask(&client, &["CLIENT", "KILL", "TYPE", "normal"]).await.expect("connections are closed");
    ask(&client, &["CLIENT", "KILL", "TYPE", "pubsub"]).await.expect("connections are closed");
    assert_told(&with, "WRONGPASS", &[]).await;
    assert_told(&without, "NOAUTH", &["Authentication required"]).await;
    assert!(!with.log().contains(SECRET), "{}", with.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_redis_is_the_reason() {
    let redis = redis_with_user().await;
    let process = serving(&as_user(&redis.url(), "tracker", SECRET)).await;
    let busy = redis.try_command(&["EVAL", "while true do end", "0"]);
    let killed = async {
        assert_told(&process, "BUSY", &[]).await;
        redis.command(&["SCRIPT", "KILL"]).await;
    };
    let (ended, ()) = tokio::join!(busy, killed);
    ended.expect_err("it never ends by itself");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reason_that_changes_is_logged_again() {
    let mut redis = redis_with_user().await;
    let process = serving(&as_user(&redis.url(), "tracker", SECRET)).await;
    redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    assert_told(&process, "OOM", &[]).await;
    redis.signal("STOP");
    assert_told(&process, "timeout", &["seconds="]).await;
    redis.kill();
    assert_told(&process, "refused", &["Connection refused"]).await;
    assert_eq!(process.log().matches("Redis serves").count(), 1, "{}", process.log());
    redis.restart().await;
    assert_told(&process, "WRONGPASS", &[]).await;
    redis.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]).await;
    process.logged(&["INFO", "Redis serves", "unavailable_seconds="]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_redis_gives_the_reason() {
    let mut redis = redis_with_user().await;
    redis.kill();
    let process = Process::start(&["--redis-url", &redis.url()]);
    process.logged(&["WARN", "starting without it", "reason=refused ", "Connection refused"]).await;
}
