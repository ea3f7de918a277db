//! The configuration: a flag overrides its environment variable, which overrides the default.

mod http_api;
mod limits;
mod memory;
mod security;
mod values;

use std::{
    env,
    fmt::{self, Debug, Formatter},
    net::SocketAddr,
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{
    ArgMatches, Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
    parser::ValueSource,
};
use thiserror::Error;

pub use http_api::{HttpApiConfig, Switch};
pub use limits::LimitsConfig;
pub use memory::MemoryBudget;
pub use security::{ClientAuth, SecurityConfig};
pub use values::host_port;

pub(crate) use self::values::duration;
use self::values::{connections, count, host_port_or_off, key_prefix, timeout};

use crate::{
    domain::{Retention, Timeouts},
    store::{
        FallbackPolicy,
        redis::{AddressError, Options, Target},
    },
    telemetry::{LogFormat, log_filter},
};

/// An invalid configuration. The text says what to do, and contains no secret.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The address of Redis can't be used.
    #[error("{name} is not usable: {problem}")]
    Redis {
        /// Flag or variable of the address.
        name: &'static str,
        /// The problem.
        problem: AddressError,
    },
    /// The flag or variable of the address of Redis is empty.
    #[error("{0} is empty: set it, or leave it out to store jobs in memory")]
    EmptyRedis(&'static str),
    /// A variable is not text.
    #[error("{0} is not valid UTF-8")]
    NotUtf8(&'static str),
    /// Client certificates are requested, but nothing assigns roles to their holders.
    #[error(
        "--tls-client-ca alone gives no caller a role: set --auth-tokens, which assigns roles to the names in certificates"
    )]
    ClientCaAlone,
    /// Pages of all origins may call a server without authentication.
    #[error(
        "--cors-origin '*' lets every page have full access without authentication: list origins, or set --auth-tokens"
    )]
    AnyOrigin,
    /// The address can be reached by other machines, and there is no TLS.
    #[error(
        "{0} is reachable by others, and without TLS everyone on the network path can read and change all traffic: set \
         --tls-cert and --tls-key, or --insecure if that network is trusted"
    )]
    Plaintext(SocketAddr),
}

/// Value of an address that turns the listener off.
pub const OFF: &str = "off";

/// The configuration of `jobtrack serve`.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Address for gRPC; port 0 picks a free port, which the first line on standard output names
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT", value_parser = host_port)]
    pub listen: String,

    /// Address for metrics and probes over HTTP (/metrics, /livez, /readyz); port 0 picks a free port, off disables
    /// them
    #[arg(
        long,
        env = "JOBTRACK_HTTP_LISTEN",
        default_value = DEFAULT_HTTP_LISTEN,
        value_name = "HOST:PORT",
        value_parser = host_port_or_off
    )]
    http_listen: String,

    /// The address for metrics and probes is the default.
    #[arg(skip)]
    http_listen_is_default: bool,

    /// Time that a succeeded job is kept after its end; 0: unlimited
    #[arg(long, env = "JOBTRACK_TTL_SUCCEEDED", default_value = "7d", value_name = "TIME", value_parser = duration)]
    pub ttl_succeeded: Duration,

    /// Time that a failed job is kept after its end; 0: unlimited
    #[arg(long, env = "JOBTRACK_TTL_FAILED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_failed: Duration,

    /// Time that a cancelled job is kept after its end; 0: unlimited
    #[arg(long, env = "JOBTRACK_TTL_CANCELLED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_cancelled: Duration,

    /// Time that an active job is kept after its last change or report; 0: unlimited
    #[arg(long, env = "JOBTRACK_TTL_ACTIVE", default_value = "0", value_name = "TIME", value_parser = duration)]
    pub ttl_active: Duration,

    /// Time without a report after which a worker counts as lost, for jobs that name no lease; 0: unlimited
    #[arg(long, env = "JOBTRACK_DEFAULT_LEASE", default_value = "0", value_name = "TIME", value_parser = duration)]
    default_lease: Duration,

    /// Time without a worker after which a job counts as lost, for jobs that name no start timeout; 0: unlimited
    #[arg(long, env = "JOBTRACK_DEFAULT_START_TIMEOUT", default_value = "0", value_name = "TIME", value_parser = duration)]
    default_start_timeout: Duration,

    /// Maximum jobs in memory; when there are more, finished jobs are evicted, then (with Redis) any jobs that Redis
    /// has; if no job can be evicted, new jobs are rejected
    #[arg(long, env = "JOBTRACK_MAX_MEMORY_JOBS", default_value = "100000", value_name = "COUNT", value_parser = count)]
    pub max_memory_jobs: usize,

    /// Maximum memory of jobs, requests and answers, such as 512MiB; when it is full, jobs are evicted as with
    /// --max-memory-jobs, then calls that need more are rejected. By default half of the memory of the container or
    /// machine
    #[arg(long, env = "JOBTRACK_MAX_MEMORY", value_name = "BYTES", value_parser = memory::bytes)]
    max_memory: Option<ByteSize>,

    /// The store, if it is not memory
    #[command(flatten)]
    pub redis: RedisConfig,

    /// TLS, authentication and authorization
    #[command(flatten)]
    pub security: SecurityConfig,

    /// JSON and events over HTTP
    #[command(flatten)]
    pub http_api: HttpApiConfig,

    /// Limits for callers and connections
    #[command(flatten)]
    pub limits: LimitsConfig,

    /// Format of log lines, which are written to standard error
    #[arg(long, env = "JOBTRACK_LOG_FORMAT", default_value = "human", value_enum)]
    pub log_format: LogFormat,

    /// Level of jobtrack's own log lines: error, warn, info, debug (a line for each call) or trace; or a filter such as
    /// debug,h2=info
    #[arg(long, env = "JOBTRACK_LOG", default_value = "info", value_name = "LEVEL", value_parser = log_filter)]
    pub log: String,
}

/// The configuration of the Redis that stores jobs.
#[derive(Args, Clone, Debug)]
pub struct RedisConfig {
    /// Store jobs in this Redis or Valkey: redis://HOST:PORT, rediss:// for TLS, redis+sentinel://HOST,HOST/MASTER,
    /// redis+cluster://HOST,HOST. Also read from REDIS_URL
    #[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
    #[arg(long, env = "JOBTRACK_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<Secret>,

    /// File that contains the address; --redis-url overrides it. Read again when Redis rejects the password. Also read
    /// from REDIS_URL_FILE
    #[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
    #[arg(long, env = "JOBTRACK_REDIS_URL_FILE", value_name = "FILE", value_parser = path())]
    redis_url_file: Option<PathBuf>,

    /// Maximum connections to Redis that carry calls
    #[arg(long, env = "JOBTRACK_REDIS_POOL_SIZE", default_value = "8", value_name = "COUNT", value_parser = connections)]
    redis_pool_size: u32,

    /// Maximum time without data from Redis while an answer is awaited, 10ms to 4s
    #[arg(long, env = "JOBTRACK_REDIS_TIMEOUT", default_value = "250ms", value_name = "TIME", value_parser = timeout)]
    redis_timeout: Duration,

    /// Handling of changes while Redis is unavailable: memory accepts them and merges them later, reject rejects them
    #[arg(long, env = "JOBTRACK_FALLBACK", default_value = "memory", value_enum)]
    pub fallback: FallbackMode,

    /// Prefix of the keys of jobs in Redis
    #[arg(long, env = "JOBTRACK_KEY_PREFIX", default_value = "job:", value_name = "TEXT", value_parser = key_prefix)]
    key_prefix: String,

    /// Maximum time that a replica may be cut off from Redis before the others fail or expire jobs whose workers may
    /// have reported only to that replica
    #[arg(long, env = "JOBTRACK_REPLICA_GRACE", default_value = "30s", value_name = "TIME", value_parser = duration)]
    replica_grace: Duration,

    #[arg(skip)]
    target: Option<Target>,
}

impl RedisConfig {
    /// Reads the address of Redis from its source. The error contains no secret.
    fn resolve(&mut self) -> Result<(), ConfigError> {
        let Some((name, source)) = self.source()? else { return Ok(()) };
        let target = match source {
            AddressSource::Url(url) => Target::parse(url.0.trim()),
            AddressSource::File(path) => Target::read(&path),
        };
        self.target = Some(target.map_err(|problem| ConfigError::Redis { name, problem })?);
        Ok(())
    }

    /// Returns the address of Redis; `None` if jobs are stored in memory.
    pub const fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Returns the settings of the store; `None` if jobs are stored in memory.
    pub fn options(&self) -> Option<Options> {
        Some(Options {
            target: self.target.clone()?,
            pool_size: self.redis_pool_size,
            timeout: self.redis_timeout,
            key_prefix: self.key_prefix.clone(),
            replica_grace: self.replica_grace,
        })
    }

    /// Returns the source of the address that takes precedence, and the name of that source in errors.
    fn source(&self) -> Result<Option<(&'static str, AddressSource)>, ConfigError> {
        if let Some(url) = &self.redis_url {
            let source = ("--redis-url (or JOBTRACK_REDIS_URL)", AddressSource::Url(url.clone()));
            // An empty value may come from a variable that was not substituted: then jobs must not be stored in memory
            // by mistake.
            return if url.0.trim().is_empty() { Err(ConfigError::EmptyRedis(source.0)) } else { Ok(Some(source)) };
        }
        let is_given = |path: &PathBuf| !path.as_os_str().is_empty();
        if let Some(path) = self.redis_url_file.clone() {
            let source = ("--redis-url-file (or JOBTRACK_REDIS_URL_FILE)", AddressSource::File(path.clone()));
            return if is_given(&path) { Ok(Some(source)) } else { Err(ConfigError::EmptyRedis(source.0)) };
        }
        if let Some(url) = env::var_os("REDIS_URL").filter(|url| !url.is_empty()) {
            let url = url.into_string().map_err(|_| ConfigError::NotUtf8("REDIS_URL"))?;
            return Ok(Some(("REDIS_URL", AddressSource::Url(Secret(url)))));
        }
        let path = env::var_os("REDIS_URL_FILE").map(PathBuf::from).filter(is_given);
        Ok(path.map(|path| ("REDIS_URL_FILE", AddressSource::File(path))))
    }
}

/// Parses a path, which may be empty: [`ConfigError::EmptyRedis`] is more helpful than clap's error.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// The source of the address of Redis.
enum AddressSource {
    /// The address itself.
    Url(Secret),
    /// A file that contains it.
    File(PathBuf),
}

/// The handling of changes while Redis is unavailable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FallbackMode {
    /// Accept changes in memory, and merge them into Redis when it is available again.
    Memory,
    /// Reject changes.
    Reject,
}

impl From<FallbackMode> for FallbackPolicy {
    fn from(mode: FallbackMode) -> Self {
        match mode {
            FallbackMode::Memory => Self::Accept,
            FallbackMode::Reject => Self::Reject,
        }
    }
}

/// A text that `Debug` does not show.
#[derive(Clone)]
struct Secret(String);

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl Debug for Secret {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Default address for metrics and probes.
pub const DEFAULT_HTTP_LISTEN: &str = "127.0.0.1:8080";

/// Default address for gRPC.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";

/// An address for metrics and probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen<'a> {
    /// Set by a flag or a variable: it must be free.
    Chosen(&'a str),
    /// The default address: it is not an error if another program uses it.
    Default(&'a str),
}

impl Config {
    /// Reads the values that are not on the command line, and checks the combination. Must be called once, before any
    /// value is used. The error contains no secret.
    pub fn resolve(&mut self) -> Result<(), ConfigError> {
        self.security.resolve()?;
        if self.http_api.allows_any_origin() && !self.security.has_authentication() {
            return Err(ConfigError::AnyOrigin);
        }
        self.redis.resolve()
    }

    /// Records whether the HTTP address is the default, and removes a Redis URL from a variable if --redis-url-file is
    /// given.
    pub fn note_defaults(&mut self, matches: &ArgMatches) {
        self.http_listen_is_default = matches.value_source("http_listen") == Some(ValueSource::DefaultValue);
        // A flag overrides every variable, even the variable of the other flag for the address of Redis.
        let is_flag = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        if is_flag("redis_url_file") && !is_flag("redis_url") {
            self.redis.redis_url = None;
        }
    }

    /// Returns the address for metrics and probes; `None` if they are off.
    pub fn http_listen(&self) -> Option<HttpListen<'_>> {
        match self.http_listen.as_str() {
            OFF => None,
            address if self.http_listen_is_default => Some(HttpListen::Default(address)),
            address => Some(HttpListen::Chosen(address)),
        }
    }

    /// Returns the memory budget of the server.
    pub fn memory(&self) -> MemoryBudget {
        MemoryBudget::new(self.max_memory)
    }

    /// Returns the timeouts of jobs that name no timeouts.
    pub const fn timeouts(&self) -> Timeouts {
        Timeouts { lease: self.default_lease, start: self.default_start_timeout }
    }

    /// Returns the retention of jobs that name no retention.
    pub const fn retention(&self) -> Retention {
        Retention {
            succeeded: self.ttl_succeeded,
            failed: self.ttl_failed,
            cancelled: self.ttl_cancelled,
            active: self.ttl_active,
        }
    }
}
