//! A tracker to call, and how it is reached.

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

/// Default time for a call, with its repetitions.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Maximum time for a connection to be made.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time without traffic after which the connection is probed, and maximum time for the answer.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(10));

/// A jobtrack server, or several replicas of it. Clones share the connections.
#[derive(Clone, Debug)]
pub struct Tracker {
    pub(crate) connections: Arc<Connections>,
}

/// Configures a [`Tracker`].
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

// The token is a secret.
impl fmt::Debug for Builder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Builder").field("server", &self.server).finish_non_exhaustive()
    }
}

/// A configuration that can't be used. The message names the setting and what is wrong with it.
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

    /// Sets the file that holds the token. It is read for each call, so the token can be replaced.
    pub fn token_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.token_file = Some(path.into());
        self
    }

    /// Sets the file with the certificates of the authorities that sign the server's, in PEM. Without it the system's
    /// authorities are trusted.
    pub fn ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.ca_file = Some(path.into());
        self
    }

    /// Sets the files with the certificate of this client and its private key, in PEM.
    pub fn client_cert(mut self, certificate: impl Into<PathBuf>, key: impl Into<PathBuf>) -> Self {
        self.identity = Some((certificate.into(), key.into()));
        self
    }

    /// Sets the maximum time of a call, with its repetitions. Default: 10 s.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Sets whether a call waits until the server can be reached, for as long as its time allows, or fails at once.
    /// Default: it waits.
    pub fn wait_for_ready(mut self, wait: bool) -> Self {
        self.wait_for_ready = wait;
        self
    }

    /// Returns the tracker. It connects when it is called. Must be used within a tokio runtime.
    pub fn connect_lazy(self) -> Result<Tracker, ConfigError> {
        let token = match (&self.token, &self.token_file) {
            (Some(token), _) => {
                Token::Fixed(bearer(token).ok_or_else(|| ConfigError::new("token", &"it has invalid characters"))?)
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
            return Err(ConfigError::new(setting(), &"it must be a URL such as http://127.0.0.1:50051, or https://…"));
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
    /// Configures a tracker at a URL, `http://HOST:PORT` or `https://HOST:PORT`; those of several replicas are
    /// separated by commas.
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

    /// Configures the tracker that the environment names: `JOBTRACK_SERVER`, by default [`DEFAULT_SERVER`], with the
    /// token `JOBTRACK_TOKEN`.
    pub fn from_env() -> Builder {
        let builder = Self::builder(env::var("JOBTRACK_SERVER").unwrap_or_else(|_| DEFAULT_SERVER.to_owned()));
        match env::var("JOBTRACK_TOKEN") {
            Ok(token) if !token.is_empty() => builder.token(token),
            _ => builder,
        }
    }

    /// Creates a job of this kind: call [`Create::send`], or [`Create::work`] to work on it as well.
    pub fn create(&self, kind: impl Into<String>) -> Create {
        Create::new(self.clone(), kind.into())
    }

    /// Works on a job: call [`WorkBuilder::start`] to claim its next attempt.
    pub fn work(&self, id: impl Into<String>) -> WorkBuilder {
        WorkBuilder::of_job(self.clone(), id.into())
    }

    /// Watches a job to its end. Nothing is sent until the stream is polled. It has no time limit, and goes on while
    /// the tracker is unavailable.
    pub fn watch(&self, id: impl Into<String>) -> Watch {
        Watch::new(self.clone(), id.into())
    }

    /// Watches all jobs that match. The stream does not end by itself.
    pub fn watch_many(&self, filter: v1::JobFilter) -> WatchMany {
        WatchMany::new(self.clone(), filter)
    }

    /// Waits for the end of a job and returns it, whatever the end is: see [`Job::state`](v1::Job::state). It waits for
    /// as long as that takes, even while the tracker is unavailable; `tokio::time::timeout` limits that.
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

    /// Reports on a job that somebody else claimed, or nobody; a worker uses [`work`](Self::work).
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

    /// Requests the cancellation of a job. Its worker stops it; a PENDING job is CANCELLED at once.
    pub async fn cancel(&self, id: impl Into<String>, reason: impl Into<String>) -> Result<Job, Error> {
        self.cancel_with(v1::CancelJobRequest { job_id: id.into(), reason: reason.into(), ..Default::default() }).await
    }

    /// Deletes a job; one that has not ended needs `force`.
    pub async fn delete(&self, id: impl Into<String>, force: bool) -> Result<(), Error> {
        let request = v1::DeleteJobRequest { job_id: id.into(), force };
        let send = async |mut jobs: Jobs, request| jobs.delete_job(request).await;
        self.connections.call(Repeat::Unsent, request, send).await?;
        Ok(())
    }

    /// Returns the connection in use, for calls that this type has no method for. It adds no credentials to them.
    pub fn channel(&self) -> Channel {
        self.connections.channel(self.connections.current())
    }
}

/// The generated client.
pub(crate) type Jobs = v1::job_service_client::JobServiceClient<Channel>;
