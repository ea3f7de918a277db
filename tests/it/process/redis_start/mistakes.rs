//! Configuration errors concerning Redis that retries can't resolve: they end the start with a remedy, or are logged as
//! errors if Redis was unavailable at the start.

use std::{fs, process::Command, time::Duration};

use jobtrack::proto::v1::Durability;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    time::{sleep, timeout},
};

use super::{SECRET, fails, serves};
use crate::support::{
    Server, create,
    credentials::Folder,
    process::{Process, command},
    redis::{Redis, Sentinel, as_user, shared_cluster, shared_redis, shared_sentinel},
    replicas::use_everything,
};

/// Maximum wait for a log line.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// The error for a Redis that is too old.
const TOO_OLD: [&str; 2] = ["Redis 6.2.", ": jobtrack needs Redis 7.0 or later, or Valkey 7.2 or later"];

fn with_url(url: &str) -> Command {
    command(&["--redis-url", url])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_is_too_old_is_refused() {
    let redis = Redis::old().await;
    fails(with_url(&redis.url()), 1, &TOO_OLD).await;
    // Without the right to read the version, missing commands reveal an old server.
    redis.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{SECRET}"), "~*", "&*", "+@all", "-info"]).await;
    fails(
        with_url(&as_user(&redis.url(), "tracker", SECRET)),
        1,
        &["syntax error", TOO_OLD[1].trim_start_matches(": ")],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_not_there_is_refused() {
    let redis = shared_redis().await.url();
    fails(with_url(&format!("{redis}/16")), 1, &["no database 16", "lower number"]).await;
    let sentinel = shared_sentinel().await.url();
    fails(with_url(&format!("{sentinel}/99")), 1, &["no database 99"]).await;
    let node = shared_cluster().await.master_of_slot(0).await.url();
    fails(with_url(&format!("{node}/1")), 1, &["redis+cluster://"]).await;
    serves(with_url(&format!("{redis}/15"))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn confusion_of_redis_and_sentinel_is_reported() {
    let port = shared_redis().await.port;
    let url = format!("redis+sentinel://127.0.0.1:{port}/main");
    fails(with_url(&url), 1, &["not a Sentinel", "redis://"]).await;
    // An unavailable Sentinel is no proof of an error.
    let url = format!("redis+sentinel://127.0.0.1:1,127.0.0.1:{port}/main");
    fails(with_url(&url), 1, &["not a Sentinel"]).await;
    let sentinel = shared_sentinel().await.url();
    let port = sentinel.rsplit([':', '/']).nth(1).expect("a port");
    for scheme in ["redis", "redis+cluster"] {
        fails(with_url(&format!("{scheme}://127.0.0.1:{port}")), 1, &["Sentinel", "redis+sentinel://"]).await;
    }
    // The other Sentinels know the master.
    let known =
        sentinel.replace("redis+sentinel://", &format!("redis+sentinel://127.0.0.1:{},", shared_redis().await.port));
    serves(with_url(&known)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn missing_right_of_the_user_of_the_sentinels_is_reported() {
    let sentinel = Sentinel::start().await;
    let rights = format!("ACL SETUSER watcher on >{SECRET} &* +@connection");
    sentinel.command_on_sentinels(&rights.split(' ').collect::<Vec<_>>()).await;
    let url = format!("{}?sentinel_username=watcher&sentinel_password={SECRET}", sentinel.url());
    fails(with_url(&url), 1, &["sentinel_username", "+sentinel|master"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn server_other_than_redis_is_reported() {
    let other = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = other.local_addr().expect("it is bound");
    let answering = tokio::spawn(async move {
        while let Ok((mut stream, _)) = other.accept().await {
            _ = stream.read(&mut [0; 512]).await;
            _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
        }
    });
    fails(with_url(&format!("redis://{address}")), 1, &["not a Redis", &address.to_string()]).await;
    fails(with_url(&format!("rediss://{address}")), 1, &["TLS failed", "redis://"]).await;
    answering.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_another_program_are_reported() {
    let redis = Redis::start().await;
    for partition in 0..16 {
        redis.command(&["LPUSH", &format!("jobs:{{{partition}}}:beat"), "x"]).await;
    }
    fails(with_url(&redis.url()), 1, &["another program", "--key-prefix"]).await;
    serves(command(&["--redis-url", &redis.url(), "--key-prefix", "other:"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disabled_command_is_reported() {
    for name in ["EVAL", "ZADD", "PUBLISH"] {
        let redis = Redis::with(&["--rename-command", name, ""]).await;
        fails(with_url(&redis.url()), 1, &["renamed or disabled", TOO_OLD[1].trim_start_matches(": ")]).await;
    }
}

/// Returns the commands that callers and scripts have used on a Redis.
async fn used(redis: &Redis) -> Vec<String> {
    let stats = redis.info("commandstats").await;
    let names = stats.lines().filter_map(|line| Some(line.strip_prefix("cmdstat_")?.split_once(':')?.0.to_owned()));
    names.collect()
}

/// Denies each command that a server uses in turn, with all its scripts in the cache of Redis.
async fn each_refused_command_is_reported_on(redis: Redis) {
    let server = Server::with(&["--redis-url", &redis.url()]).await;
    use_everything(&server).await;
    server.stop().await;
    let used = used(&redis).await;
    // Commands that jobtrack can do without, and commands that a client library or the test uses.
    let others = ["info", "client|", "acl|", "config|", "command", "hello"];
    let needed: Vec<_> = used.iter().filter(|name| !others.iter().any(|other| name.starts_with(other))).collect();
    for known in ["eval", "evalsha", "time", "zadd", "publish", "subscribe", "hset", "set"] {
        assert!(needed.iter().any(|name| *name == known), "{known} is not used: {used:?}");
    }
    let (tracker, password) = ("tracker", format!(">{SECRET}"));
    for name in needed {
        // Shown if the test fails.
        println!("refusing {name}");
        let refused = format!("-{name}");
        redis.command(&["ACL", "SETUSER", tracker, "reset", "on", &password, "~*", "&*", "+@all", &refused]).await;
        let error = fails(with_url(&as_user(&redis.url(), tracker, SECRET)), 1, &["user", "it needs"]).await;
        let name = name.split('|').next().unwrap_or(name);
        assert!(error.to_lowercase().contains(name), "{name} is not told: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_refused_command_is_reported() {
    each_refused_command_is_reported_on(Redis::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_command_refused_by_valkey_is_reported() {
    each_refused_command_is_reported_on(Redis::valkey().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_refused_commands_are_reported_at_once() {
    let redis = Redis::start().await;
    let password = format!(">{SECRET}");
    let rights = ["~*", "&*", "+@all", "-zadd", "-publish", "-hdel"];
    redis.command(&[&["ACL", "SETUSER", "tracker", "on", &password][..], &rights].concat()).await;
    let words = ["ZADD", "PUBLISH", "HDEL"];
    let error = fails(with_url(&as_user(&redis.url(), "tracker", SECRET)), 1, &words).await;
    assert!(!error.contains("HSET"), "{error}");
}

/// Returns the log of a process once it has a line of this level with all these words, which must be the only one.
async fn line(folder: &Folder, level: &str, words: &[&str]) -> String {
    let looked = async {
        loop {
            let log = fs::read_to_string(folder.path("log")).unwrap_or_default();
            let is_it = |line: &&str| line.contains(level) && words.iter().all(|word| line.contains(word));
            let found: Vec<_> = log.lines().filter(is_it).collect();
            assert!(found.len() < 2, "{found:#?}");
            if let [found] = found[..] {
                return found.to_owned();
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(WAIT_TIMEOUT, looked).await.unwrap_or_else(|_| {
        panic!("no {level} with {words:?} in {}", fs::read_to_string(folder.path("log")).unwrap_or_default())
    })
}

/// Starts a process with its log in this folder.
fn logging(folder: &Folder, url: &str) -> Process {
    let mut command = Command::new("sh");
    command.args(["-c", r#"log=$1; shift; exec "$0" "$@" 2>"$log""#, env!("CARGO_BIN_EXE_jobtrack")]);
    command.args([&folder.path("log"), "--redis-url", url, "--http-listen", "off"]).env_clear();
    Process::run(command)
}

/// Starts without a Redis, which then turns out to be unusable. The error has these words.
async fn is_told_later(mut redis: Redis, url: &str, words: &[&str]) -> (Redis, Process, Folder) {
    redis.kill();
    let folder = Folder::new();
    let process = logging(&folder, url);
    line(&folder, "WARN", &["Redis can't be used yet"]).await;
    redis.restart().await;
    line(&folder, "ERROR", words).await;
    // The process continues, and accepts jobs.
    let mut client = process.client().await;
    assert_eq!(create(&mut client, &format!("job-{}", redis.port)).await.durability(), Durability::Volatile);
    (redis, process, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn error_found_after_the_start_is_logged_and_needs_no_restart() {
    let password = format!(">{SECRET}");
    let redis = Redis::with(&["--user", "tracker", "on", &password, "~*", "&*", "+@all", "-zadd"]).await;
    let url = as_user(&redis.url(), "tracker", SECRET);
    let (redis, process, folder) = is_told_later(redis, &url, &["ZADD", "it needs", "~jobs:*"]).await;
    redis.command(&["ACL", "SETUSER", "tracker", "+zadd"]).await;
    line(&folder, "INFO", &["Redis can be used now"]).await;
    process.signal("TERM");
    let (status, _) = process.wait();
    assert_eq!(status.code(), Some(0), "what was accepted meanwhile is in Redis");
    let log = fs::read_to_string(folder.path("log")).expect("the log is text");
    assert!(!log.contains(SECRET), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_turns_out_to_be_too_old_is_logged() {
    let redis = Redis::old().await;
    let url = redis.url();
    let (_redis, process, folder) = is_told_later(redis, &url, &TOO_OLD).await;
    line(&folder, "WARN", &["Redis is unavailable", "reason=version "]).await;
    process.signal("TERM");
    assert_eq!(process.wait().0.code(), Some(1), "the job is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_with_too_many_clients_is_no_mistake() {
    let redis = Redis::with(&["--requirepass", SECRET, "--maxclients", "1"]).await;
    let _only = TcpStream::connect(("127.0.0.1", redis.port)).await.expect("it listens");
    let folder = Folder::new();
    let process = logging(&folder, &as_user(&redis.url(), "", SECRET));
    line(&folder, "WARN", &["Redis can't be used yet"]).await;
    process.signal("TERM");
    assert_eq!(process.wait().0.code(), Some(0));
}
