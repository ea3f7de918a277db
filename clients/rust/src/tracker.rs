//! The tracker, and the settings of the connections to it.

use std::{env, fmt, fs, path::PathBuf, sync::Arc, time::Duration};

use serde::Serialize;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};

use crate::{
    Create, Error, Job, Watch, WatchMany, WorkBuilder,
    channel::{Connections, Repeat, Replica, Token, bearer},
    job::document,
    proto::v1,
};

/// Server that is called if nothing else is configured.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// Default of the maximum time of a call, including its retries.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time to connect to a replica.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without received data after which a connection is pinged, and maximum time for the answer to the ping.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A jobtrack server, or several replicas of it. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub(crate) connections: Arc<Connections>,
}

/// Builder of a [`Tracker`].
#[derive(Clone)]
pub struct Builder {
    server: String,
    token: Option<String>,
    token_file: Option<PathBuf>,
    ca_file: Option<PathBuf>,
    identity: Option<(PathBuf, PathBuf)>,
    timeout: Duration,
    wait_for_ready: bool,
}

// Written by hand because the token is a secret.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("server", &self.server).finish_non_exhaustive()
    }
}

/// An invalid configuration. The message names the setting and the problem.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {problem}")]
pub struct ConfigError {
    setting: String,
    problem: String,
}

impl ConfigError {
    fn new(setting: impl Into<String>, problem: &dyn fmt::Display) -> Self {
        Self { setting: setting.into(), problem: problem.to_string() }
    }
}

impl Builder {
    /// Sets the token that calls carry.
    pub fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }

    /// Sets the file that holds the token. The file is read for each call: the token can be replaced at any time.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the file with the CA certificates that verify the certificate of the server, in PEM. Default: the CA
    /// certificates of the system.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets the files with the certificate of this client and its private key, in PEM.
    pub fn client_cert(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the maximum time of a call, including its retries. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether a call waits until a server can be reached, up to the maximum time of the call. Otherwise the call
    /// fails as soon as it has tried each replica. Default: `true`.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Returns the tracker. The first call connects. Must be called within a tokio runtime.
    pub fn connect_lazy(self) -> Result<Tracker, ConfigError> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => {
                let invalid = || ConfigError::new("token", &"it is empty or has invalid characters");
                Token::Fixed(bearer(token).ok_or_else(invalid)?)
            }
            (None, Some(path)) => Token::File(path.clone()),
            (None, None) => Token::None,
        };
        let urls = self.server.split(',').map(str::trim);
        let replica = |url: &str| Ok(Replica { url: url.to_owned(), channel: self.channel(url)? });
        let replicas: Result<_, ConfigError> = urls.map(replica).collect();
        let connections = Connections::new(replicas?, token, self.timeout, self.wait_for_ready);
        Ok(Tracker { connections: Arc::new(connections) })
    }

    /// Returns the channel to one replica.
    fn channel(&self, url: &str) -> Result<Channel, ConfigError> {
        let setting = || format!("server {url:?}");
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(ConfigError::new(setting(), &"must be a URL such as http://127.0.0.1:50051, or https://…"));
        }
        let mut endpoint = Endpoint::from_shared(url.to_owned())
            .map_err(|error| ConfigError::new(setting(), &error))?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .user_agent(concat!("jobtrack-client/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| ConfigError::new(setting(), &error))?;
        if url.starts_with("https://") {
            endpoint = endpoint.tls_config(self.tls()?).map_err(|error| ConfigError::new(setting(), &error))?;
        }
        Ok(endpoint.connect_lazy())
    }

    fn tls(&self) -> Result<ClientTlsConfig, ConfigError> {
        let read =
            |path: &PathBuf| fs::read(path).map_err(|error| ConfigError::new(path.display().to_string(), &error));
        let tls = match &self.ca_file {
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        Ok(match &self.identity {
            Some((certificate, key)) => tls.identity(Identity::from_pem(read(certificate)?, read(key)?)),
            None => tls,
        })
    }
}

impl Tracker {
    /// Returns a builder for the tracker at a URL, `http://HOST:PORT` or `https://HOST:PORT`. Separate the URLs of
    /// several replicas by commas.
    pub fn builder(server: impl Into<String>) -> Builder {
        Builder {
            server: server.into(),
            token: None,
            token_file: None,
            ca_file: None,
            identity: None,
            timeout: CALL_TIMEOUT,
            wait_for_ready: true,
        }
    }

    /// Returns a builder with the settings of the environment: the URL `JOBTRACK_SERVER`, by default
    /// [`DEFAULT_SERVER`], and the token `JOBTRACK_TOKEN`.
    pub fn from_env() -> Builder {
        let builder = Self::builder(env::var("JOBTRACK_SERVER").unwrap_or_else(|_| DEFAULT_SERVER.to_owned()));
        match env::var("JOBTRACK_TOKEN") {
            Ok(token) if !token.is_empty() => builder.token(token),
            _ => builder,
        }
    }

    /// Returns a builder for a new job of this kind: call [`Create::send`] to create the job, or [`Create::work`] to
    /// create it and work on it.
    pub fn create(&self, kind: impl Into<String>) -> Create {
        Create::new(self.clone(), kind.into())
    }

    /// Returns a builder for work on a job: call [`WorkBuilder::start`] to claim the next attempt of the job.
    pub fn work(&self, id: impl Into<String>) -> WorkBuilder {
        WorkBuilder::of_job(self.clone(), id.into())
    }

    /// Watches a job to its end. Nothing is sent until the stream is polled. The stream has no time limit, and
    /// reconnects for as long as the tracker is unavailable.
    pub fn watch(&self, id: impl Into<String>) -> Watch {
        Watch::new(self.clone(), id.into())
    }

    /// Watches all jobs that match. The stream does not end by itself.
    pub fn watch_many(&self, filter: v1::JobFilter) -> WatchMany {
        WatchMany::new(self.clone(), filter)
    }

    /// Waits for the end of a job and returns the job, whatever its end is: see [`Job::state`](v1::Job::state). The
    /// wait has no time limit, even while the tracker is unavailable; use `tokio::time::timeout` to limit it.
    pub async fn wait(&self, id: impl Into<String>) -> Result<Job, Error> {
        self.watch(id).end().await
    }

    /// Returns a job as it is now.
    pub async fn get(&self, id: impl Into<String>) -> Result<Job, Error> {
        let request = v1::GetJobRequest { job_id: id.into(), ..Default::default() };
        let send = async |mut jobs: Jobs, request| jobs.get_job(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Returns a page of the jobs that match, without their documents unless the request has [`View::Full`](v1::View).
    pub async fn list(&self, request: v1::ListJobsRequest) -> Result<v1::ListJobsResponse, Error> {
        self.connections
            .call(Repeat::Safe, request, async |mut jobs: Jobs, request| jobs.list_jobs(request).await)
            .await
    }

    /// Reports the progress of a job without claiming it. Workers should use [`work`](Self::work) instead.
    pub async fn update(&self, request: v1::UpdateProgressRequest) -> Result<v1::UpdateProgressResponse, Error> {
        let send = async |mut jobs: Jobs, request| jobs.update_progress(request).await;
        self.connections.call(Repeat::Safe, request, send).await
    }

    /// Completes a job.
    pub async fn complete(&self, id: impl Into<String>, result: impl Serialize) -> Result<Job, Error> {
        let request = v1::CompleteJobRequest { job_id: id.into(), result: document(result)?, ..Default::default() };
        let send = async |mut jobs: Jobs, request| jobs.complete_job(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Ends a job with a failure.
    pub async fn fail(&self, id: impl Into<String>, failure: v1::Failure) -> Result<Job, Error> {
        let request = v1::FailJobRequest { job_id: id.into(), failure: Some(failure), ..Default::default() };
        let send = async |mut jobs: Jobs, request| jobs.fail_job(request).await;
        Ok(self.connections.call(Repeat::Safe, request, send).await?.job.unwrap_or_default())
    }

    /// Requests the cancellation of a job. A worker that runs the job is asked to stop; a PENDING job is CANCELLED at
    /// once.
    pub async fn cancel(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Job, Error> {
        self.cancel_with(v1::CancelJobRequest { job_id: id.into(), reason: reason.into(), ..Default::default() }).await
    }

    /// Deletes a job. `force` deletes even a job that has not ended.
    pub async fn delete(&self, id: impl Into<String>, force: bool) -> Result<(), Error> {
        let request = v1::DeleteJobRequest { job_id: id.into(), force };
        let send = async |mut jobs: Jobs, request| jobs.delete_job(request).await;
        self.connections.call(Repeat::Unsent, request, send).await?;
        Ok(())
    }

    /// Returns the channel to the replica in use, for calls that this type has no method for. The channel adds no
    /// credentials.
    pub fn channel(&self) -> Channel {
        self.connections.channel(self.connections.current())
    }
}

/// The generated client.
pub(crate) type Jobs = v1::job_service_client::JobServiceClient<Channel>;
