//! Limits for callers and connections.

use clap::Args;

use crate::quota::Allowance;

/// Limits for each caller, and for all together. Zero means unlimited.
#[derive(Args, Clone, Debug)]
pub struct LimitsConfig {
    /// Maximum calls per second of each identity, and burst of that size; 0: unlimited. Without authentication, all
    /// callers are one identity
    #[arg(long, env = "JOBTRACK_MAX_CALLS_PER_SECOND", default_value = "0", value_name = "COUNT")]
    pub max_calls_per_second: u32,

    /// Maximum open watches; a stream counts once per job id that it names; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_WATCHES", default_value = "100000", value_name = "COUNT")]
    pub max_watches: usize,

    /// Maximum open watches of each identity; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_WATCHES_PER_IDENTITY", default_value = "20000", value_name = "COUNT")]
    pub max_watches_per_identity: usize,

    /// Maximum open watches on each connection; 0: only the limit of 1000 streams on a connection
    #[arg(long, env = "JOBTRACK_MAX_WATCHES_PER_CONNECTION", default_value = "1000", value_name = "COUNT")]
    pub max_watches_per_connection: usize,

    /// Maximum jobs of each owner; jobs without an owner are not limited; 0: unlimited. Concurrent creations may exceed
    /// the limit
    #[arg(long, env = "JOBTRACK_MAX_JOBS_PER_OWNER", default_value = "0", value_name = "COUNT")]
    pub max_jobs_per_owner: usize,

    /// Maximum open connections; when there are more, the oldest unauthenticated one is closed or, if there is none,
    /// the new one; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_CONNECTIONS", default_value = "0", value_name = "COUNT")]
    pub max_connections: usize,

    /// Maximum open connections without an authenticated call; for a further one, the oldest of them is closed. Without
    /// --auth-tokens and JWTs, connections that have made only health checks count; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_UNAUTHENTICATED_CONNECTIONS", default_value = "1000", value_name = "COUNT")]
    pub max_unauthenticated_connections: usize,

    /// Maximum open watches of health, which need no credentials; at most 16 of them on each connection; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_HEALTH_WATCHES", default_value = "4000", value_name = "COUNT")]
    pub max_health_watches: usize,

    /// Maximum failed authentications per second of each address, and burst of ten times that; 0: unlimited
    #[arg(long, env = "JOBTRACK_MAX_AUTH_FAILURES_PER_SECOND", default_value = "10", value_name = "COUNT")]
    pub max_auth_failures_per_second: u32,
}

impl LimitsConfig {
    /// Returns these limits, with `call_bytes` for requests and answers in memory.
    pub const fn allowance(&self, call_bytes: usize) -> Allowance {
        Allowance {
            call_bytes,
            calls_per_second: self.max_calls_per_second,
            watches: self.max_watches,
            watches_per_identity: self.max_watches_per_identity,
            watches_per_connection: self.max_watches_per_connection,
            jobs_per_owner: self.max_jobs_per_owner,
            connections: self.max_connections,
            unauthenticated_connections: self.max_unauthenticated_connections,
            health_watches: self.max_health_watches,
            auth_failures_per_second: self.max_auth_failures_per_second,
        }
    }
}
