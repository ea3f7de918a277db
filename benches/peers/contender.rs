//! The measured servers, each with a client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures_util::future::join_all;
use jobtrack::proto::v1::{UpdateProgressRequest, UpdateProgressResponse};

use crate::{
    cpu, direct, etcd, grpc_go,
    launch::Folder,
    load::{
        grpc::Connection,
        unary::{Calls, grpc_call},
    },
    nats,
    process::{Kind, Server, resident},
    servers::Redis,
    workload::{Jobs, Operation},
};

/// Connections of a client, unless it needs more.
pub const CONNECTIONS: usize = 4;

/// A measured server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    Jobtrack,
    JobtrackAgain,
    Floor,
    FloorAgain,
    GrpcGo,
    Etcd,
    Nats,
    /// The server of NATS KV, whose subscribers ask for no state to begin with.
    NatsCore,
    JobtrackRedis,
    FloorRedis,
    Redis,
}

impl Name {
    /// Returns the name in tables.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Jobtrack => "jobtrack",
            Self::JobtrackAgain => "jobtrack, again",
            Self::Floor => "tonic floor",
            Self::FloorAgain => "tonic floor, again",
            Self::GrpcGo => "grpc-go floor",
            Self::Etcd => "etcd",
            Self::Nats => "NATS KV",
            Self::NatsCore => "NATS, subscription only",
            Self::JobtrackRedis => "jobtrack, Redis",
            Self::FloorRedis => "tonic floor, Redis",
            Self::Redis => "Redis, direct",
        }
    }

    /// Returns whether it keeps jobs in a Redis.
    pub const fn has_redis(self) -> bool {
        matches!(self, Self::JobtrackRedis | Self::FloorRedis | Self::Redis)
    }

    /// Returns the jobtrack to which it is compared.
    pub const fn base(self) -> Self {
        if self.has_redis() { Self::JobtrackRedis } else { Self::Jobtrack }
    }
}

/// CPU time so far.
#[derive(Clone, Copy)]
pub struct CpuTime {
    pub server: Duration,
    pub redis: Duration,
}

/// A running Redis.
pub struct Store {
    redis: Redis,
    process: u32,
}

impl Store {
    /// Starts the Redis of a server that has one.
    pub async fn of(name: Name) -> Option<Self> {
        if !name.has_redis() {
            return None;
        }
        let redis = Redis::start().await;
        let info = redis.info("server").await;
        let process = info.lines().find_map(|line| line.strip_prefix("process_id:"));
        let process = process.and_then(|id| id.trim().parse().ok()).expect("INFO has it");
        Some(Self { redis, process })
    }

    pub fn url(&self) -> String {
        self.redis.url()
    }
}

/// A running server with its client.
pub struct Contender {
    pub name: Name,
    pub client: Arc<Client>,
    /// `None`: Redis is the server.
    pub server: Option<Server>,
    pub store: Option<Store>,
    /// Removed after the server has ended.
    _folder: Option<Folder>,
}

impl Contender {
    /// Starts a server, with its Redis if it has one. Returns the reason for which it can't be had.
    pub async fn start(name: Name) -> Result<Self, String> {
        let store = Store::of(name).await;
        Self::launch(name, store).await
    }

    /// Starts a server with a running Redis, and connects.
    pub async fn launch(name: Name, store: Option<Store>) -> Result<Self, String> {
        let url = store.as_ref().map(Store::url);
        let url = url.as_deref();
        let (server, folder) = match name {
            Name::Jobtrack | Name::JobtrackAgain | Name::JobtrackRedis => (Some(Kind::Jobtrack.start(url)), None),
            Name::Floor | Name::FloorAgain | Name::FloorRedis => (Some(Kind::Floor.start(url)), None),
            Name::GrpcGo => (Some(grpc_go::start()?), None),
            Name::Etcd => etcd::start().await.map(|(server, folder)| (Some(server), Some(folder)))?,
            Name::Nats | Name::NatsCore => nats::start().await.map(|(server, folder)| (Some(server), Some(folder)))?,
            Name::Redis => (None, None),
        };
        let client = match (&server, url) {
            (Some(server), _) => Client::open(name, server.address).await,
            (None, url) => Client::Redis(direct::Client::open(url.expect("it has a Redis"), CONNECTIONS).await),
        };
        Ok(Self { name, client: Arc::new(client), server, store, _folder: folder })
    }

    /// Returns the address of a server that is not Redis.
    pub fn address(&self) -> SocketAddr {
        self.server.as_ref().expect("it is a server of its own").address
    }

    pub fn cpu_time(&self) -> CpuTime {
        CpuTime {
            server: self.server.as_ref().map_or(Duration::ZERO, Server::cpu_time),
            redis: self.store.as_ref().map_or(Duration::ZERO, |store| cpu::time(store.process)),
        }
    }

    /// Returns the resident memory of the server, and of its Redis, in bytes.
    pub fn resident(&self) -> [u64; 2] {
        let server = self.server.as_ref().map_or(0, Server::resident);
        [server, self.store.as_ref().map_or(0, |store| resident(store.process))]
    }
}

/// The servers that can be had, and the reasons for which others can't.
pub struct Gathered {
    pub contenders: Vec<Contender>,
    pub missing: Vec<(Name, String)>,
}

impl Gathered {
    pub async fn start(names: &[Name]) -> Self {
        let mut gathered = Self { contenders: Vec::new(), missing: Vec::new() };
        for &name in names {
            match Contender::start(name).await {
                Ok(contender) => gathered.contenders.push(contender),
                Err(reason) => gathered.missing.push((name, reason)),
            }
        }
        gathered
    }
}

/// A client of a server.
pub enum Client {
    Jobtrack(Vec<Connection>),
    Etcd(etcd::Client),
    Nats(nats::Client),
    Redis(direct::Client),
}

impl Client {
    async fn open(name: Name, address: SocketAddr) -> Self {
        match name {
            Name::Etcd => Self::Etcd(etcd::Client::open(address, CONNECTIONS).await),
            Name::Nats | Name::NatsCore => Self::Nats(nats::Client::open(address, CONNECTIONS).await),
            _ => Self::Jobtrack(join_all((0..CONNECTIONS).map(|_| Connection::open(address))).await),
        }
    }

    /// Reports on a job.
    pub async fn update(&self, caller: u32, jobs: &Jobs, job: u32, request: UpdateProgressRequest) {
        match self {
            Self::Jobtrack(connections) => {
                let connection = &connections[caller as usize % connections.len()];
                let answer: UpdateProgressResponse = connection.call("JobService/UpdateProgress", &request).await;
                assert!(answer.applied, "each report is newer than the last");
            }
            Self::Etcd(client) => client.update(caller, jobs, job, request).await,
            Self::Nats(client) => client.update(caller, jobs, job, request).await,
            Self::Redis(client) => client.update(caller, jobs, job, request).await,
        }
    }
}

impl Calls for Client {
    async fn call(&self, caller: u32, operation: Operation, jobs: &Jobs, job: u32) -> bool {
        match (self, operation) {
            (_, Operation::Update) => self.update(caller, jobs, job, jobs.update_request(job)).await,
            (Self::Jobtrack(connections), _) => {
                let connection = &connections[caller as usize % connections.len()];
                return grpc_call(connection, operation, jobs, job).await;
            }
            (Self::Etcd(client), Operation::Get) => client.get(caller, jobs, job).await,
            (Self::Etcd(client), Operation::Create) => client.create(caller, jobs, job).await,
            (Self::Nats(client), Operation::Get) => client.get(caller, jobs, job).await,
            (Self::Nats(client), Operation::Create) => client.create(caller, jobs, job).await,
            (Self::Redis(client), Operation::Get) => client.get(caller, jobs, job).await,
            (Self::Redis(client), Operation::Create) => client.create(caller, jobs, job).await,
        }
        false
    }
}
