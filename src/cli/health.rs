//! `jobtrack health`: the container's probe.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use axum::body::Body;
use clap::Args;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::{ServingStatus, pb::HealthCheckRequest};

use crate::{
    config::{DEFAULT_HTTP_LISTEN, DEFAULT_LISTEN},
    proto::health::health_client::HealthClient,
};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whom to ask.
#[derive(Args)]
pub struct Probe {
    /// The server's address, where it has no TLS
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT")]
    addr: String,

    /// Ask at the HTTP port instead, which never has TLS
    #[arg(long)]
    http: bool,

    /// The server's HTTP port, for --http
    #[arg(long, env = "JOBTRACK_HTTP_LISTEN", default_value = DEFAULT_HTTP_LISTEN, value_name = "HOST:PORT")]
    http_addr: String,
}

/// Asks; an error unless the server takes calls.
pub fn run(probe: &Probe) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let address = if probe.http { &probe.http_addr } else { &probe.addr };
    let answer = async { if probe.http { check_http(address).await } else { check(address).await } };
    let answer = runtime.block_on(async { timeout(PATIENCE, answer).await });
    answer.with_context(|| format!("{address} did not answer within {PATIENCE:?}"))??;
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

async fn check(address: &str) -> Result<()> {
    let endpoint = Endpoint::new(format!("http://{address}"));
    let endpoint = endpoint.with_context(|| format!("--addr {address:?} is not HOST:PORT"))?;
    let channel = endpoint.connect().await.with_context(|| format!("{address} can't be reached"))?;
    let answer = HealthClient::new(channel).check(HealthCheckRequest::default()).await;
    let answer = answer.with_context(|| format!("{address} does not tell its health"))?.into_inner();
    if answer.status != ServingStatus::Serving as i32 {
        bail!("{address} is not serving");
    }
    Ok(())
}
