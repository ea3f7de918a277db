//! How much callers may use.

use clap::Args;

use crate::limits::Allowance;

/// How much each caller may use, and all together. Zero is no limit.
#[derive(Args, Clone, Debug)]
pub struct LimitsConfig {
    /// How many calls each identity may make a second, and as many at once; 0: no limit. Callers that are not told apart
    /// are one
    #[arg(long, env = "JOBTRACK_MAX_CALLS_PER_SECOND", default_value = "0", value_name = "COUNT")]
    pub max_calls_per_second: u32,

    /// How many watches may be open at a time, one of many jobs by their ids counting as many; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_WATCHES", default_value = "100000", value_name = "COUNT")]
    pub max_watches: usize,

    /// How many watches each identity may have open; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_WATCHES_PER_IDENTITY", default_value = "20000", value_name = "COUNT")]
    pub max_watches_per_identity: usize,

    /// How many watches may be open on each connection, which has 1000 streams at most; 0: no other limit
    #[arg(long, env = "JOBTRACK_MAX_WATCHES_PER_CONNECTION", default_value = "1000", value_name = "COUNT")]
    pub max_watches_per_connection: usize,

    /// How many jobs there may be of each owner, not counting those without one; 0: no limit. Creations at the same time
    /// may exceed it
    #[arg(long, env = "JOBTRACK_MAX_JOBS_PER_OWNER", default_value = "0", value_name = "COUNT")]
    pub max_jobs_per_owner: usize,

    /// How many connections may be open; more are closed at once; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_CONNECTIONS", default_value = "0", value_name = "COUNT")]
    pub max_connections: usize,

    /// Maximum open connections on which nobody has authenticated; for another one the oldest of them is closed.
    /// Without --auth-tokens and JWTs: on which nobody has called; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_UNAUTHENTICATED_CONNECTIONS", default_value = "1000", value_name = "COUNT")]
    pub max_unauthenticated_connections: usize,

    /// Maximum open watches of health, which need no credentials, with 16 on each connection; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_HEALTH_WATCHES", default_value = "4000", value_name = "COUNT")]
    pub max_health_watches: usize,

    /// Maximum failed authentications of each address a second, and ten times as many at once; 0: no limit
    #[arg(long, env = "JOBTRACK_MAX_AUTH_FAILURES_PER_SECOND", default_value = "10", value_name = "COUNT")]
    pub max_auth_failures_per_second: u32,
}

impl LimitsConfig {
    /// Returns what that allows, with so many bytes of requests and answers.
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
