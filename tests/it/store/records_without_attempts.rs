//! Records that were written, or rewritten, by a version without attempts.

use std::sync::Arc;

use jobtrack::{
    domain::{Change, Job, Removal, Start, State, merge},
    store::{JobStore, Presence, RedisStore, Replaced},
};
use prost::Message;
use redis::Value;
use uuid::Uuid;

use crate::support::{
    jobs::{apply, at, change_context, heartbeat, id, job, retry, start},
    redis::{Redis, shared_redis},
    stores::{Deaf, open_redis, redis_options},
};

/// The part of a record that the version before attempts knew. Messages are opaque here.
#[derive(Clone, PartialEq, Message)]
struct OldRecord {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(int32, tag = "4")]
    state: i32,
    #[prost(int32, tag = "5")]
    attempt: i32,
    #[prost(bytes = "vec", optional, tag = "7")]
    progress: Option<Vec<u8>>,
    #[prost(string, tag = "8")]
    worker: String,
    #[prost(sfixed64, tag = "12")]
    create_time: i64,
    #[prost(sfixed64, optional, tag = "13")]
    start_time: Option<i64>,
    #[prost(sfixed64, tag = "14")]
    update_time: i64,
    #[prost(sfixed64, optional, tag = "20")]
    report_time: Option<i64>,
}

struct Bench {
    redis: &'static Redis,
    prefix: String,
    store: RedisStore,
}

impl Bench {
    async fn start() -> Self {
        let (redis, prefix) = (shared_redis().await, Uuid::new_v4().simple().to_string());
        let presence = Arc::new(Presence::new(RedisStore::PARTITIONING.count));
        let store = open_redis(redis_options(&redis.url(), &prefix), Arc::new(Deaf), presence).await;
        Self { redis, prefix, store }
    }

    /// Stores a job, and returns it as it is read back.
    async fn round(&self, job: Job) -> Job {
        let id = job.id.clone();
        assert!(matches!(self.store.replace(Arc::new(job), None).await, Ok(Replaced::Stored(_))));
        self.read(id.as_str()).await
    }

    async fn read(&self, name: &str) -> Job {
        Job::clone(&self.store.get(&id(name)).await.expect("Redis answers").expect("it is there").job)
    }

    /// Makes the older version rewrite the record.
    async fn rewrite(&self, name: &str) {
        let partition = (RedisStore::PARTITIONING.of)(&id(name));
        let key = format!("{}:{{{partition}}}:{name}", self.prefix);
        let Value::BulkString(record) = self.redis.command(&["HGET", &key, "job"]).await else {
            panic!("it has a core")
        };
        let older = OldRecord::decode(&record[..]).expect("it is a record").encode_to_vec();
        let mut command = redis::cmd("HSET");
        command.arg(&key).arg("job").arg(older);
        let client = redis::Client::open(self.redis.url()).expect("a valid address");
        let mut connection = client.get_multiplexed_async_connection().await.expect("it serves");
        let _: i64 = command.query_async(&mut connection).await.expect("it is written");
    }
}

#[tokio::test]
async fn running_job_of_an_older_version_is_in_its_first_attempt() {
    let bench = Bench::start().await;
    bench.round(apply(&job("a", 0), &heartbeat(), 1)).await;
    bench.rewrite("a").await;
    let read = bench.read("a").await;
    assert_eq!((read.attempt, read.attempt_start_time, read.state), (1, Some(at(1)), State::Running));
    assert_eq!((read.claim, read.past_attempts().count()), (None, 0));
    let taken = apply(&read, &Change::Start(Start { takeover: true, ..Start::default() }), 2);
    assert_eq!((taken.attempt, taken.past_attempts().count()), (2, 1));

    bench.round(job("b", 0)).await;
    bench.rewrite("b").await;
    assert_eq!(apply(&bench.read("b").await, &start("w"), 1).attempt, 1);
}

/// The older version drops the fields that it does not know; the job remains usable.
#[tokio::test]
async fn waiting_job_that_an_older_version_has_written_again_can_be_started() {
    let bench = Bench::start().await;
    bench.round(apply(&apply(&job("a", 0), &start("w"), 1), &retry(), 2)).await;
    bench.rewrite("a").await;
    let read = bench.read("a").await;
    assert_eq!((read.state, read.attempt, read.claim), (State::Pending, 1, None));
    let next = apply(&read, &start("v"), 3);
    assert_eq!((next.state, next.attempt), (State::Running, 2));
    assert_eq!(apply(&read, &heartbeat(), 3).state, State::Running);
}

/// The merge compares a record as the version that was written.
#[tokio::test]
async fn expiry_of_a_waiting_job_is_read_as_it_was_written() {
    let bench = Bench::start().await;
    let waiting = apply(&apply(&job("a", 0), &start("w"), 1), &retry(), 2);
    let expired = waiting.expired(at(3), change_context(3).change_id);
    let read = bench.round(expired.clone()).await;
    assert!(read.is_between_attempts() && expired.is_between_attempts());
    for stands in [merge(&read, &waiting).job, merge(&waiting, &read).job] {
        assert_eq!(stands.removal, Some(Removal::Expired));
    }
}
