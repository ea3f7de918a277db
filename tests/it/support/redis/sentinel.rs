//! A Redis with Sentinels.

use std::time::{Duration, Instant};

use ::redis::Value;
use futures_util::future::join_all;

use super::{REDIS, Redis, addresses, until};

/// Name of the master at the Sentinels.
const NAME: &str = "jobtrack";

/// A master and a replica with three Sentinels, two of which must agree.
pub struct Sentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinel {
    /// Starts the servers. The replica is in sync with the master, and the Sentinels know each other and the replica.
    pub async fn start() -> Self {
        // A Sentinel reconnects at most once a second. With a shorter time it would consider the new master dead.
        Self::with(Duration::from_millis(1500)).await
    }

    /// Starts the servers, with Sentinels that consider a server dead after this time without an answer.
    pub async fn with(silence: Duration) -> Self {
        let master = Redis::start().await;
        let port = master.port.to_string();
        let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
        until("the replica is in sync", async || master.has_replicas(1).await.then_some(())).await;
        let silence = silence.as_millis();
        let configuration = format!(
            "bind 127.0.0.1\nport {{port}}\nsentinel monitor {NAME} 127.0.0.1 {port} 2\n\
             sentinel down-after-milliseconds {NAME} {silence}\nsentinel failover-timeout {NAME} 2000\n"
        );
        let files = || vec![("redis.conf", configuration.clone())];
        let start = || Redis::launch(REDIS.path(), files(), None, vec![], &["--sentinel"]);
        let sentinels = vec![start().await, start().await, start().await];
        for sentinel in &sentinels {
            until("the Sentinels know everyone", async || {
                let info: String = sentinel.prompt(&["INFO", "sentinel"]).await?;
                info.contains("status=ok").then_some(())?;
                info.contains("slaves=1,sentinels=3").then_some(())
            })
            .await;
        }
        Self { servers: vec![master, replica], sentinels }
    }

    /// Returns the URL of the Sentinels for jobtrack.
    pub fn url(&self) -> String {
        format!("redis+sentinel://{}/{NAME}", addresses(&self.sentinels))
    }

    /// Makes each Sentinel execute a command.
    pub async fn command_on_sentinels(&self, words: &[&str]) {
        for sentinel in &self.sentinels {
            sentinel.command(words).await;
        }
    }

    /// Returns the master, once most Sentinels agree on it and it considers itself the master.
    pub async fn master(&self) -> &Redis {
        until("there is a master", async || self.try_master().await).await
    }

    async fn try_master(&self) -> Option<&Redis> {
        let named = join_all(self.sentinels.iter().map(named)).await;
        let votes = |server: &Redis| named.iter().filter(|&&port| port == Some(server.port)).count();
        let master = self.servers.iter().find(|server| votes(server) > self.sentinels.len() / 2)?;
        let role: Vec<Value> = master.prompt(&["ROLE"]).await?;
        (role.first() == Some(&Value::BulkString(b"master".to_vec()))).then_some(master)
    }

    /// Kills the master.
    pub async fn kill_master(&mut self) {
        let port = self.master().await.port;
        self.servers.iter_mut().filter(|server| server.port == port).for_each(Redis::kill);
    }

    /// Waits until there is a new master after the last one was killed. Returns the time.
    pub async fn elected(&self) -> Instant {
        self.master().await;
        Instant::now()
    }

    /// Makes the replica take over from a healthy master, and waits for it. Returns the time.
    pub async fn failover(&self) -> Instant {
        let old = self.master().await.port;
        until("the replica has taken over", async || {
            // Repeated, because a failover may be given up. During one, or without a good replica, the command is
            // rejected.
            if named(&self.sentinels[0]).await == Some(old) {
                _ = self.sentinels[0].prompt::<Value>(&["SENTINEL", "FAILOVER", NAME]).await;
            }
            self.try_master().await.filter(|master| master.port != old)
        })
        .await;
        Instant::now()
    }

    /// Starts the killed server, and waits until it is a replica in sync with the master.
    pub async fn restart_killed(&mut self) {
        for server in self.servers.iter_mut().filter(|server| server.running.is_none()) {
            server.restart().await;
        }
        self.in_sync().await;
    }

    /// Waits until the master has a replica in sync: a former master becomes one some seconds late.
    pub async fn in_sync(&self) {
        until("there is a replica", async || self.master().await.has_replicas(1).await.then_some(())).await;
    }
}

/// Returns the port of the master that a Sentinel names.
async fn named(sentinel: &Redis) -> Option<u16> {
    let named: Option<(String, u16)> = sentinel.prompt(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await;
    named.map(|(_, port)| port)
}
