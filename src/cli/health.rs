//! `jobtrack health`: the container's probe.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::{ServingStatus, pb::HealthCheckRequest};

use crate::{config::DEFAULT_LISTEN, proto::health::health_client::HealthClient};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(3);

/// Whom to ask.
#[derive(Args)]
pub struct Probe {
    /// The server's address
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT")]
    addr: String,
}

/// Asks; an error unless the server takes calls.
pub fn run(probe: &Probe) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let answer = runtime.block_on(async { timeout(PATIENCE, check(&probe.addr)).await });
    answer.with_context(|| format!("{} did not answer within {PATIENCE:?}", probe.addr))?
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
    println!("serving");
    Ok(())
}
