//! `jobtrack health`: the container's probe.

use std::{net::ToSocketAddrs, time::Duration};

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
    let mut target = address
        .to_socket_addrs()
        .ok()
        .and_then(|mut found| found.next())
        .with_context(|| format!("--addr {address:?} is not HOST:PORT"))?;
    if target.ip().is_unspecified() {
        target.set_ip([127, 0, 0, 1].into());
    }
    let channel = Endpoint::new(format!("http://{target}"))?.connect().await;
    let mut client = HealthClient::new(channel.with_context(|| format!("{target} can't be reached"))?);
    let answer = client.check(HealthCheckRequest::default()).await;
    match answer.with_context(|| format!("{target} does not tell its health"))?.into_inner().status() {
        status if status as i32 == ServingStatus::Serving as i32 => {
            println!("serving");
            Ok(())
        }
        _ => bail!("{target} is not serving"),
    }
}
