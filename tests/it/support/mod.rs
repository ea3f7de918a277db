//! A real server on a real socket, and its clients.

pub mod attempts;
pub mod clocks;
pub mod credentials;
pub mod events;
pub mod faketime;
pub mod http;
pub mod jobs;
pub mod json;
pub mod otlp;
pub mod pace;
pub mod process;
pub mod programs;
pub mod raw;
pub mod records;
pub mod redis;
pub mod relay;
pub mod replicas;
pub mod skewed;
pub mod stores;
mod tests;
pub mod watching;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use clap::Parser;
use jobtrack::{
    clock::{Clock, SystemClock},
    config::Config,
    proto::{
        EncodedStruct,
        v1::{CreateJobRequest, Job, admin_service_client::AdminServiceClient, job_service_client::JobServiceClient},
    },
    server,
};
use prost_types::{Struct, Value, value::Kind};
use tokio::{
    net::TcpListener,
    task::JoinHandle,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Request, Status,
    transport::{Channel, Endpoint},
};
use tonic_types::{ErrorInfo, StatusExt};

/// Maximum wait for an expected event; far longer than it takes.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// A client of `JobService`.
pub type Client = JobServiceClient<Channel>;

/// A client of `AdminService`.
pub type Admin = AdminServiceClient<Channel>;

/// A server in this process, which drains and ends when it is stopped.
pub struct Server {
    pub address: SocketAddr,
    /// Address of metrics and probes.
    pub http: SocketAddr,
    stop: CancellationToken,
    running: JoinHandle<usize>,
}

impl Server {
    /// Starts a server with the defaults.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with these flags.
    pub async fn with(flags: &[&str]) -> Self {
        Self::with_clock(flags, Arc::new(SystemClock)).await
    }

    /// Starts a server with these flags, on this clock.
    pub async fn with_clock(flags: &[&str], clock: Arc<dyn Clock>) -> Self {
        let server = server::Server::open_with_clock(&config(flags), clock).await.expect("its store is usable");
        let (listener, address) = listen().await;
        let (http_listener, http) = listen().await;
        let stop = CancellationToken::new();
        let stopped = stop.clone().cancelled_owned();
        let running = tokio::spawn(server.run(listener, Some(http_listener), stopped));
        Self { address, http, stop, running }
    }

    /// Opens a new connection.
    pub async fn channel(&self) -> Channel {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.address)).expect("an address is a URI");
        endpoint.connect().await.expect("the server listens")
    }

    /// Opens a new connection, and returns a client of `JobService`.
    pub async fn client(&self) -> Client {
        JobServiceClient::new(self.channel().await)
            .max_decoding_message_size(8 << 20)
            .max_encoding_message_size(8 << 20)
    }

    /// Opens a new connection, and returns a client of `AdminService`.
    pub async fn admin(&self) -> Admin {
        AdminServiceClient::new(self.channel().await)
    }

    /// Begins to drain.
    pub fn begin_stop(&self) {
        self.stop.cancel();
    }

    /// Drains, and returns when everything has ended.
    pub async fn stop(self) {
        self.stop.cancel();
        self.running.await.expect("the server ends without a panic");
    }
}

async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("a bound listener has an address");
    (listener, address)
}

/// Returns the configuration of these flags.
pub fn config(flags: &[&str]) -> Config {
    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }
    // Few tests are about replicas that are cut off: the others should not wait for them.
    let given: &[&str] = if flags.contains(&"--replica-grace") { &[] } else { &["--replica-grace", "100ms"] };
    let mut config = Flags::parse_from(["jobtrack"].iter().chain(given).chain(flags)).config;
    config.resolve().expect("the flags are valid");
    config
}

/// Returns a request to create a job.
pub fn new_job(id: &str) -> CreateJobRequest {
    CreateJobRequest { job_id: id.to_owned(), kind: "test.work".to_owned(), ..CreateJobRequest::default() }
}

/// Returns a request to create a job of this owner.
pub fn owned(id: &str, owner: &str) -> CreateJobRequest {
    CreateJobRequest { owner: owner.to_owned(), ..new_job(id) }
}

/// Returns a document with a text.
pub fn text_document(text: &str) -> EncodedStruct {
    let text = Value { kind: Some(Kind::StringValue(text.to_owned())) };
    Struct { fields: [("text".to_owned(), text)].into() }.into()
}

/// Returns a document with a text of this length.
pub fn large_document(length: usize) -> EncodedStruct {
    text_document(&"x".repeat(length))
}

/// Returns the result of a probe, once there is one. Fails if there never is.
pub async fn until<T>(what: &str, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let found = timeout(WAIT_TIMEOUT, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            sleep(Duration::from_millis(20)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("not within {WAIT_TIMEOUT:?}: {what}"))
}

/// Creates a job.
pub async fn create(client: &mut Client, id: &str) -> Job {
    client.create_job(new_job(id)).await.expect("a job can be created").into_inner().job.expect("a job")
}

/// Returns a request with the longest deadline that servers accept from callers that they know. On a busy machine, a
/// thousand calls at a time or large ones take longer than the default deadline.
pub fn with_long_deadline<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(Duration::from_secs(60));
    request
}

/// Returns the one `ErrorInfo` that every error has.
pub fn error_info(status: &Status) -> ErrorInfo {
    let details = status.get_error_details_vec();
    let mut infos = details.into_iter().filter_map(|detail| match detail {
        tonic_types::ErrorDetail::ErrorInfo(info) => Some(info),
        _ => None,
    });
    let info = infos.next().unwrap_or_else(|| panic!("no ErrorInfo in {status:?}"));
    assert!(infos.next().is_none(), "more than one ErrorInfo in {status:?}");
    assert_eq!(info.domain, "jobtrack");
    info
}

/// Returns the reason of an error.
pub fn reason(status: &Status) -> String {
    error_info(status).reason
}

/// Returns the violations of an error by field. Fails if a field has two.
pub fn violations(status: &Status) -> HashMap<String, String> {
    let details = status.get_error_details();
    let found = details.bad_request().map(|bad| bad.field_violations.clone()).unwrap_or_default();
    let count = found.len();
    let by_field: HashMap<_, _> = found.into_iter().map(|bad| (bad.field, bad.description)).collect();
    assert_eq!(by_field.len(), count, "a field has two violations");
    by_field
}
