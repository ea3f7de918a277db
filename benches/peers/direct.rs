//! Redis used directly: a hash for each job, whose changes are published.

use std::{
    collections::HashMap,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::{StreamExt, future::join_all};
use jobtrack::proto::v1::UpdateProgressRequest;
use redis::{AsyncConnectionConfig, Cmd, Pipeline, aio::MultiplexedConnection, cmd};

use crate::{records, watchers::Subject, workload::Jobs};

/// Timeout of a command; long enough on a machine that is busy.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);

/// A client.
pub struct Client {
    connections: Vec<MultiplexedConnection>,
}

impl Client {
    pub async fn open(url: &str, connections: usize) -> Self {
        let client = redis::Client::open(url).expect("a valid address");
        let config = AsyncConnectionConfig::new().set_response_timeout(Some(RESPONSE_TIMEOUT));
        let open = async || client.get_multiplexed_async_connection_with_config(&config).await;
        let connections = join_all((0..connections).map(|_| open())).await;
        Self { connections: connections.into_iter().map(|it| it.expect("Redis answers")).collect() }
    }

    fn connection(&self, caller: u32) -> MultiplexedConnection {
        self.connections[caller as usize % self.connections.len()].clone()
    }

    pub async fn get(&self, caller: u32, jobs: &Jobs, job: u32) {
        let fields = cmd("HGETALL").arg(key(jobs, job)).query_async(&mut self.connection(caller)).await;
        let fields: HashMap<String, Vec<u8>> = fields.expect("Redis answers");
        assert!(!fields.is_empty(), "the job exists");
    }

    /// Sets the fields of a report, and publishes the job.
    pub async fn update(&self, caller: u32, jobs: &Jobs, job: u32, request: UpdateProgressRequest) {
        let mut set = cmd("HSET");
        set.arg(key(jobs, job)).arg("state").arg("RUNNING").arg("worker").arg(&request.worker);
        if let Some(progress) = &request.progress {
            set.arg("completed").arg(progress.completed).arg("total").arg(progress.total);
            set.arg("unit").arg(&progress.unit).arg("stage").arg(&progress.stage);
            set.arg("stage_index").arg(progress.stage_index).arg("stage_count").arg(progress.stage_count);
            set.arg("message").arg(&progress.message);
        }
        set.arg("update_time").arg(micros());
        let value = records::reported(jobs, job, request);
        self.write(caller, set, jobs, job, value).await;
    }

    /// Sets the fields of a new job, and publishes it. Does not notice a job that exists.
    pub async fn create(&self, caller: u32, jobs: &Jobs, job: u32) {
        let request = jobs.create_request(job);
        let mut set = cmd("HSET");
        set.arg(key(jobs, job)).arg("id").arg(&request.job_id).arg("kind").arg(&request.kind);
        set.arg("owner").arg(&request.owner).arg("state").arg("PENDING").arg("create_time").arg(micros());
        for (label, value) in &request.labels {
            set.arg(format!("label:{label}")).arg(value);
        }
        self.write(caller, set, jobs, job, records::created(jobs, job)).await;
    }

    async fn write(&self, caller: u32, set: Cmd, jobs: &Jobs, job: u32, value: Vec<u8>) {
        let mut pipeline = Pipeline::with_capacity(2);
        pipeline.add_command(set).ignore();
        pipeline.cmd("PUBLISH").arg(key(jobs, job)).arg(value).ignore();
        let written = pipeline.query_async::<()>(&mut self.connection(caller)).await;
        written.expect("Redis answers");
    }
}

/// Subscribes on a connection of its own, because a connection receives each message once.
pub async fn subscribe(url: &str, jobs: &Jobs, subject: Subject, mut handler: impl FnMut(Bytes) + Send + 'static) {
    let client = redis::Client::open(url).expect("a valid address");
    let mut messages = client.get_async_pubsub().await.expect("Redis answers");
    let subscribed = match subject {
        Subject::Job(job) => messages.subscribe(key(jobs, job)).await,
        Subject::All => messages.psubscribe("jobs:*").await,
    };
    subscribed.expect("Redis answers");
    tokio::spawn(async move {
        let mut messages = messages.into_on_message();
        while let Some(message) = messages.next().await {
            handler(Bytes::copy_from_slice(message.get_payload_bytes()));
        }
    });
}

fn key(jobs: &Jobs, job: u32) -> String {
    format!("jobs:{}", jobs.id(job))
}

fn micros() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("the clock is right");
    u64::try_from(now.as_micros()).unwrap_or(u64::MAX)
}
