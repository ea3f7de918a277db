//! etcd: a key for each job, over the same client of gRPC.

use std::{net::SocketAddr, process::Command};

use futures_util::future::join_all;
use jobtrack::proto::v1::UpdateProgressRequest;

use crate::{
    debian::Program,
    launch::{Folder, free_address, launch},
    load::grpc::{Connection, Messages},
    process::Server,
    records,
    watchers::Subject,
    workload::Jobs,
};

pub const ETCD: Program =
    Program { name: "etcd", variable: "JOBTRACK_BENCH_ETCD", package: "etcd-server", place: "usr/bin/etcd" };

/// The package of its services.
const PACKAGE: &str = "etcdserverpb";

/// Maximum size of its database; the default is too small for the history of a long run.
const QUOTA_BYTES: &str = "8589934592";

/// Messages of etcd's rpc.proto and kv.proto, with the fields that are needed here.
mod messages {
    #[derive(prost::Message)]
    pub struct KeyValue {
        #[prost(bytes = "bytes", tag = "5")]
        pub value: bytes::Bytes,
    }

    #[derive(prost::Message)]
    pub struct RangeRequest {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
    }

    #[derive(prost::Message)]
    pub struct RangeResponse {
        #[prost(message, repeated, tag = "2")]
        pub kvs: Vec<KeyValue>,
    }

    #[derive(prost::Message)]
    pub struct PutRequest {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub value: Vec<u8>,
    }

    #[derive(prost::Message)]
    pub struct PutResponse {}

    /// A comparison of the version of a key, whose `result` and `target` are EQUAL and VERSION: both 0.
    #[derive(prost::Message)]
    pub struct Compare {
        #[prost(bytes = "vec", tag = "3")]
        pub key: Vec<u8>,
        /// The version, which is one case of a oneof: 0 has to be sent, too.
        #[prost(int64, optional, tag = "4")]
        pub version: Option<i64>,
    }

    #[derive(prost::Message)]
    pub struct RequestOp {
        #[prost(message, optional, tag = "2")]
        pub request_put: Option<PutRequest>,
    }

    #[derive(prost::Message)]
    pub struct TxnRequest {
        #[prost(message, repeated, tag = "1")]
        pub compare: Vec<Compare>,
        #[prost(message, repeated, tag = "2")]
        pub success: Vec<RequestOp>,
    }

    #[derive(prost::Message)]
    pub struct TxnResponse {
        #[prost(bool, tag = "2")]
        pub succeeded: bool,
    }

    #[derive(prost::Message)]
    pub struct WatchRequest {
        #[prost(message, optional, tag = "1")]
        pub create_request: Option<WatchCreateRequest>,
    }

    #[derive(prost::Message)]
    pub struct WatchCreateRequest {
        #[prost(bytes = "vec", tag = "1")]
        pub key: Vec<u8>,
        /// The end of a range of keys; empty for one key.
        #[prost(bytes = "vec", tag = "2")]
        pub range_end: Vec<u8>,
    }

    #[derive(prost::Message)]
    pub struct WatchResponse {
        #[prost(bool, tag = "3")]
        pub created: bool,
        #[prost(message, repeated, tag = "11")]
        pub events: Vec<Event>,
    }

    #[derive(prost::Message)]
    pub struct Event {
        #[prost(message, optional, tag = "2")]
        pub kv: Option<KeyValue>,
    }
}

use self::messages::{
    Compare, PutRequest, PutResponse, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse,
};

/// Starts a cluster of one member, which does not wait for its disk.
pub async fn start() -> Result<(Server, Folder), String> {
    let program = ETCD.find()?;
    let folder = Folder::new();
    let (address, peers) = (free_address(), free_address());
    let [clients, peers] = [address, peers].map(|address| format!("http://{address}"));
    let mut command = Command::new(program);
    command.args(["--name", "bench", "--unsafe-no-fsync", "--logger", "zap", "--log-level", "error"]);
    command.args(["--quota-backend-bytes", QUOTA_BYTES]).arg("--data-dir").arg(folder.path());
    command.args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients]);
    command.args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers]);
    command.args(["--initial-cluster", &format!("bench={peers}")]);
    Ok((launch(&mut command, address).await?, folder))
}

/// A client.
pub struct Client {
    connections: Vec<Connection>,
}

impl Client {
    pub async fn open(address: SocketAddr, connections: usize) -> Self {
        Self { connections: join_all((0..connections).map(|_| Connection::open_package(address, PACKAGE))).await }
    }

    fn connection(&self, caller: u32) -> &Connection {
        &self.connections[caller as usize % self.connections.len()]
    }

    pub async fn get(&self, caller: u32, jobs: &Jobs, job: u32) {
        let request = RangeRequest { key: key(jobs, job) };
        let answer: RangeResponse = self.connection(caller).call("KV/Range", &request).await;
        assert_eq!(answer.kvs.len(), 1, "the job exists");
    }

    pub async fn update(&self, caller: u32, jobs: &Jobs, job: u32, request: UpdateProgressRequest) {
        let request = PutRequest { key: key(jobs, job), value: records::reported(jobs, job, request) };
        let _: PutResponse = self.connection(caller).call("KV/Put", &request).await;
    }

    /// Creates a key that must not exist.
    pub async fn create(&self, caller: u32, jobs: &Jobs, job: u32) {
        let put = PutRequest { key: key(jobs, job), value: records::created(jobs, job) };
        let request = TxnRequest {
            compare: vec![Compare { key: key(jobs, job), version: Some(0) }],
            success: vec![RequestOp { request_put: Some(put) }],
        };
        let answer: TxnResponse = self.connection(caller).call("KV/Txn", &request).await;
        assert!(answer.succeeded, "each job is new");
    }
}

/// A stream of events.
pub struct Watch(Messages);

impl Watch {
    /// Opens a watch, on a stream of its own.
    pub async fn open(connection: &Connection, jobs: &Jobs, subject: Subject) -> Self {
        let create = match subject {
            Subject::Job(job) => WatchCreateRequest { key: key(jobs, job), range_end: Vec::new() },
            // The end of a range is the first key after those with the prefix.
            Subject::All => WatchCreateRequest { key: b"jobs/".to_vec(), range_end: b"jobs0".to_vec() },
        };
        let mut messages = connection.stream("Watch/Watch", &WatchRequest { create_request: Some(create) }).await;
        let first: WatchResponse = messages.next().await.expect("a watch begins with an answer");
        assert!(first.created, "the watch is open");
        Self(messages)
    }

    /// Returns the values of the next events; a server that is killed ends the stream.
    pub async fn next(&mut self) -> Option<Vec<bytes::Bytes>> {
        let response: WatchResponse = self.0.try_next().await?;
        Some(response.events.into_iter().filter_map(|event| event.kv).map(|kv| kv.value).collect())
    }

    /// Opens a connection for watches.
    pub async fn connect(address: SocketAddr) -> Connection {
        Connection::open_package(address, PACKAGE).await
    }
}

fn key(jobs: &Jobs, job: u32) -> Vec<u8> {
    format!("jobs/{}", jobs.id(job)).into_bytes()
}
