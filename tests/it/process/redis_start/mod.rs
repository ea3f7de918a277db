//! The start with Redis: sources of the URL, checks, and the absence of secrets in messages.

mod mistakes;
mod rights;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
    time::Duration,
};

use jobtrack::proto::v1::{Durability, Event};
use rstest::rstest;
use tokio::{task::spawn_blocking, time::timeout};
use uuid::Uuid;

use crate::support::{
    create,
    process::{Process, command},
    redis::{Redis, as_user, shared_cluster, shared_redis, shared_sentinel},
    relay::Relay,
    watching::{complete, report, watch},
};

/// Maximum duration of a start that fails.
const WAIT_TIMEOUT: Duration = Duration::from_secs(20);

/// A password that must not be shown.
const SECRET: &str = "s3cret-Pa55";

/// Runs a command to its end.
async fn ended(mut command: Command) -> Output {
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary can be started");
    let id = child.id().to_string();
    let mut ended = spawn_blocking(|| child.wait_with_output().expect("it can be waited for"));
    if let Ok(output) = timeout(WAIT_TIMEOUT, &mut ended).await {
        return output.expect("waiting does not panic");
    }
    Command::new("kill").args(["-s", "KILL", &id]).status().expect("kill can be started");
    panic!("it goes on: {:?}", ended.await.expect("waiting does not panic"));
}

/// Returns the binary on a free port with this environment.
fn with_env(variables: &[(&str, &str)]) -> Command {
    let mut command = command(&[]);
    command.envs(variables.iter().copied());
    command
}

/// Fails unless the command ends with `code` and one line with these words, and shows no secret. Returns the line.
async fn fails(mut command: Command, code: i32, words: &[&str]) -> String {
    command.args(["--listen", "127.0.0.1:0"]);
    let output = ended(command).await;
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("it is text");
    let (out, error) = (text(output.stdout), text(output.stderr));
    assert_eq!(output.status.code(), Some(code), "{error}");
    for word in words {
        assert!(error.contains(word), "{word:?} is missing in {error:?}");
    }
    assert!(code == 2 || error.lines().count() == 1, "it is one line: {error}");
    assert_no_secret(&format!("{out}{error}"));
    assert!(!error.contains("panicked"), "{error}");
    error
}

#[track_caller]
fn assert_no_secret(text: &str) {
    assert!(!text.contains(SECRET) && !text.contains("s3cret"), "a secret is shown: {text}");
}

/// Fails unless the process serves from Redis, and shows no secret. Returns its log.
async fn serves(command: Command) -> String {
    let process = Process::run(command);
    let mut client = process.client().await;
    let id = Uuid::new_v4().to_string();
    assert_eq!(create(&mut client, &id).await.durability(), Durability::Durable);
    let mut stream = watch(&client, &id).await;
    stream.expect(Event::Snapshot).await;
    let reported = report(&mut client, &id).await;
    assert_eq!(stream.update().await, reported);
    let ended = complete(&mut client, &id).await;
    assert_eq!(stream.update().await, ended);
    stream.end().await;
    process.signal("TERM");
    let banner = process.banner.clone();
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert_no_secret(&format!("{banner}{log}"));
    log
}

/// Starts a Redis with this password.
async fn locked() -> Redis {
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", SECRET]).await;
    redis
}

/// Creates a file with this content.
fn file(content: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(Uuid::new_v4().to_string());
    fs::write(&path, content).expect("a file can be written");
    path
}

#[tokio::test(flavor = "multi_thread")]
async fn password_is_taken_from_each_source() {
    let redis = locked().await;
    let url = as_user(&redis.url(), "", SECRET);
    serves(command(&["--redis-url", &url])).await;
    for variable in ["JOBTRACK_REDIS_URL", "REDIS_URL"] {
        serves(with_env(&[(variable, &url)])).await;
    }
    for variable in ["JOBTRACK_REDIS_URL_FILE", "REDIS_URL_FILE"] {
        let path = file(&format!("{url}\n"));
        serves(with_env(&[(variable, path.to_str().expect("its name is text"))])).await;
        fs::remove_file(path).expect("it is there");
    }
    let path = file(&format!("{url}\n"));
    serves(command(&["--redis-url-file", path.to_str().expect("its name is text")])).await;
    fs::remove_file(path).expect("it is there");
    // The flag overrides all of them.
    let mut command = with_env(&[("JOBTRACK_REDIS_URL", "redis://127.0.0.1:1"), ("REDIS_URL", "nonsense")]);
    command.args(["--redis-url", &url]);
    serves(command).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_refused() {
    let redis = locked().await;
    let words = ["password", &redis.port.to_string()];
    for (user, password) in [("", "s3cret"), ("default", "s3cret"), ("nobody", SECRET)] {
        fails(command(&["--redis-url", &as_user(&redis.url(), user, password)]), 1, &words).await;
    }
    fails(command(&["--redis-url", &redis.url()]), 1, &words).await;
    fails(with_env(&[("REDIS_URL", &as_user(&redis.url(), "", "s3cret"))]), 1, &words).await;
}

#[tokio::test]
async fn a_file_that_can_not_be_read_is_named() {
    for variable in ["JOBTRACK_REDIS_URL_FILE", "REDIS_URL_FILE"] {
        let error = fails(with_env(&[(variable, "/does/not/exist")]), 2, &[variable, "/does/not/exist"]).await;
        assert!(error.contains("can't be read"), "{error}");
        let path = file(&format!("{SECRET}\n"));
        fails(with_env(&[(variable, path.to_str().expect("its name is text"))]), 2, &[variable]).await;
        fs::remove_file(path).expect("it is there");
    }
}

#[rstest]
#[case::no_scheme("s3cret-Pa55@127.0.0.1")]
#[case::another_scheme("http://u:s3cret-Pa55@127.0.0.1")]
#[case::another_topology("redis+mesh://u:s3cret-Pa55@127.0.0.1")]
#[case::no_port("redis://u:s3cret-Pa55@127.0.0.1:x")]
#[case::no_database("redis://u:s3cret-Pa55@127.0.0.1/x")]
#[case::no_master("redis+sentinel://u:s3cret-Pa55@127.0.0.1:26379")]
#[case::no_sentinel("redis+sentinel://u:s3cret-Pa55@/main")]
#[case::no_node("redis+cluster://u:s3cret-Pa55@")]
#[case::database_of_a_cluster("redis+cluster://u:s3cret-Pa55@127.0.0.1/1")]
#[case::insecure("rediss://u:s3cret-Pa55@127.0.0.1/#insecure")]
#[case::not_encoded("redis://u:s3cret-Pa55/@127.0.0.1")]
#[tokio::test]
async fn an_address_that_can_not_be_read_is_refused(#[case] url: &str) {
    fails(command(&["--redis-url", url]), 2, &["--redis-url"]).await;
    fails(with_env(&[("JOBTRACK_REDIS_URL", url)]), 2, &["JOBTRACK_REDIS_URL"]).await;
    fails(with_env(&[("REDIS_URL", url)]), 2, &["REDIS_URL"]).await;
}

#[tokio::test]
async fn help_shows_no_secret() {
    let url = format!("redis://:{SECRET}@127.0.0.1:1");
    for flag in ["--help", "-h"] {
        let mut command = with_env(&[("JOBTRACK_REDIS_URL", &url), ("REDIS_URL", &url)]);
        command.arg(flag);
        let output = ended(command).await;
        let help = String::from_utf8(output.stdout).expect("help is text");
        assert!(help.contains("--redis-url") && help.contains("JOBTRACK_REDIS_URL"), "{help}");
        assert_no_secret(&help);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_with_a_password_is_let_in() {
    let redis = Redis::start().await;
    redis.command(&["ACL", "SETUSER", "tracker", "on", &format!(">{SECRET}"), "~*", "&*", "+@all"]).await;
    redis.command(&["ACL", "SETUSER", "default", "off"]).await;
    serves(command(&["--redis-url", &as_user(&redis.url(), "tracker", SECRET)])).await;
    // Characters that a URL can't contain are percent-encoded.
    let (password, encoded) = ("s3cret/?#@:%", "s3cret%2F%3F%23%40%3A%25");
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", password]).await;
    serves(command(&["--redis-url", &as_user(&redis.url(), "", encoded)])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn evicting_redis_is_a_warning() {
    let redis = Redis::with(&["--maxmemory-policy", "allkeys-lru"]).await;
    let log = serves(command(&["--redis-url", &redis.url()])).await;
    let warnings: Vec<_> = log.lines().filter(|line| line.contains("WARN")).collect();
    let [warning] = warnings[..] else { panic!("not one warning: {log}") };
    for word in ["allkeys-lru", "noeviction"] {
        assert!(warning.contains(word), "{word:?} is missing in {warning:?}");
    }
    let log = serves(command(&["--redis-url", &shared_redis().await.url()])).await;
    assert!(!log.contains("WARN"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn unavailable_redis_does_not_prevent_a_start() {
    let mut redis = locked().await;
    redis.kill();
    let process = Process::run(command(&["--redis-url", &as_user(&redis.url(), "", SECRET)]));
    process.signal("TERM");
    let banner = process.banner.clone();
    let (status, log) = process.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("WARN") && log.contains(&redis.port.to_string()), "{log}");
    assert_no_secret(&format!("{banner}{log}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn single_lost_answer_does_not_cause_a_start_without_redis() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    relay.set_aside("TIME", 1);
    let log = serves(command(&["--redis-url", &relay.url(), "--redis-timeout", "2s"])).await;
    assert!(!log.contains("WARN"), "{log}");
    assert!(relay.has_set_aside(), "nothing was lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_topology_is_reported() {
    let cluster = shared_cluster().await;
    let node = cluster.master_of_slot(0).await.url();
    fails(command(&["--redis-url", &node]), 1, &["redis+cluster://"]).await;
    let single = shared_redis().await.url().replace("redis://", "redis+cluster://");
    fails(command(&["--redis-url", &single]), 1, &["redis://", "not a cluster"]).await;
    let unknown = shared_sentinel().await.url().replace("/jobtrack", "/unknown");
    fails(command(&["--redis-url", &unknown]), 1, &["master", "unknown"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_topology_serves() {
    let urls = [shared_redis().await.url(), shared_sentinel().await.url(), shared_cluster().await.url()];
    for url in urls {
        serves(command(&["--redis-url", &url])).await;
    }
    serves(command(&["--redis-url", &Redis::valkey().await.url()])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_verified() {
    let redis = Redis::tls().await;
    let ca = redis.ca_file();
    let mut trusting = command(&["--redis-url", &redis.url()]);
    trusting.env("SSL_CERT_FILE", &ca);
    serves(trusting).await;
    let mut by_name = command(&["--redis-url", &redis.url().replace("127.0.0.1", "localhost")]);
    by_name.env("SSL_CERT_FILE", &ca);
    serves(by_name).await;

    fails(command(&["--redis-url", &redis.url()]), 1, &["TLS", "certificate", &redis.port.to_string()]).await;
    let stranger = Redis::tls().await;
    let mut distrusting = command(&["--redis-url", &redis.url()]);
    distrusting.env("SSL_CERT_FILE", stranger.ca_file());
    fails(distrusting, 1, &["TLS", "certificate"]).await;
}
