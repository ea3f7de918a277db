//! Rights of the Redis user: missing ones are reported, and the reported ones are sufficient.

use redis::Value;
use rstest::rstest;

use super::{SECRET, fails};
use crate::support::{
    Server,
    process::command,
    redis::{Cluster, Redis, Sentinel, as_user, shared_redis},
    replicas::use_everything,
};

/// Returns the rights that the message asks for, as arguments of `ACL SETUSER`.
async fn rights() -> Vec<String> {
    let redis = Redis::start().await;
    let message = refusal(&redis, &["~*", "&*", "+@all", "-@write"], &[]).await;
    let (_, rights) = message.split_once("it needs ").expect("it says what is needed");
    let rights = rights.split_once(" (").map_or(rights, |(rights, _)| rights);
    rights.split_whitespace().map(str::to_owned).collect()
}

/// Returns the command that creates the user.
fn user<'a>(password: &'a str, rights: &[&'a str]) -> Vec<&'a str> {
    [&["ACL", "SETUSER", "tracker", "reset", "on", password][..], rights].concat()
}

/// Returns the error of a server whose user has only these rights.
async fn refusal(redis: &Redis, rights: &[&str], words: &[&str]) -> String {
    let password = format!(">{SECRET}");
    redis.command(&user(&password, rights)).await;
    fails(command(&["--redis-url", &as_user(&redis.url(), "tracker", SECRET)]), 1, words).await
}

#[rstest]
#[case::write(&["-@write"], &["+@write"])]
#[case::publish(&["-publish"], &["+@pubsub"])]
#[case::subscribe(&["-subscribe"], &["subscribe", "+@pubsub"])]
#[case::script(&["-@scripting"], &["evalsha", "+@scripting"])]
#[case::time(&["-time"], &["time", "+time"])]
#[case::channel(&["resetchannels"], &["channel", "&jobs:*"])]
#[case::keys(&["resetkeys"], &["key", "~job:*"])]
#[case::indexes(&["resetkeys", "~job:*", "~jobtrack:epoch"], &["key", "~jobs:*"])]
#[case::epoch(&["resetkeys", "~job:*", "~jobs:*"], &["key", "~jobtrack:epoch"])]
#[tokio::test(flavor = "multi_thread")]
async fn missing_right_is_reported(#[case] without: &[&str], #[case] words: &[&str]) {
    let redis = Redis::start().await;
    let rights = [&["~*", "&*", "+@all"][..], without].concat();
    let words = [words, &["user", "it needs"]].concat();
    refusal(&redis, &rights, &words).await;
    // The failed attempt does not impede a user with the rights.
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    use_everything(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_rights_are_harmless() {
    let rights = rights().await;
    let guide = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/redis.md");
    let guide = std::fs::read_to_string(guide).expect("the guide is there");
    assert!(guide.contains(&format!("ACL SETUSER jobtrack on >PASSWORD {}\n", rights.join(" "))));
    let redis = Redis::start().await;
    let rights: Vec<_> = rights.iter().map(String::as_str).collect();
    let password = format!(">{SECRET}");
    redis.command(&user(&password, &rights)).await;
    for forbidden in [
        &["FLUSHALL"][..],
        &["FLUSHDB"],
        &["SWAPDB", "0", "1"],
        &["KEYS", "*"],
        &["CONFIG", "SET", "maxmemory", "1"],
        &["ACL", "LIST"],
        &["SHUTDOWN"],
        &["REPLICAOF", "NO", "ONE"],
        &["CLIENT", "KILL", "TYPE", "normal"],
        &["MONITOR"],
        &["DEBUG", "SLEEP", "0"],
        &["GET", "other"],
        &["SUBSCRIBE", "other"],
    ] {
        let answer = redis.command(&[&["ACL", "DRYRUN", "tracker"], forbidden].concat()).await;
        assert!(matches!(answer, Value::BulkString(_)), "{forbidden:?} is allowed: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_rights_are_sufficient() {
    let rights = rights().await;
    let rights: Vec<_> = rights.iter().map(String::as_str).collect();
    let password = format!(">{SECRET}");
    let redis = Redis::start().await;
    redis.command(&user(&password, &rights)).await;
    let server = Server::with(&["--redis-url", &as_user(&redis.url(), "tracker", SECRET)]).await;
    use_everything(&server).await;
    server.stop().await;
    assert_eq!(redis.command(&["ACL", "LOG"]).await, Value::Array(vec![]), "nothing was refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_rights_are_sufficient_with_sentinels() {
    let rights = rights().await;
    let rights: Vec<_> = rights.iter().map(String::as_str).collect();
    let password = format!(">{SECRET}");
    let sentinel = Sentinel::start().await;
    sentinel.master().await.command(&user(&password, &rights)).await;
    let server = Server::with(&["--redis-url", &as_user(&sentinel.url(), "tracker", SECRET)]).await;
    use_everything(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reported_rights_are_sufficient_in_a_cluster() {
    let rights = rights().await;
    let rights: Vec<_> = rights.iter().map(String::as_str).collect();
    let password = format!(">{SECRET}");
    let cluster = Cluster::start().await;
    cluster.command_on_all(&user(&password, &rights)).await;
    let server = Server::with(&["--redis-url", &as_user(&cluster.url(), "tracker", SECRET)]).await;
    use_everything(&server).await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_prefix_needs_other_keys() {
    let redis = shared_redis().await;
    let user_name = "another-prefix";
    let password = format!(">{SECRET}");
    let rights = rights().await;
    let rights: Vec<_> = rights.iter().map(|right| right.replace("job:", "work:").replace("jobs:", "works:")).collect();
    let mut words = vec!["ACL", "SETUSER", user_name, "reset", "on", &password];
    words.extend(rights.iter().map(String::as_str));
    redis.command(&words).await;
    let url = as_user(&redis.url(), user_name, SECRET);
    let server = Server::with(&["--redis-url", &url, "--key-prefix", "work:"]).await;
    use_everything(&server).await;
    server.stop().await;
    redis.command(&["ACL", "DELUSER", user_name]).await;
}
