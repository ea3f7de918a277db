//! `jobtrack serve`.

use std::{
    hint::black_box,
    io::{ErrorKind, Write, stdout},
    net::SocketAddr,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use socket2::SockRef;
use tokio::{
    net::TcpListener,
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    time::sleep,
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{
    config::{Config, HttpListen, Switch},
    files::{FILES_WARNING, raise_limit},
    server::{Control, Server},
    telemetry,
};

/// Interval at which free memory is returned to the system.
const FREE_MEMORY_INTERVAL: Duration = Duration::from_secs(5);

/// Size in bytes of a block that is large enough for mimalloc to allocate it from the system directly.
const LARGE_BLOCK: usize = 1024 * 1024;

/// Serves until SIGTERM or SIGINT. Warns about `unknown` variables.
pub fn run(config: &Config, unknown: &[String]) -> Result<()> {
    let runtime = Runtime::new().context("the runtime can't be started")?;
    let _entered = runtime.enter();
    let _guard = telemetry::init(config.log_format, &config.log)?;
    for variable in unknown {
        warn!(variable, "unknown variable; it has no effect");
    }
    runtime.block_on(serve(config))
}

async fn serve(config: &Config) -> Result<()> {
    let signals = Signals::new()?;
    if let Some(files) = raise_limit().filter(|files| *files < FILES_WARNING) {
        warn!(
            files,
            "the limit on open files is low, and each connection needs one: raise the limit (ulimit -Hn, LimitNOFILE)"
        );
    }
    let listener = listen("--listen", &config.listen).await?;
    let address = listener.local_addr()?;
    config.security.permits(address)?;
    let http = match config.http_listen() {
        Some(HttpListen::Chosen(address)) => Some(listen("--http-listen", address).await?),
        Some(HttpListen::Default(address)) => listen("--http-listen", address)
            .await
            .inspect_err(|problem| warn!("serving without metrics and probes: {problem}, or set --http-listen off"))
            .ok(),
        None => None,
    };
    let http_address = http.as_ref().map(TcpListener::local_addr).transpose()?;
    let server = Server::open(config).await?;
    let storage = config.redis.target().map_or_else(|| "memory".to_owned(), ToString::to_string);
    // The server runs even if standard output is closed.
    let banner = banner(address, http_address, &storage, config);
    _ = stdout().write_all(banner.as_bytes());
    if config.security.is_open(address) {
        warn!("no authentication configured: anyone who can connect has full access; set --auth-tokens");
    }
    let max_memory = config.memory().total();
    info!(%address, http = http_address.map(tracing::field::display), storage, %max_memory, "serving");
    let (control, drain) = (Control::default(), CancellationToken::new());
    tokio::spawn(signals.handle(control.clone(), drain.clone()));
    tokio::spawn(return_free_memory());
    match server.run_under(control, listener, http, drain.cancelled()).await {
        0 => Ok(()),
        left => Err(anyhow!("changes of {left} jobs were not stored in Redis and are lost: see the log")),
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

    /// Handles the signals: SIGHUP reloads files, the first SIGTERM or SIGINT starts to drain, and the second one ends
    /// the drain at once.
    async fn handle(mut self, control: Control, drain: CancellationToken) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => {}
                _ = self.interrupt.recv() => {}
                _ = self.hangup.recv() => {
                    info!(target: "jobtrack::audit", "SIGHUP: reloading the files that have changed");
                    control.reload.notify_one();
                    continue;
                }
            }
            if drain.is_cancelled() {
                control.abort_drain.cancel();
            }
            drain.cancel();
        }
    }
}

/// Makes the allocator return free memory to the system; never returns. The allocator returns memory only when a large
/// block is freed. Without this task an idle server would keep its peak memory.
async fn return_free_memory() {
    loop {
        sleep(FREE_MEMORY_INTERVAL).await;
        drop(black_box(Vec::<u8>::with_capacity(LARGE_BLOCK)));
    }
}

/// Maximum number of connections that wait to be accepted; the kernel has a maximum of its own. The default of 128 is
/// too small when all clients of a restarted server connect at once: the kernel drops or resets the other connections.
const BACKLOG: i32 = 4096;

/// Listens on `address`, the value of `flag`.
async fn listen(flag: &str, address: &str) -> Result<TcpListener> {
    let listener = TcpListener::bind(address).await.map_err(|error| match error.kind() {
        ErrorKind::AddrInUse => {
            anyhow!("{address} is in use, perhaps by another jobtrack: stop it, or choose another address with {flag}")
        }
        ErrorKind::PermissionDenied => {
            anyhow!("this user may not listen on {address}: choose a port above 1023 with {flag}")
        }
        _ => anyhow!("can't listen on {address}: {error}; choose another address with {flag}"),
    })?;
    SockRef::from(&listener).listen(BACKLOG).map_err(|error| anyhow!("can't listen on {address}: {error}"))?;
    Ok(listener)
}

/// Returns the address by which programs on this machine reach `address`.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip([127, 0, 0, 1].into());
    }
    address
}

fn banner(address: SocketAddr, http: Option<SocketAddr>, storage: &str, config: &Config) -> String {
    let tls = config.security.tls_cert.is_some();
    let version = env!("CARGO_PKG_VERSION");
    let method = "jobtrack.v1.JobService/CreateJob";
    let caller = reachable(address);
    let http = http.map(|http| format!("  curl http://{}/metrics\n", reachable(http))).unwrap_or_default();
    let (plaintext, protocol, scheme) =
        if tls { ("", "", "https") } else { (" -plaintext", " --http2-prior-knowledge", "http") };
    let api = match config.http_api.http_api {
        Switch::On => {
            format!("  curl {scheme}://{caller}/v1/jobs -H content-type:application/json -d '{{\"kind\":\"demo\"}}'\n")
        }
        Switch::Off => String::new(),
    };
    format!(
        "jobtrack {version} listening on {address}, storage: {storage}\n\
         \n  grpcurl{plaintext} -d '{{\"kind\":\"demo\"}}' {caller} {method}\
         \n  buf curl --protocol grpc{protocol} -d '{{\"kind\":\"demo\"}}' {scheme}://{caller}/{method}\n{api}{http}"
    )
}
