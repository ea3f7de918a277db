//! Real Redis servers on loopback: a single one, with Sentinels, and as a cluster. They end with the test's process,
//! however that ends.

mod cluster;
mod sentinel;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::Duration,
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, TlsCertificates, Value, from_redis_value,
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    sync::OnceCell,
    time::{sleep, timeout},
};
use uuid::Uuid;

use super::{
    faketime::{self, WallClock},
    programs::{OLD_REDIS, REDIS, VALKEY},
};

pub use self::{cluster::Cluster, sentinel::Sentinel};

/// Maximum wait for a server; far longer than it needs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time for an answer of a server that is not stopped.
const PROMPT: Duration = Duration::from_millis(500);

/// Ports below those that the system assigns to clients, so that no other process takes the port of a server that is
/// down. The bus of a cluster is 10000 above.
const PORTS: u16 = 11_000;
const PORT_COUNT: u16 = 10_000;

/// Runs a server, prints its process id, and kills it on command or when the test's process is gone. In the latter case
/// it removes the server's directory.
const KEEPER: &str =
    r#""$@" >log 2>&1 & echo $!; read -r _ || gone=1; kill -9 $!; wait $!; test -z "$gone" || rm -rf "$0""#;

/// Folder of the append-only files of a server, and of a copy of them.
const APPENDED: &str = "appendonlydir";
const ASIDE: &str = "aside";

/// The configuration of every server. Appended data is written before the answer, and no answer waits for a disk: a
/// killed process loses nothing, only a crash of the machine would.
const CONFIGURATION: &str = "bind 127.0.0.1\nport {port}\nsave \"\"\nappendfsync no\nrepl-diskless-sync-delay 0\n";

/// Returns a server that is shared by the cases of a suite, which use separate key prefixes and change no setting.
pub async fn shared_redis() -> &'static Redis {
    static SHARED: OnceCell<Redis> = OnceCell::const_new();
    SHARED.get_or_init(Redis::start).await
}

/// Returns a shared server like [`shared_redis`], with Sentinels that do not mistake a busy machine for a failure.
pub async fn shared_sentinel() -> &'static Sentinel {
    static SHARED: OnceCell<Sentinel> = OnceCell::const_new();
    SHARED.get_or_init(|| Sentinel::with(WAIT_TIMEOUT)).await
}

/// Returns a shared cluster like [`shared_redis`], which does not mistake a busy machine for a failure.
pub async fn shared_cluster() -> &'static Cluster {
    static SHARED: OnceCell<Cluster> = OnceCell::const_new();
    SHARED.get_or_init(|| Cluster::with(WAIT_TIMEOUT, &[])).await
}

/// Returns a server's answer on a new connection.
pub async fn ask(client: &Client, words: &[&str]) -> RedisResult<Value> {
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(WAIT_TIMEOUT))
        .set_response_timeout(Some(WAIT_TIMEOUT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await?;
    let mut command = Cmd::new();
    for word in words {
        command.arg(word);
    }
    command.query_async(&mut connection).await
}

/// A server, killed when dropped.
pub struct Redis {
    pub port: u16,
    binary: PathBuf,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    files: Vec<(&'static str, String)>,
    authority: Option<String>,
    directory: PathBuf,
    /// The command that runs another one by the server's own clock; empty for the machine's clock.
    clock: Vec<String>,
    running: Option<Running>,
}

struct Running {
    id: u32,
    keeper: Child,
}

impl Redis {
    /// Starts a server with the defaults, which saves nothing.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a server with these flags.
    pub async fn with(flags: &[&str]) -> Self {
        Self::launch(REDIS.path(), vec![("redis.conf", CONFIGURATION.to_owned())], None, vec![], flags).await
    }

    /// Starts a server with these flags by this wall clock.
    pub async fn with_clock(clock: &WallClock, flags: &[&str]) -> Self {
        let files = vec![("redis.conf", CONFIGURATION.to_owned())];
        Self::launch(REDIS.path(), files, None, clock.words(), flags).await
    }

    /// Starts a server with these flags, in this environment.
    pub async fn within(environment: &[(String, String)], flags: &[&str]) -> Self {
        let mut redis = Self::with(flags).await;
        redis.environment = environment.to_vec();
        redis.restart().await;
        redis
    }

    /// Starts a Valkey server.
    pub async fn valkey() -> Self {
        Self::launch(VALKEY.path(), vec![("redis.conf", CONFIGURATION.to_owned())], None, vec![], &[]).await
    }

    /// Starts a Redis that is too old for jobtrack.
    pub async fn old() -> Self {
        Self::launch(OLD_REDIS.path(), vec![("redis.conf", CONFIGURATION.to_owned())], None, vec![], &[]).await
    }

    /// Starts a server with TLS only. An authority of its own has signed its certificate, for 127.0.0.1 and localhost.
    pub async fn tls() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key can be made");
        let authority = CertifiedIssuer::self_signed(params, key).expect("a certificate can be made");
        let key = KeyPair::generate().expect("a key can be made");
        let params = CertificateParams::new(["127.0.0.1".to_owned(), "localhost".to_owned()]).expect("valid names");
        let certificate = params.signed_by(&key, &authority).expect("a certificate can be made");
        let tls = "port 0\ntls-port {port}\ntls-auth-clients no\ntls-cert-file cert.pem\ntls-key-file key.pem\n\
                   tls-ca-cert-file ca.pem\n";
        let files = vec![
            ("redis.conf", format!("{CONFIGURATION}{tls}")),
            ("cert.pem", certificate.pem()),
            ("key.pem", key.serialize_pem()),
            ("ca.pem", authority.pem()),
        ];
        Self::launch(REDIS.path(), files, Some(authority.pem()), vec![], &[]).await
    }

    /// Starts a server on a free port with these flags, and with these files in its directory.
    async fn launch(
        binary: PathBuf,
        files: Vec<(&'static str, String)>,
        authority: Option<String>,
        clock: Vec<String>,
        flags: &[&str],
    ) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("redis-{}", Uuid::new_v4()));
        let flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        let environment = Vec::new();
        let mut redis = Self { port: 0, binary, flags, environment, files, authority, directory, clock, running: None };
        loop {
            redis.port = next_port();
            redis.fill();
            let Err(log) = redis.run().await else { return redis };
            redis.kill();
            let without_tls = log.contains("'tls-port") || log.contains("TLS support");
            assert!(!without_tls, "{} is built without TLS", redis.binary.display());
            assert!(log.contains("Address already in use"), "{} ended: {log}", redis.binary.display());
        }
    }

    /// Writes the initial files of its directory.
    fn fill(&self) {
        _ = fs::remove_dir_all(&self.directory);
        fs::create_dir_all(&self.directory).expect("a directory can be made");
        for (name, content) in &self.files {
            let content = content.replace("{port}", &self.port.to_string());
            fs::write(self.directory.join(name), content).expect("a file can be written");
        }
    }

    /// Starts the process. Returns its log if it ends before it serves.
    async fn run(&mut self) -> Result<(), String> {
        let log = self.directory.join("log");
        File::create(&log).expect("a file can be written");
        let mut command = Command::new("sh");
        command.args(["-c", KEEPER]).arg(&self.directory).args(&self.clock);
        command.arg(&self.binary).arg("redis.conf").args(&self.flags);
        command.envs(self.environment.iter().cloned());
        command.current_dir(&self.directory).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        // A signal that interrupts the test must not end the keeper, which must outlive the test.
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut keeper = command.spawn().expect("sh can be started");
        let mut id = String::new();
        let mut lines = BufReader::new(keeper.stdout.take().expect("it is piped"));
        lines.read_line(&mut id).expect("the id is text");
        let id = id.trim().parse().expect("a number");
        self.running = Some(Running { id, keeper });
        let outcome = until("the server serves", async || {
            // The keeper does not reap the server before it is told to. The output is read once the end is known.
            let ended = fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| stat.contains(") Z "));
            let log = fs::read_to_string(&log).expect("the log is text");
            let serves = log.contains("Ready to accept connections") || log.contains("Sentinel ID is");
            if serves { Some(Ok(())) } else { ended.then_some(Err(log)) }
        });
        let outcome = outcome.await;
        if !self.clock.is_empty() {
            faketime::tidy(id);
        }
        outcome
    }

    /// Returns its URL for jobtrack.
    pub fn url(&self) -> String {
        let scheme = if self.authority.is_some() { "rediss" } else { "redis" };
        format!("{scheme}://127.0.0.1:{}", self.port)
    }

    /// Returns the certificate of its authority, if it serves over TLS.
    pub fn ca_file(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Kills the server with SIGKILL, and waits for its end.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let mut stdin = running.keeper.stdin.take().expect("it is piped");
            _ = stdin.write_all(b"\n");
            running.keeper.wait().expect("the keeper can be waited for");
        }
    }

    /// Kills the server if it runs, and starts it with its data on disk.
    pub async fn restart(&mut self) {
        self.kill();
        self.run().await.unwrap_or_else(|log| panic!("it does not start again: {log}"));
    }

    /// Kills the server if it runs, and starts it without data.
    pub async fn restart_empty(&mut self) {
        self.kill();
        self.fill();
        self.restart().await;
    }

    /// Copies its data on disk, as a snapshot.
    pub fn save_aside(&self) {
        let (from, to) = (self.directory.join(APPENDED), self.directory.join(ASIDE));
        _ = fs::remove_dir_all(&to);
        fs::create_dir(&to).expect("a directory can be made");
        for entry in fs::read_dir(from).expect("it appends to files").flatten() {
            fs::copy(entry.path(), to.join(entry.file_name())).expect("a file can be copied");
        }
    }

    /// Kills the server if it runs, and starts it with the copied data, if there is a copy.
    pub async fn restart_from_aside(&mut self) {
        self.kill();
        let (from, to) = (self.directory.join(ASIDE), self.directory.join(APPENDED));
        _ = fs::remove_dir_all(&to);
        _ = fs::rename(from, to);
        self.restart().await;
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        let id = self.running.as_ref().expect("it runs").id.to_string();
        let sent = Command::new("kill").args(["-s", name, &id]).status().expect("kill can be started");
        assert!(sent.success());
    }

    /// Returns its answer on a new connection, which must not be an error.
    pub async fn command(&self, words: &[&str]) -> Value {
        self.try_command(words).await.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    /// Returns its answer on a new connection.
    pub async fn try_command(&self, words: &[&str]) -> RedisResult<Value> {
        let client = match &self.authority {
            None => Client::open(self.url()),
            Some(pem) => {
                let root_cert = Some(pem.clone().into_bytes());
                Client::build_with_tls(self.url(), TlsCertificates { client_tls: None, root_cert })
            }
        };
        ask(&client.expect("a valid address"), words).await
    }

    /// Returns its answer, if it comes promptly and has this type.
    async fn prompt<T: FromRedisValue>(&self, words: &[&str]) -> Option<T> {
        let answer = timeout(PROMPT, self.try_command(words)).await.ok()?.ok()?;
        from_redis_value(answer).ok()
    }

    /// Returns a section of INFO.
    pub async fn info(&self, section: &str) -> String {
        from_redis_value(self.command(&["INFO", section]).await).expect("text")
    }

    /// Returns the number of executions of these commands, by callers and by scripts.
    pub async fn calls<const N: usize>(&self, names: [&str; N]) -> [i64; N] {
        let stats = self.info("commandstats").await;
        names.map(|name| {
            let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
            line.map_or(0, |line| line.split(',').next().and_then(|calls| calls.parse().ok()).expect("a number"))
        })
    }

    /// Returns whether it is a master, and `count` replicas have all its data.
    async fn has_replicas(&self, count: usize) -> bool {
        let info: Option<String> = self.prompt(&["INFO", "replication"]).await;
        info.is_some_and(|info| info.matches("state=online").count() == count)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        _ = fs::remove_dir_all(&self.directory);
    }
}

/// Returns a URL of Redis with a user and a password.
pub fn as_user(url: &str, user: &str, password: &str) -> String {
    url.replacen("://", &format!("://{user}:{password}@"), 1)
}

/// Returns these servers as a part of a URL.
fn addresses(servers: &[Redis]) -> String {
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    addresses.join(",")
}

/// Returns a port that no other server of this process has.
pub fn next_port() -> u16 {
    static NEXT: LazyLock<AtomicU16> = LazyLock::new(|| AtomicU16::new(Uuid::new_v4().as_fields().1));
    PORTS + NEXT.fetch_add(1, Relaxed) % PORT_COUNT
}

/// Returns the result of a probe, once there is one. Fails if there never is.
async fn until<T>(what: &str, probe: impl AsyncFn() -> Option<T>) -> T {
    let found = timeout(WAIT_TIMEOUT, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            sleep(Duration::from_millis(10)).await;
        }
    });
    found.await.unwrap_or_else(|_| panic!("it took too long until {what}"))
}
