//! Secrets are never disclosed: every place that accepts one is given a unique text, which must not appear in any
//! output.

use std::{fs, process::Command};

use jobtrack::proto::v1::{
    GetStatsRequest, WatchJobsRequest, admin_service_client::AdminServiceClient, job_service_client::JobServiceClient,
};
use serde_json::json;
use tonic::{Request, transport::Channel};

use crate::support::{
    credentials::{Authority, Folder, bearer, connect, holder, identities},
    http::get,
    new_job,
    otlp::Receiver,
    process::{Process, command},
    redis::Redis,
    replicas::read,
};

/// The secrets of this file. Each is given in one piece.
const PASSWORD: &str = "canary-redis-password";
const WRONG_PASSWORD: &str = "canary-redis-wrong-password";
const OTHER_PASSWORDS: [&str; 3] =
    ["canary-redis-in-jobtrack-env", "canary-redis-in-plain-env", "canary-redis-in-file"];
const TOKEN: &str = "canary-known-bearer-token";
const UNKNOWN_TOKEN: &str = "canary-unknown-bearer-token";
const JWT: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJjYW5hcnkifQ.canary-jwt-signature";
const OTLP_HEADER: &str = "canary-otlp-header";

/// Everything that can be logged, including the libraries.
const TRACE: &str =
    "trace,h2=trace,hyper=trace,hyper_util=trace,tonic=trace,tower=trace,rustls=trace,opentelemetry=trace";

/// Returns all secrets, with the part of a private key that follows its first line.
fn canaries(key: &str) -> Vec<String> {
    let constant =
        [PASSWORD, WRONG_PASSWORD, TOKEN, UNKNOWN_TOKEN, JWT, OTLP_HEADER].into_iter().chain(OTHER_PASSWORDS);
    let secret_of_key = key.lines().nth(1).expect("a key has several lines");
    constant.chain([secret_of_key]).map(str::to_owned).collect()
}

/// Fails if a secret is in `text`.
#[track_caller]
fn assert_none(canaries: &[String], what: &str, text: &str) {
    assert!(!text.is_empty(), "{what} is not there");
    for canary in canaries {
        assert!(!text.contains(canary), "{canary} is in {what}: {text}");
    }
}

fn url(redis: &Redis, password: &str) -> String {
    redis.url().replacen("://", &format!("://:{password}@"), 1)
}

/// Starts the binary with a secret in every place that accepts one.
fn with_all(folder: &Folder, redis_url: &str, receiver: &Receiver, authority: &Authority) -> (Command, String) {
    let server = authority.server();
    // The name of an identity is no secret; its token is.
    let mut known = holder(TOKEN, "admin", &json!("*"));
    known["name"] = json!("tom");
    let other = OTHER_PASSWORDS.map(|password| format!("redis://:{password}@127.0.0.1:1"));
    let (cert, key) = (folder.write("cert.pem", &server.pem), folder.write("key.pem", &server.key));
    let tokens = folder.write("identities.json", &identities(&[known]));
    let mut command = command(&["--redis-url", redis_url, "--tls-cert", &cert, "--tls-key", &key]);
    command.args(["--auth-tokens", &tokens, "--log", TRACE, "--log-format", "json", "--http-listen", "127.0.0.1:0"]);
    command.env("JOBTRACK_REDIS_URL", &other[0]).env("REDIS_URL", &other[1]);
    command.env("JOBTRACK_REDIS_URL_FILE", folder.write("redis-url", &other[2]));
    command.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://{}", receiver.address));
    command.env("OTEL_EXPORTER_OTLP_HEADERS", format!("x-api-key={OTLP_HEADER}")).env("OTEL_BSP_SCHEDULE_DELAY", "50");
    (command, server.key)
}

/// Returns the answers to calls that succeed, fail and are rejected.
async fn answers(channel: Channel) -> String {
    let mut client = JobServiceClient::new(channel.clone());
    let mut told = Vec::new();
    told.push(format!("{:?}", client.create_job(bearer(TOKEN, new_job("a"))).await.expect("tom may")));
    told.push(format!("{:?}", client.watch_jobs(bearer(TOKEN, WatchJobsRequest::default())).await.expect("tom may")));
    told.push(format!("{:?}", client.get_job(bearer(TOKEN, read("missing"))).await.expect_err("there is none")));
    for stranger in [UNKNOWN_TOKEN, JWT] {
        told.push(format!("{:?}", client.get_job(bearer(stranger, read("a"))).await.expect_err("nobody knows them")));
    }
    told.push(format!("{:?}", client.get_job(Request::new(read("a"))).await.expect_err("who is it?")));
    let stats = AdminServiceClient::new(channel).get_stats(bearer(TOKEN, GetStatsRequest {})).await;
    told.push(format!("{:?}", stats.expect("tom may")));
    told.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_absent_from_all_output() {
    let mut redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", PASSWORD]).await;
    let (folder, receiver, authority) = (Folder::new(), Receiver::start().await, Authority::new());
    let (command, key) = with_all(&folder, &url(&redis, PASSWORD), &receiver, &authority);
    let canaries = canaries(&key);

    let process = Process::run(command);
    let channel = connect(process.address, &authority, None).await.expect("it serves");
    assert_none(&canaries, "answers", &answers(channel.clone()).await);
    let http = process.http();
    assert_none(&canaries, "the metrics", &get(http, "/metrics").await.1);
    assert_none(&canaries, "readiness", &get(http, "/readyz").await.1);
    receiver.until("a call", |span| span.name.ends_with("GetStats")).await;

    // An outage has log lines of its own. After it, the password is wrong.
    redis.kill();
    let during = JobServiceClient::new(channel).create_job(bearer(TOKEN, new_job("b"))).await;
    assert_none(&canaries, "an answer in an outage", &format!("{:?}", during.expect("it is taken")));
    redis.restart().await;
    process.signal("TERM");
    let banner = process.banner.clone();
    let (_, log) = tokio::task::spawn_blocking(|| process.wait()).await.expect("no panic");
    assert!(log.contains("TRACE"), "{log}");
    assert_none(&canaries, "the log", &log);
    assert_none(&canaries, "the banner", &banner);
    assert_none(&canaries, "the traces", &format!("{:?}", receiver.batches()));
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_absent_from_startup_errors_and_help() {
    let redis = Redis::start().await;
    redis.command(&["CONFIG", "SET", "requirepass", PASSWORD]).await;
    let (folder, receiver, authority) = (Folder::new(), Receiver::start().await, Authority::new());
    let wrong = url(&redis, WRONG_PASSWORD);
    for (what, redis_url, more) in [
        ("a wrong password", wrong.as_str(), &["--listen", "127.0.0.1:0"][..]),
        ("an address that is none", &format!("redis://:{PASSWORD}@host:port"), &[]),
        ("a scheme that is none", &format!("http://:{PASSWORD}@host"), &[]),
        ("a bad flag", &wrong, &["--ttl-failed", "soon"]),
        ("the help", &wrong, &["--help"]),
    ] {
        let (mut command, key) = with_all(&folder, redis_url, &receiver, &authority);
        command.args(more);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it can be started")).await;
        let output = output.expect("no panic");
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.success(), what == "the help", "{what}: {text}");
        assert_none(&canaries(&key), what, &text);
    }
    // Files with unusable content.
    for name in ["identities.json", "key.pem", "cert.pem"] {
        let (mut command, key) = with_all(&folder, &wrong, &receiver, &authority);
        let whole = fs::read_to_string(folder.path(name)).expect("it is there");
        folder.write(name, &format!("{{{TOKEN} {}", whole.replace("-----BEGIN", "")));
        command.args(["--listen", "127.0.0.1:0"]);
        let output = tokio::task::spawn_blocking(move || command.output().expect("it can be started")).await;
        let text = String::from_utf8(output.expect("no panic").stderr).expect("errors are text");
        assert_none(&canaries(&key), name, &text);
    }
}
