//! What can be set: flag over environment over default.

mod limits;
mod memory;
mod security;
mod values;

use std::{
    env,
    fmt::{self, Debug, Formatter},
    path::PathBuf,
    time::Duration,
};

use bytesize::ByteSize;
use clap::{
    ArgMatches, Args, ValueEnum,
    builder::{OsStringValueParser, TypedValueParser},
    parser::ValueSource,
};

pub use limits::LimitsConfig;
pub use memory::MemoryBudget;
pub use security::{ClientAuth, SecurityConfig};
pub use values::host_port;

use self::values::{connections, count, duration, host_port_or_off, key_prefix, timeout};

use crate::{
    domain::{Retention, Timeouts},
    store::{FallbackPolicy, redis::Target},
    telemetry::{LogFormat, log_filter},
};

/// In the place of an address: nowhere.
pub const OFF: &str = "off";

/// How to serve.
#[derive(Args, Clone, Debug)]
pub struct Config {
    /// Where to serve gRPC; port 0 picks a free one, which the banner names
    #[arg(long, env = "JOBTRACK_LISTEN", default_value = DEFAULT_LISTEN, value_name = "HOST:PORT", value_parser = host_port)]
    pub listen: String,

    /// Where to serve metrics and probes over HTTP (/metrics, /livez, /readyz); port 0 picks a free one, off: nowhere
    #[arg(
        long,
        env = "JOBTRACK_HTTP_LISTEN",
        default_value = DEFAULT_HTTP_LISTEN,
        value_name = "HOST:PORT",
        value_parser = host_port_or_off
    )]
    http_listen: String,

    /// The address for metrics and probes is the default: nobody chose it.
    #[arg(skip)]
    http_listen_is_default: bool,

    /// How long a succeeded job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_SUCCEEDED", default_value = "7d", value_name = "TIME", value_parser = duration)]
    pub ttl_succeeded: Duration,

    /// How long a failed job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_FAILED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_failed: Duration,

    /// How long a cancelled job is kept after its end; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_CANCELLED", default_value = "3d", value_name = "TIME", value_parser = duration)]
    pub ttl_cancelled: Duration,

    /// How long an active job is kept after its last change; 0: for ever
    #[arg(long, env = "JOBTRACK_TTL_ACTIVE", default_value = "0", value_name = "TIME", value_parser = duration)]
    pub ttl_active: Duration,

    /// Time without a report after which a worker counts as lost, for jobs that name no lease; 0: unlimited
    #[arg(long, env = "JOBTRACK_DEFAULT_LEASE", default_value = "0", value_name = "TIME", value_parser = duration)]
    default_lease: Duration,

    /// Time that a job waits for a worker until it counts as lost, for jobs that name no start timeout; 0: unlimited
    #[arg(long, env = "JOBTRACK_DEFAULT_START_TIMEOUT", default_value = "0", value_name = "TIME", value_parser = duration)]
    default_start_timeout: Duration,

    /// How many jobs are held in memory at most; then ended jobs give way, and after that new ones are refused
    #[arg(long, env = "JOBTRACK_MAX_MEMORY_JOBS", default_value = "100000", value_name = "COUNT", value_parser = count)]
    pub max_memory_jobs: usize,

    /// Maximum memory of jobs, requests and answers, such as 512MiB; when it is full, jobs are evicted as above, then
    /// calls are rejected. By default half of the memory of the container or machine
    #[arg(long, env = "JOBTRACK_MAX_MEMORY", value_name = "BYTES", value_parser = memory::bytes)]
    max_memory: Option<ByteSize>,

    /// Where jobs are kept, if not in memory
    #[command(flatten)]
    pub redis: RedisConfig,

    /// Who may connect, and who may do what
    #[command(flatten)]
    pub security: SecurityConfig,

    /// How much callers may use
    #[command(flatten)]
    pub limits: LimitsConfig,

    /// How log lines are written, to standard error
    #[arg(long, env = "JOBTRACK_LOG_FORMAT", default_value = "human", value_enum)]
    pub log_format: LogFormat,

    /// Level of jobtrack's own log lines: error, warn, info, debug (a line for each call) or trace; or a filter such as
    /// debug,h2=info
    #[arg(long, env = "JOBTRACK_LOG", default_value = "info", value_name = "LEVEL", value_parser = log_filter)]
    pub log: String,
}

/// Which Redis to keep jobs in.
#[derive(Args, Clone, Debug)]
pub struct RedisConfig {
    /// Keep jobs in this Redis or Valkey: redis://HOST:PORT, rediss:// for TLS, redis+sentinel://HOST,HOST/MASTER,
    /// redis+cluster://HOST,HOST. Also read from REDIS_URL
    #[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
    #[arg(long, env = "JOBTRACK_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Option<Secret>,

    /// File that contains the address of --redis-url, which wins; read again when Redis refuses the password. Also read
    /// from REDIS_URL_FILE
    #[expect(clippy::doc_markdown, reason = "it is read in a terminal")]
    #[arg(long, env = "JOBTRACK_REDIS_URL_FILE", value_name = "FILE", value_parser = path())]
    redis_url_file: Option<PathBuf>,

    /// How many connections to Redis carry calls at most
    #[arg(long, env = "JOBTRACK_REDIS_POOL_SIZE", default_value = "8", value_name = "COUNT", value_parser = connections)]
    pub redis_pool_size: u32,

    /// How long Redis may take for an answer
    #[arg(long, env = "JOBTRACK_REDIS_TIMEOUT", default_value = "250ms", value_name = "TIME", value_parser = timeout)]
    pub redis_timeout: Duration,

    /// What happens to changes while Redis is away: memory accepts them and merges them later, reject refuses them
    #[arg(long, env = "JOBTRACK_FALLBACK", default_value = "memory", value_enum)]
    pub fallback: FallbackMode,

    /// What the keys of jobs in Redis begin with
    #[arg(long, env = "JOBTRACK_KEY_PREFIX", default_value = "job:", value_name = "TEXT", value_parser = key_prefix)]
    pub key_prefix: String,

    /// The longest that a replica may be cut off from Redis before the others fail or expire jobs whose workers may have
    /// reported to it alone
    #[arg(long, env = "JOBTRACK_REPLICA_GRACE", default_value = "30s", value_name = "TIME", value_parser = duration)]
    pub replica_grace: Duration,

    #[arg(skip)]
    target: Option<Target>,
}

impl RedisConfig {
    /// Reads the address of Redis from wherever it is given. The error repeats no secret.
    fn resolve(&mut self) -> Result<(), String> {
        let Some((name, source)) = self.source()? else { return Ok(()) };
        let target = match source {
            AddressSource::Url(url) => Target::parse(url.0.trim()),
            AddressSource::File(path) => Target::read(&path),
        };
        self.target = Some(target.map_err(|problem| format!("{name} is not usable: {problem}"))?);
        Ok(())
    }

    /// Where Redis is; `None`: jobs are kept in memory.
    pub const fn target(&self) -> Option<&Target> {
        self.target.as_ref()
    }

    /// Returns the first source of the address that is given, and its name.
    fn source(&self) -> Result<Option<(&'static str, AddressSource)>, String> {
        if let Some(url) = &self.redis_url {
            let source = ("--redis-url (or JOBTRACK_REDIS_URL)", AddressSource::Url(url.clone()));
            // The variable that was to be put in its place may be missing: jobs must not be kept in memory unawares.
            return if url.0.trim().is_empty() { Err(empty(source.0)) } else { Ok(Some(source)) };
        }
        let is_given = |path: &PathBuf| !path.as_os_str().is_empty();
        if let Some(path) = self.redis_url_file.clone() {
            let source = ("--redis-url-file (or JOBTRACK_REDIS_URL_FILE)", AddressSource::File(path.clone()));
            return if is_given(&path) { Ok(Some(source)) } else { Err(empty(source.0)) };
        }
        if let Some(url) = env::var_os("REDIS_URL").filter(|url| !url.is_empty()) {
            let url = url.into_string().map_err(|_| "REDIS_URL is not valid UTF-8".to_owned())?;
            return Ok(Some(("REDIS_URL", AddressSource::Url(Secret(url)))));
        }
        let path = env::var_os("REDIS_URL_FILE").map(PathBuf::from).filter(is_given);
        Ok(path.map(|path| ("REDIS_URL_FILE", AddressSource::File(path))))
    }
}

/// Parses a path, which may be empty: that is refused with more words.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

fn empty(name: &str) -> String {
    format!("{name} is empty: write redis://HOST:PORT, or leave it out to keep jobs in memory")
}

/// The source of the address of Redis.
enum AddressSource {
    /// The address itself.
    Url(Secret),
    /// A file that contains it.
    File(PathBuf),
}

/// What happens to changes while Redis is away.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum FallbackMode {
    /// They are accepted in memory, and merged when Redis is back.
    Memory,
    /// They are refused.
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

/// Text that is not shown.
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

/// Where to serve metrics and probes if nothing else is said.
pub const DEFAULT_HTTP_LISTEN: &str = "127.0.0.1:8080";

/// Where to serve if nothing else is said.
pub const DEFAULT_LISTEN: &str = "127.0.0.1:50051";

/// An address for metrics and probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HttpListen<'a> {
    /// Chosen by a flag or a variable.
    Chosen(&'a str),
    /// The default, which another program may have on a machine that nobody prepared for jobtrack.
    Default(&'a str),
}

impl Config {
    /// Takes in what is not on the command line. To be called once, before anything is read. The error says what is
    /// wrong, without secrets.
    pub fn resolve(&mut self) -> Result<(), String> {
        self.security.resolve()?;
        self.redis.resolve()
    }

    /// Takes in which values are flags, and which are defaults.
    pub fn note_defaults(&mut self, matches: &ArgMatches) {
        self.http_listen_is_default = matches.value_source("http_listen") == Some(ValueSource::DefaultValue);
        // A flag overrides every variable, also that of another flag for the same thing.
        let is_flag = |name| matches.value_source(name) == Some(ValueSource::CommandLine);
        if is_flag("redis_url_file") && !is_flag("redis_url") {
            self.redis.redis_url = None;
        }
    }

    /// Where to serve metrics and probes; `None`: nowhere.
    pub fn http_listen(&self) -> Option<HttpListen<'_>> {
        match self.http_listen.as_str() {
            OFF => None,
            address if self.http_listen_is_default => Some(HttpListen::Default(address)),
            address => Some(HttpListen::Chosen(address)),
        }
    }

    /// Returns the memory that the server may use.
    pub fn memory(&self) -> MemoryBudget {
        MemoryBudget::new(self.max_memory)
    }

    /// Returns the limits for jobs that name none.
    pub const fn timeouts(&self) -> Timeouts {
        Timeouts { lease: self.default_lease, start: self.default_start_timeout }
    }

    /// How long jobs are kept.
    pub const fn retention(&self) -> Retention {
        Retention {
            succeeded: self.ttl_succeeded,
            failed: self.ttl_failed,
            cancelled: self.ttl_cancelled,
            active: self.ttl_active,
        }
    }
}
