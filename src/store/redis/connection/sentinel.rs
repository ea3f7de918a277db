//! The master that sentinels name.

use std::{collections::HashMap, time::Duration};

use futures_util::future::join_all;
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue, RedisError, RedisResult,
    ServerErrorKind, Value, cmd,
};
use tokio::time::timeout;

use super::{fault::timed_out, server};

/// Host and port of a server.
pub type Address = (String, u16);

/// Sentinels that monitor one master.
///
/// All are asked at once, so that a sentinel that is down delays little. The one that has seen the latest failover is
/// believed: a sentinel that has not noticed a failover yet names a server that still takes writes and will lose them.
pub struct Sentinels {
    all: Vec<Client>,
    name: String,
    /// The settings of a connection to the master.
    node: ConnectionInfo,
    config: AsyncConnectionConfig,
    /// Maximum time for the answer of each sentinel.
    answer_timeout: Duration,
}

impl Sentinels {
    /// Creates a group of sentinels whose master is called `name`; `node` has the settings of a connection to it.
    pub fn new(
        sentinels: Vec<Client>,
        name: String,
        node: ConnectionInfo,
        config: AsyncConnectionConfig,
        answer_timeout: Duration,
    ) -> Self {
        Self { all: sentinels, name, node, config, answer_timeout }
    }

    /// Returns the address of the master.
    pub async fn named_master(&self) -> RedisResult<Address> {
        let ask =
            |sentinel| async move { timeout(self.answer_timeout, self.ask(sentinel)).await.map_err(|_| timed_out())? };
        let answers = join_all(self.all.iter().map(ask)).await;
        let mut failure = None;
        let mut latest = None;
        for answer in answers {
            match answer {
                Ok(named) => latest = latest.max(Some(named)),
                // A permanent error is more useful than the error of a sentinel that does not answer.
                Err(error) if failure.is_none() || is_mistake(&error) => failure = Some(error),
                Err(_) => {}
            }
        }
        latest.map(|(_, address)| address).ok_or_else(|| failure.unwrap_or_else(timed_out))
    }

    /// Returns a client of the master, if that server agrees that it is the master.
    pub async fn master(&self) -> RedisResult<Client> {
        let (host, port) = self.named_master().await?;
        let address = match self.node.addr() {
            ConnectionAddr::TcpTls { tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let client = Client::open(self.node.clone().set_addr(address))?;
        let mut link = client.get_multiplexed_async_connection_with_config(&self.config).await?;
        let role: Vec<Value> = cmd("ROLE").query_async(&mut link).await?;
        let role = role.into_iter().next().map(String::from_redis_value).transpose()?;
        if role.as_deref() == Some("master") {
            return Ok(client);
        }
        Err((ErrorKind::Server(ServerErrorKind::ReadOnly), "the server that the sentinels name is not a master yet")
            .into())
    }

    /// Returns the number of failovers that a sentinel has seen, and the address of the master according to it.
    async fn ask(&self, sentinel: &Client) -> RedisResult<(u64, Address)> {
        let mut link = sentinel.get_multiplexed_async_connection_with_config(&self.config).await?;
        let told: HashMap<String, String> =
            cmd("SENTINEL").arg("MASTER").arg(&self.name).query_async(&mut link).await.map_err(explain)?;
        let number = |name: &str| told.get(name).and_then(|text| text.parse::<u64>().ok());
        let port = number("port").and_then(|port| port.try_into().ok());
        let (host, port) = told.get("ip").zip(port).ok_or_else(unknown_name)?;
        Ok((number("config-epoch").unwrap_or_default(), (host.clone(), port)))
    }
}

fn unknown_name() -> RedisError {
    (ErrorKind::MasterNameNotFoundBySentinel, "the sentinels know no master of this name").into()
}

/// Converts an error of a sentinel to a permanent error with advice, if it shows one.
fn explain(error: RedisError) -> RedisError {
    let says = |words: &str| error.detail().is_some_and(|detail| detail.starts_with(words));
    if says("No such master") {
        return unknown_name();
    }
    if says("unknown command") {
        return server::mistake("it is not a Sentinel: give the addresses of Sentinels, or write redis://".to_owned());
    }
    if error.kind() == ErrorKind::Server(ServerErrorKind::NoPerm) {
        let right = "sentinel_username may not use SENTINEL MASTER: give that user +sentinel|master";
        return server::mistake(right.to_owned());
    }
    error
}

fn is_mistake(error: &RedisError) -> bool {
    use ErrorKind::{AuthenticationFailed, InvalidClientConfig, MasterNameNotFoundBySentinel};
    matches!(error.kind(), AuthenticationFailed | InvalidClientConfig | MasterNameNotFoundBySentinel)
}
