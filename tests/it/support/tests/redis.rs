//! The Redis servers of the test support behave as documented.

use std::{
    fs,
    time::{Duration, Instant},
};

use ::redis::{Client, RedisError, Value};
use tokio::time::sleep;

use crate::support::redis::{Cluster, Redis, Sentinel, ask, shared_cluster, shared_redis, shared_sentinel};

fn text(text: &str) -> Value {
    Value::BulkString(text.as_bytes().to_vec())
}

fn code<T: std::fmt::Debug>(outcome: Result<T, RedisError>) -> String {
    outcome.expect_err("an error").code().expect("an error of the server").to_owned()
}

#[tokio::test]
async fn a_restart_keeps_what_is_on_disk() {
    let mut redis = Redis::with(&["--appendonly", "yes"]).await;
    redis.command(&["SET", "key", "value"]).await;
    redis.kill();
    assert!(redis.try_command(&["PING"]).await.is_err());
    redis.restart().await;
    assert_eq!(redis.command(&["GET", "key"]).await, text("value"));
    redis.restart_empty().await;
    assert_eq!(redis.command(&["GET", "key"]).await, Value::Nil);
    assert!(redis.info("persistence").await.contains("aof_enabled:1"));
}

#[tokio::test]
async fn a_stopped_server_answers_when_it_goes_on() {
    let redis = Redis::start().await;
    redis.signal("STOP");
    let resume = async {
        sleep(Duration::from_millis(200)).await;
        let resumed = Instant::now();
        redis.signal("CONT");
        resumed
    };
    let answer = async { (redis.command(&["PING"]).await, Instant::now()) };
    let (resumed, (answer, answered)) = tokio::join!(resume, answer);
    assert_eq!(answer, Value::SimpleString("PONG".to_owned()));
    assert!(answered > resumed, "a stopped server answered");
}

#[tokio::test]
async fn a_user_without_a_right_is_refused() {
    let redis = Redis::start().await;
    redis.command(&["ACL", "SETUSER", "reader", "on", ">secret", "~*", "+get"]).await;
    let url = redis.url().replace("redis://", "redis://reader:secret@");
    let reader = Client::open(url).expect("a valid address");
    assert_eq!(ask(&reader, &["GET", "key"]).await.expect("it is allowed"), Value::Nil);
    assert_eq!(code(ask(&reader, &["SET", "key", "value"]).await), "NOPERM");
}

#[tokio::test]
async fn tls_is_answered_to_clients_that_trust_the_authority() {
    let redis = Redis::tls().await;
    assert!(fs::read_to_string(redis.ca_file()).expect("a file").starts_with("-----BEGIN CERTIFICATE-----"));
    assert!(redis.url().starts_with("rediss://"));
    assert_eq!(redis.command(&["PING"]).await, Value::SimpleString("PONG".to_owned()));
    let stranger = Client::open(redis.url()).expect("a valid address");
    assert!(ask(&stranger, &["PING"]).await.is_err());
}

#[tokio::test]
async fn valkey_answers() {
    assert!(Redis::valkey().await.info("server").await.contains("server_name:valkey"));
}

#[tokio::test]
async fn many_servers_find_ports() {
    let servers = futures_util::future::join_all((0..8).map(|_| Redis::start())).await;
    for server in &servers {
        let id = server.command(&["CONFIG", "GET", "port"]).await;
        assert_eq!(id, Value::Array(vec![text("port"), text(&server.port.to_string())]));
    }
}

#[tokio::test]
async fn shared_servers_serve() {
    let (redis, sentinel, cluster) = tokio::join!(shared_redis(), shared_sentinel(), shared_cluster());
    assert_eq!(redis.port, shared_redis().await.port);
    assert_eq!(sentinel.url(), shared_sentinel().await.url());
    assert_eq!(cluster.url(), shared_cluster().await.url());
}

#[tokio::test]
async fn sentinels_elect_another_master() {
    let mut sentinel = Sentinel::start().await;
    let first = sentinel.master().await.port;
    sentinel.master().await.command(&["SET", "key", "value"]).await;
    let killed = Instant::now();
    sentinel.kill_master().await;
    let elected = sentinel.elected().await;
    assert!(elected > killed);
    let second = sentinel.master().await.port;
    assert_ne!(second, first);
    assert_eq!(sentinel.master().await.command(&["GET", "key"]).await, text("value"));
    sentinel.restart_killed().await;
    sentinel.failover().await;
    assert_eq!(sentinel.master().await.port, first);
}

#[tokio::test]
async fn a_cluster_replaces_a_master() {
    let mut cluster = Cluster::start().await;
    let slot = cluster.slot("key").await;
    let first = cluster.master_of_slot(slot).await.port;
    cluster.master_of_slot(slot).await.command(&["SET", "key", "value"]).await;
    let killed = Instant::now();
    cluster.kill_master_of_slot(slot).await;
    assert!(cluster.elected().await > killed);
    let second = cluster.master_of_slot(slot).await;
    assert_ne!(second.port, first);
    assert_eq!(second.command(&["GET", "key"]).await, text("value"));
    assert_eq!(cluster.command_on_all(&["PING"]).await.len(), 5);
    cluster.restart_killed().await;
    assert_eq!(cluster.command_on_all(&["PING"]).await.len(), 6);
}

#[tokio::test]
async fn a_cluster_moves_a_slot() {
    let cluster = Cluster::with(Duration::from_secs(10), &["--appendonly", "yes"]).await;
    let slot = cluster.slot("key").await;
    let from = cluster.master_of_slot(slot).await;
    from.command(&["SET", "key", "value"]).await;
    cluster.begin_migration(slot).await;
    assert_eq!(from.command(&["GET", "key"]).await, text("value"));
    cluster.migrate_keys(slot).await;
    assert_eq!(code(from.try_command(&["GET", "key"]).await), "ASK");
    cluster.finish_migration(slot).await;
    assert_eq!(code(from.try_command(&["GET", "key"]).await), "MOVED");
    assert_eq!(cluster.master_of_slot(slot).await.command(&["GET", "key"]).await, text("value"));
}
