//! Records and replicas of earlier versions.

use jobtrack::proto::v1::{Durability, UpdateProgressRequest, job::Outcome};
use redis::Value;
use tonic_health::ServingStatus::{NotServing, Serving};

use crate::support::{
    Server, create,
    records::{ask, partition_key, record_key},
    redis::Redis,
    relay::Relay,
    replicas::{Health, assert_away, read, server_on},
    watching::report,
};

/// A running job as version 0.1 stored it, and one that succeeded.
const RUNNING: &str = r#"{"id":"old1","version":[2,1,"fa9b9b72-7ba3-4621-b64d-0468c1077a2c",4832538730548186468,1],
    "kind":"k","owner":"o","labels":{"x":"y"},"metadata":{"a":1.0},"state":"RUNNING","attempt":1,
    "progress":{"percent":12.0,"details":{"z":[1.0]}},"create_time":1795908757023832,
    "start_time":1795908757115924,"update_time":1795908757115924}"#;
const SUCCEEDED: &str = r#"{"id":"old2","version":[2,1,"0b9b9b72-7ba3-4621-b64d-0468c1077a2c",4832538730548186468,2],
    "kind":"k","state":"SUCCEEDED","attempt":1,"progress":{"percent":100.0},"create_time":1795908757023832,
    "start_time":1795908757115924,"update_time":1795908757115924,"end_time":1795908757115924,
    "outcome":{"result":{"r":2.0}}}"#;

async fn store(redis: &Redis, id: &str, doc: &str, uid: &str, counter: u64, state: &str, durable_time: &str) {
    let key = record_key(id);
    let change = format!("4310a05f1da44d64.{counter}");
    let fields = ["uid", uid, "rev", "2", "stamp", &change, "born", "1", "state", state, "doc", doc];
    let words = [&["HSET", &key, "durable_time", durable_time], &fields[..]].concat();
    redis.command(&words).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_of_version_0_1_are_read_and_rewritten_on_change() {
    let redis = Redis::start().await;
    store(&redis, "old1", RUNNING, "fa9b9b727ba34621b64d0468c1077a2c", 1, "RUNNING", "").await;
    let ended = "1795908757200000";
    store(&redis, "old2", SUCCEEDED, "0b9b9b727ba34621b64d0468c1077a2c", 2, "SUCCEEDED", ended).await;
    let server = server_on(&redis).await;
    let mut client = server.client().await;

    let job = client.get_job(read("old1")).await.expect("it can be read").into_inner().job.expect("a job");
    assert_eq!((job.revision, job.owner.as_str(), job.durability()), (2, "o", Durability::Durable));
    let before = (job.metadata, job.labels);
    assert!(before.0.is_some());
    let request = UpdateProgressRequest { job_id: "old1".to_owned(), ..UpdateProgressRequest::default() };
    let job = client.update_progress(request).await.expect("a report").into_inner().job.expect("a job");
    assert_eq!((job.revision, (job.metadata, job.labels)), (3, before.clone()));
    assert!(job.progress.expect("progress").details.is_some());
    let key = record_key("old1");
    assert_eq!(redis.command(&["HEXISTS", &key, "doc"]).await, Value::Int(0), "it is written anew");
    let version: String = ask(&redis, &["HGET", &key, "v"]).await;
    assert!(version.starts_with("3 "), "{version}");

    let other = server_on(&redis).await;
    let job = other.client().await.get_job(read("old1")).await.expect("it can be read").into_inner().job;
    assert_eq!(job.map(|job| (job.metadata, job.labels)), Some(before));
    let job = client.get_job(read("old2")).await.expect("it can be read").into_inner().job.expect("a job");
    assert!(matches!(job.outcome, Some(Outcome::Result(_))));
    server.stop().await;
    other.stop().await;
}

/// A replica of version 0.1 listens on other channels. While it runs, this version serves from its memory.
#[tokio::test(flavor = "multi_thread")]
async fn replica_waits_until_those_of_version_0_1_have_stopped() {
    let redis = Redis::start().await;
    let relay = Relay::to(redis.port).await;
    let older = ::redis::Client::open(relay.url()).expect("a valid address");
    let mut older = older.get_async_pubsub().await.expect("a connection");
    older.subscribe(partition_key("", "changes")).await.expect("a subscription");

    let server: Server = server_on(&redis).await;
    let mut client = server.client().await;
    let mut health = Health::watch(&server, "redis").await;
    health.until(NotServing).await;
    assert_away("get_job", &client.get_job(read("unknown")).await.expect_err("it is not held"));
    assert_eq!(create(&mut client, "new").await.durability(), Durability::Volatile);
    assert_eq!(health.unread(), Vec::<i32>::new());

    drop(older);
    health.until(Serving).await;
    assert_eq!(report(&mut client, "new").await.durability(), Durability::Durable);
    server.stop().await;
}
