//! `jobtrack serve`.

use std::{
    hint::black_box,
    io::{ErrorKind, Write, stdout},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Error, Result, anyhow};
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, HttpListen},
    files::{FEW, raise_limit},
    server::{Control, Server},
    telemetry,
};

/// How often free memory is returned to the system.
const FREE_MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// Bytes that mimalloc takes from the system as a block of their own.
const LARGE_BLOCK: usize = 1024 * 1024;

/// Serves until SIGTERM or SIGINT. Warns of `unknown` variables.
pub fn run(config: &Config, unknown: &[String]) -> Result<()> {
    let runtime = Runtime::new().context("the runtime can't be started")?;
    let _entered = runtime.enter();
    let _telling = telemetry::init(config.log_format, &config.log)?;
    for variable in unknown {
        warn!(variable, "there is no such variable: nothing is set by it");
    }
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<()> {
    let signals = Signals::new()?;
    if let Some(files) = raise_limit().filter(|files| *files < FEW) {
        warn!(files, "few files may be open, and each connection is one: raise the limit (ulimit -Hn, LimitNOFILE)");
    }
    let listener = listen("--listen", &config.listen).await?;
    let address = listener.local_addr()?;
    config.security.permits(address).map_err(Error::msg)?;
    let http = match config.http_listen() {
        Some(HttpListen::Chosen(address)) => Some(listen("--http-listen", address).await?),
        Some(HttpListen::Default(address)) => listen("--http-listen", address)
            .await
            .inspect_err(|problem| warn!("serving without metrics and probes: {problem}, or off"))
            .ok(),
        None => None,
    };
    let http_address = http.as_ref().map(TcpListener::local_addr).transpose()?;
    let server = Server::open(config).await?;
    let storage = config.redis.target().map_or_else(|| "memory".to_owned(), ToString::to_string);
    // A closed standard output is no reason not to serve.
    _ = stdout().write_all(banner(address, http_address, &storage, config.security.tls_cert.is_some()).as_bytes());
    if config.security.is_open(address) {
        warn!("whoever reaches this port may do everything: --auth-tokens says who may do what");
    }
    let max_memory = config.memory().total();
    info!(%address, http = http_address.map(tracing::field::display), storage, %max_memory, "serving");
    let (control, drain) = (Control::default(), CancellationToken::new());
    tokio::spawn(signals.follow(control.clone(), drain.clone()));
    tokio::spawn(return_free_memory());
    match server.run_under(control, listener, http, drain.cancelled()).await {
        0 => Ok(()),
        left => Err(anyhow!("{left} jobs have changes that Redis does not have, and that are lost: see the log")),
    }
}

/// The signals that the process reacts to.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> Result<Self> {
        let [terminate, interrupt, hangup] = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
        Ok(Self { terminate: signal(terminate)?, interrupt: signal(interrupt)?, hangup: signal(hangup)? })
    }

    /// Carries out the signals: SIGHUP has files read again, the first SIGTERM or SIGINT begins to drain, and the second
    /// one ends that.
    async fn follow(mut self, control: Control, drain: CancellationToken) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    info!(target: "jobtrack::audit", "SIGHUP: files are read again where they have changed");
                    control.reload.notify_one();
                    continue;
                }
            }
            if drain.is_cancelled() {
                control.hurry.cancel();
            }
            drain.cancel();
        }
    }
}

/// Has the allocator return free memory to the system, for ever. It does so only when a large block is freed: an idle
/// server would keep what its busiest second needed.
async fn return_free_memory() {
    loop {
        sleep(FREE_MEMORY_INTERVAL).await;
        drop(black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
    }
}

/// Listens where `flag` says.
async fn listen(flag: &str, address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("{address} is in use, perhaps by another jobtrack: stop that, or choose another with {flag}")
        }
        ErrorKind::PermissionDenied => {
            anyhow!("this user may not listen on {address}: choose a port above 1023 with {flag}")
        }
        _ => anyhow!("can't listen on {address}: {error}; choose another with {flag}"),
    })
}

/// Where somebody on this machine reaches `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}

fn banner(address: SocketAddr, http: Option<SocketAddr>, storage: &str, tls: bool) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let method = "jobtrack.v1.JobService/CreateJob";
    let caller = reachable(address);
    let http = http.map(|http| format!("  curl http://{}/metrics\n", reachable(http))).unwrap_or_default();
    let (plaintext, protocol, scheme) =
        if tls { ("", "", "https") } else { (" -plaintext", " --http2-prior-knowledge", "http") };
    format!(
        "jobtrack {version} listening on {address}, storage: {storage}\n\
         \n  grpcurl{plaintext} -d '{{\"kind\":\"demo\"}}' {caller} {method}\
         \n  buf curl --protocol grpc{protocol} -d '{{\"kind\":\"demo\"}}' {scheme}://{caller}/{method}\n{http}"
    )
}
