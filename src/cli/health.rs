//! `jobtrack health`: a health probe for containers.

use std::{
    future::ready,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use axum::body::Body;
use clap::Args;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioIo},
};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::{ServingStatus, pb::HealthCheckRequest};
use tower::service_fn;

use crate::{
    config::{DEFAULT_HTTP_LISTEN, DEFAULT_LISTEN, OFF, host_port},
    proto::health::health_client::HealthClient,
    tls,
};

/// Maximum time for the answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);

/// The server to probe.
#[derive(Args)]
pub struct Probe {
    /// Address of the server
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT")]
    addr: String,

    /// Connect with TLS; file with the CA certificates that verify the server, PEM; the certificate must name the host
    #[arg(long, value_name = "FILE", conflicts_with = "http")]
    tls_ca: Option<PathBuf>,

    /// Probe the HTTP port, which never has TLS, instead of --addr; has no effect if --http-addr is off
    #[arg(long)]
    http: bool,

    /// HTTP address of the server, for --http
    #[arg(long, env = "JOBTRACK_HTTP_LISTEN", default_value = DEFAULT_HTTP_LISTEN, value_name = "HOST:PORT")]
    http_addr: String,
}

/// Probes the server. Returns an error unless the server accepts calls.
pub fn run(probe: &Probe) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Without an HTTP port the gRPC port is probed, in plaintext. That fails if the gRPC port requires TLS.
    let http = probe.http && probe.http_addr != OFF;
    let (flag, address) = if http { ("--http-addr", &probe.http_addr) } else { ("--addr", &probe.addr) };
    // Only the address in use is checked: the other one may come from a variable that is meant for the server.
    if let Err(advice) = host_port(address) {
        super::reject(&format!("{flag} {address:?}: {advice}"));
    }
    let answer = async { if http { check_http(address).await } else { check(address, probe.tls_ca.as_deref()).await } };
    let answer = runtime.block_on(async { timeout(ANSWER_TIMEOUT, answer).await });
    answer.with_context(|| format!("{address} did not answer within {ANSWER_TIMEOUT:?}"))??;
    println!("serving");
    Ok(())
}

async fn check_http(address: &str) -> Result<()> {
    let page = format!("http://{address}/readyz").parse();
    let page = page.with_context(|| format!("--http-addr {address:?} is not HOST:PORT"))?;
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let answer = client.get(page).await.with_context(|| format!("{address} can't be reached"))?;
    if !answer.status().is_success() {
        bail!("{address} is not serving");
    }
    Ok(())
}

async fn check(address: &str, authorities: Option<&Path>) -> Result<()> {
    let endpoint = Endpoint::new(format!("http://{address}"));
    let endpoint = endpoint.with_context(|| format!("--addr {address:?} is not HOST:PORT"))?;
    let unreachable = || format!("{address} can't be reached");
    let channel = match authorities {
        None => endpoint.connect().await.with_context(unreachable)?,
        Some(authorities) => {
            let stream = tls::connect(address, authorities).await.with_context(unreachable)?;
            let mut stream = Some(TokioIo::new(stream));
            let connector = service_fn(move |_| ready(stream.take().ok_or("the connection was lost")));
            endpoint.connect_with_connector(connector).await.with_context(unreachable)?
        }
    };
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let answer = answer.with_context(|| format!("{address} does not report its health"))?.into_inner();
    if answer.status != ServingStatus::Serving as i32 {
        bail!("{address} is not serving");
    }
    Ok(())
}
