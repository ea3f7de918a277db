//! NATS KV: a bucket in memory, with a key for each job.

mod wire;

use std::{fs, net::SocketAddr, process::Command};

use bytes::Bytes;
use futures_util::future::join_all;
use jobtrack::proto::v1::UpdateProgressRequest;
use serde_json::{Value, json};
use uuid::Uuid;

pub use self::wire::Connection;
use self::wire::Reply;
use crate::{
    debian::Program,
    launch::{Folder, free_address, launch},
    process::Server,
    records,
    watchers::Subject,
    workload::Jobs,
};

pub const NATS: Program = Program {
    name: "nats-server",
    variable: "JOBTRACK_BENCH_NATS",
    package: "nats-server",
    place: "usr/sbin/nats-server",
};

/// Maximum memory of all buckets, in bytes.
const MEMORY_BYTES: u64 = 8 << 30;

/// Headers of a message that is refused if its subject has one already.
const ONLY_IF_NEW: &str = "NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n";

/// Starts a server with `JetStream`.
pub async fn start() -> Result<(Server, Folder), String> {
    let program = NATS.find()?;
    let folder = Folder::new();
    let address = free_address();
    let configuration = format!(
        "listen: \"{address}\"\njetstream {{ store_dir: \"{}\", max_memory_store: {MEMORY_BYTES} }}\n",
        folder.path().display()
    );
    let file = folder.path().join("nats.conf");
    fs::write(&file, configuration).map_err(|error| error.to_string())?;
    Ok((launch(Command::new(program).arg("-c").arg(file), address).await?, folder))
}

/// A client.
pub struct Client {
    connections: Vec<Connection>,
}

impl Client {
    /// Connects, and creates the bucket.
    pub async fn open(address: SocketAddr, connections: usize) -> Self {
        let connections = join_all((0..connections).map(|_| Connection::open(address))).await;
        let bucket = json!({
            "name": "KV_jobs",
            "subjects": ["$KV.jobs.>"],
            "max_msgs_per_subject": 1,
            "storage": "memory",
            "allow_direct": true,
            "allow_rollup_hdrs": true,
            "deny_delete": true,
            "discard": "new",
            "num_replicas": 1,
        });
        let answer = connections[0].request("$JS.API.STREAM.CREATE.KV_jobs", "", bucket.to_string().as_bytes()).await;
        assert_accepted(&answer);
        Self { connections }
    }

    fn connection(&self, caller: u32) -> &Connection {
        &self.connections[caller as usize % self.connections.len()]
    }

    /// Reads a key with the direct API, which needs no leader.
    pub async fn get(&self, caller: u32, jobs: &Jobs, job: u32) {
        let subject = format!("$JS.API.DIRECT.GET.KV_jobs.{}", key(jobs, job));
        let answer = self.connection(caller).request(&subject, "", b"").await;
        let found = memchr::memmem::find(&answer.headers, b"Nats-Sequence").is_some();
        assert!(found && !answer.payload.is_empty(), "the job exists: {:?}", answer.headers);
    }

    pub async fn update(&self, caller: u32, jobs: &Jobs, job: u32, request: UpdateProgressRequest) {
        let value = records::reported(jobs, job, request);
        assert_accepted(&self.connection(caller).request(&key(jobs, job), "", &value).await);
    }

    /// Creates a key that must not exist.
    pub async fn create(&self, caller: u32, jobs: &Jobs, job: u32) {
        let value = records::created(jobs, job);
        assert_accepted(&self.connection(caller).request(&key(jobs, job), ONLY_IF_NEW, &value).await);
    }
}

/// Opens a watch of the bucket: an ephemeral consumer that begins with the last value of each key.
pub async fn watch(
    connection: &Connection,
    jobs: &Jobs,
    subject: Subject,
    handler: impl FnMut(Bytes) + Send + 'static,
) {
    let filter = match subject {
        Subject::Job(job) => key(jobs, job),
        Subject::All => "$KV.jobs.>".to_owned(),
    };
    let inbox = format!("_WATCH.{}", Uuid::new_v4().simple());
    connection.subscribe(&inbox, handler);
    let consumer = json!({
        "stream_name": "KV_jobs",
        "config": {
            "deliver_policy": "last_per_subject",
            "deliver_subject": inbox,
            "filter_subject": filter,
            "ack_policy": "none",
            "max_deliver": 1,
            "replay_policy": "instant",
            "num_replicas": 1,
            "mem_storage": true,
        },
    });
    let answer = connection.request("$JS.API.CONSUMER.CREATE.KV_jobs", "", consumer.to_string().as_bytes()).await;
    assert_accepted(&answer);
}

/// Subscribes to the messages of a key as they come, without a state to begin with.
pub fn subscribe(connection: &Connection, jobs: &Jobs, subject: Subject, handler: impl FnMut(Bytes) + Send + 'static) {
    match subject {
        Subject::Job(job) => connection.subscribe(&key(jobs, job), handler),
        Subject::All => connection.subscribe("$KV.jobs.>", handler),
    }
}

fn assert_accepted(answer: &Reply) {
    // Answers are small, and an error is always named in them.
    if memchr::memmem::find(&answer.payload, b"\"error\"").is_some() || answer.payload.is_empty() {
        let text: Value = serde_json::from_slice(&answer.payload).unwrap_or_default();
        panic!("NATS refuses: {text} {:?}", answer.headers);
    }
}

fn key(jobs: &Jobs, job: u32) -> String {
    format!("$KV.jobs.{}", jobs.id(job))
}
