//! Servers that share a Redis, and common helpers for them.

use std::{iter::from_fn, time::Duration};

use futures_util::FutureExt;
use jobtrack::proto::{
    health::health_client::HealthClient,
    v1::{
        BatchGetJobsRequest, CancelJobRequest, ConfirmCancelRequest, CreateJobRequest, CreateWatchTokenRequest, Event,
        GetJobRequest, GetJobResponse, GetStatsRequest, GetStatsResponse, Job, JobFilter, ListJobsRequest, Liveness,
        PurgeJobsRequest, UpdateProgressRequest, WatchJobsRequest, job::State,
    },
};
use tokio::time::timeout;
use tonic::{Code, Status, Streaming, transport::Channel};
use tonic_health::{
    ServingStatus::{self, NotServing, Serving},
    pb::{HealthCheckRequest, HealthCheckResponse},
};
use tonic_types::StatusExt;
use uuid::Uuid;

use super::{
    Admin, Client, Server, new_job,
    process::Process,
    reason,
    redis::{Redis, shared_redis},
    watching::{Seen, Watch, complete, delete, fail, make, millis, report, watch, watch_jobs},
};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);

/// Two servers on one Redis.
pub struct Pair {
    pub a: Server,
    pub b: Server,
}

impl Pair {
    /// Starts both with these flags and a separate part of the shared Redis.
    pub async fn start(flags: &[&str]) -> Self {
        let flags = [&part_of_shared_redis().await, &flags.iter().map(|&flag| flag.to_owned()).collect::<Vec<_>>()[..]];
        let flags = flags.concat();
        let flags: Vec<_> = flags.iter().map(String::as_str).collect();
        Self { a: Server::with(&flags).await, b: Server::with(&flags).await }
    }

    /// Returns a client of each.
    pub async fn clients(&self) -> (Client, Client) {
        (self.a.client().await, self.b.client().await)
    }

    /// Drains both.
    pub async fn stop(self) {
        self.a.stop().await;
        self.b.stop().await;
    }
}

/// Returns flags for a separate part of the shared Redis, with a long timeout: many tests keep it and this machine
/// busy, and none of those that share it is about a Redis that does not answer.
pub async fn part_of_shared_redis() -> [String; 6] {
    let (url, prefix) = (shared_redis().await.url(), format!("{}:", Uuid::new_v4().simple()));
    ["--redis-url", &url, "--key-prefix", &prefix, "--redis-timeout", "4s"].map(str::to_owned)
}

/// Starts a server on this Redis.
pub async fn server_on(redis: &Redis) -> Server {
    Server::with(&["--redis-url", &redis.url()]).await
}

/// Starts a server on this Redis that rejects changes during an outage.
pub async fn strict_server_on(redis: &Redis) -> Server {
    Server::with(&["--redis-url", &redis.url(), "--fallback", "reject"]).await
}

/// A server to connect to, in this process or in one of its own.
pub trait Served {
    /// Opens a connection.
    async fn connect(&self) -> Channel;
}

impl Served for Server {
    async fn connect(&self) -> Channel {
        self.channel().await
    }
}

impl Served for Process {
    async fn connect(&self) -> Channel {
        self.channel().await
    }
}

impl Served for Channel {
    async fn connect(&self) -> Channel {
        self.clone()
    }
}

/// Waits until a server has reconciled its cached jobs, and serves from Redis.
pub async fn whole(server: &impl Served) {
    Health::watch_on(server.connect().await, "redis").await.until(Serving).await;
}

/// Waits until a server has noticed that Redis is unavailable.
pub async fn degraded(server: &impl Served) {
    Health::watch_on(server.connect().await, "redis").await.until(NotServing).await;
}

/// Returns the statistics of a server.
pub async fn stats(admin: &mut Admin) -> GetStatsResponse {
    admin.get_stats(GetStatsRequest {}).await.expect("it answers").into_inner()
}

/// The health of a service, as it changes.
pub struct Health(Streaming<HealthCheckResponse>);

impl Health {
    pub async fn watch(server: &Server, service: &str) -> Self {
        Self::watch_on(server.channel().await, service).await
    }

    /// Watches the health of a service on this connection.
    pub async fn watch_on(channel: Channel, service: &str) -> Self {
        let request = HealthCheckRequest { service: service.to_owned() };
        let stream = HealthClient::new(channel).watch(request).await;
        Self(stream.expect("health can be watched").into_inner())
    }

    /// Returns the next status.
    pub async fn next(&mut self) -> i32 {
        let answer = timeout(WAIT_TIMEOUT, self.0.message()).await.expect("health changes");
        answer.expect("the stream goes on").expect("the stream goes on").status
    }

    /// Returns the statuses that were sent since.
    pub fn unread(&mut self) -> Vec<i32> {
        let sent = || self.0.message().now_or_never();
        from_fn(sent).map(|answer| answer.expect("the stream goes on").expect("the stream goes on").status).collect()
    }

    /// Waits for a status.
    pub async fn until(&mut self, status: ServingStatus) {
        while self.next().await != status as i32 {}
    }
}

/// Fails unless this is the error of a call while Redis is unavailable.
#[track_caller]
pub fn assert_away(what: &str, status: &Status) {
    assert_eq!(
        (status.code(), reason(status).as_str()),
        (Code::Unavailable, "STORE_UNAVAILABLE"),
        "{what}: {status:?}"
    );
    assert!(status.get_details_retry_info().is_some(), "{what}: no RetryInfo in {status:?}");
}

/// Returns a request to read a job.
pub fn read(id: &str) -> GetJobRequest {
    GetJobRequest { job_id: id.to_owned(), ..GetJobRequest::default() }
}

/// Reads a job.
pub async fn get(client: &mut Client, id: &str) -> GetJobResponse {
    client.get_job(read(id)).await.expect("it can be read").into_inner()
}

/// Reads a job, which may fail.
pub async fn try_get(client: &mut Client, id: &str) -> Result<Job, Status> {
    Ok(client.get_job(read(id)).await?.into_inner().job.expect("a job"))
}

/// Returns a report under a lease.
pub fn under_lease(id: &str, lease: i64) -> UpdateProgressRequest {
    UpdateProgressRequest { job_id: id.to_owned(), lease_timeout: millis(lease), ..UpdateProgressRequest::default() }
}

/// Returns the result of `coming`, within a time limit, even if bookmarks keep a stream from being silent.
pub async fn in_time<T>(what: &str, coming: impl Future<Output = T>) -> T {
    timeout(WAIT_TIMEOUT, coming).await.unwrap_or_else(|_| panic!("{what} does not come"))
}

/// Waits for the event with which the store records that a worker is lost, and returns it. The event of an earlier
/// report may say so, too: if it is encoded after the lease has expired, its liveness is computed as LOST.
pub async fn until_lost(stream: &mut Watch, id: &str) -> Seen {
    let is_lost = |seen: &Seen| seen.id() == id && seen.job().liveness() == Liveness::Lost && seen.revision() > 2;
    let mut seen = in_time("the loss of the worker", stream.until(is_lost)).await;
    seen.pop().expect("until returns what it looked for")
}

/// Makes every call of a server without jobs, with every option, and both streams.
pub async fn use_everything(server: &Server) {
    let (mut client, mut admin) = (server.client().await, server.admin().await);
    let mut all = watch_jobs(&client, WatchJobsRequest::default()).await;
    let token = all.until_bookmark().await.pop().expect("a bookmark").token;
    let active = [State::Pending, State::Running].map(|state| state as i32).to_vec();
    let filter =
        JobFilter { states: active, kind: "test.work".to_owned(), owner: "o".to_owned(), ..JobFilter::default() };
    for id in ["succeeds", "fails", "stops", "lost", "late", "deleted"] {
        let request = CreateJobRequest { owner: "o".to_owned(), request_id: "r".to_owned(), ..new_job(id) };
        make(&mut client, CreateJobRequest { fail_when_lost: id == "late", ..request }).await;
    }
    make(&mut client, CreateJobRequest { retention: millis(1), ..new_job("brief") }).await;
    let mut one = watch(&client, "succeeds").await;
    one.expect(Event::Snapshot).await;
    report(&mut client, "succeeds").await;
    one.update().await;

    let request = GetJobRequest { min_revision: Some(2), ..read("succeeds") };
    client.get_job(request).await.expect("it can be read");
    let shared = CreateWatchTokenRequest { job_ids: vec!["succeeds".to_owned()], ..CreateWatchTokenRequest::default() };
    client.create_watch_token(shared).await.expect("it can be shared");
    let job_ids = ["succeeds", "missing"].map(str::to_owned).to_vec();
    client
        .batch_get_jobs(BatchGetJobsRequest { job_ids, ..BatchGetJobsRequest::default() })
        .await
        .expect("they can be read");
    for filter in [None, Some(JobFilter { states: vec![], ..filter.clone() }), Some(filter)] {
        let mut request = ListJobsRequest { filter, page_size: 2, ..ListJobsRequest::default() };
        loop {
            let page = client.list_jobs(request.clone()).await.expect("a page").into_inner();
            request.page_token = page.next_page_token;
            if request.page_token.is_empty() {
                break;
            }
        }
    }

    complete(&mut client, "succeeds").await;
    one.update().await;
    one.end().await;
    watch_jobs(&client, WatchJobsRequest { resume_token: token, ..WatchJobsRequest::default() })
        .await
        .until_bookmark()
        .await;
    fail(&mut client, "fails").await;
    complete(&mut client, "brief").await;
    all.until(|seen| seen.id() == "brief" && seen.event == Event::Removed).await;
    report(&mut client, "stops").await;
    client
        .cancel_job(CancelJobRequest { job_id: "stops".to_owned(), ..CancelJobRequest::default() })
        .await
        .expect("it can be asked to stop");
    client
        .confirm_cancel(ConfirmCancelRequest { job_id: "stops".to_owned(), ..ConfirmCancelRequest::default() })
        .await
        .expect("it was asked to stop");
    for id in ["lost", "late"] {
        client.update_progress(under_lease(id, 1)).await.expect("it can be reported on");
    }
    let (mut lost, mut failed) = (false, false);
    while !(lost && failed) {
        let seen = in_time("what was due", all.next()).await;
        lost |= seen.brief() == (Event::Update, "lost", 3);
        failed |= seen.brief() == (Event::Update, "late", 3);
    }
    delete(&mut client, "deleted").await;
    all.until(|seen| seen.id() == "deleted" && seen.event == Event::Removed).await;
    admin.purge_jobs(PurgeJobsRequest::default()).await.expect("ended jobs can be purged");
    let stats = stats(&mut admin).await;
    assert_eq!(stats.jobs_in_redis, Some(1), "only one has not ended: {stats:?}");
}
