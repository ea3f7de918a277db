//! Real Redis servers on loopback: a single one, with Sentinels, and as a cluster. They end with the test's process,
//! however that ends.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        LazyLock,
        atomic::{AtomicU16, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use ::redis::{
    AsyncConnectionConfig, Client, Cmd, FromRedisValue, RedisResult, TlsCertificates, Value, from_redis_value,
};
use futures_util::future::join_all;
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

/// Maximum wait for a server; far longer than it needs.
const WAIT_TIMEOUT: Duration = Duration::from_secs(60);

/// Maximum time for an answer of a server that is not stopped.
const PROMPT: Duration = Duration::from_millis(500);

/// Name of the master at the Sentinels.
const NAME: &str = "jobtrack";

/// Number of slots of a cluster.
const SLOTS: u16 = 16_384;

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

    /// Starts a server with TLS only, with a certificate for 127.0.0.1 and localhost of its own authority.
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

/// A master and a replica with three Sentinels, two of which must agree.
pub struct Sentinel {
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
}

impl Sentinel {
    /// Starts with a replica in sync with the master, and Sentinels that know each other and the replica.
    pub async fn start() -> Self {
        // A Sentinel reconnects at most once a second. With a shorter time it would consider the new master dead.
        Self::with(Duration::from_millis(1500)).await
    }

    /// Starts with Sentinels that consider a server dead after this time without an answer.
    async fn with(silence: Duration) -> Self {
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

/// Three masters with a replica each. If one slot is not served, none is, as is the default of Redis.
pub struct Cluster {
    nodes: Vec<Redis>,
}

/// A node as another sees it.
struct Seen {
    id: String,
    port: u16,
    myself: bool,
    slots: Vec<(u16, u16)>,
}

impl Cluster {
    /// Starts with replicas in sync with their masters, and nodes that all agree.
    pub async fn start() -> Self {
        Self::with(Duration::from_secs(1), &[]).await
    }

    /// Starts with nodes that consider another dead after this time without an answer, and with these flags.
    pub async fn with(silence: Duration, flags: &[&str]) -> Self {
        let silence = silence.as_millis().to_string();
        let flags = [&["--cluster-enabled", "yes", "--cluster-node-timeout", &silence], flags].concat();
        let nodes = join_all((0..6).map(|_| Redis::with(&flags))).await;
        let cluster = Self { nodes };
        for (node, epoch) in cluster.nodes.iter().zip(1..) {
            node.command(&["CLUSTER", "SET-CONFIG-EPOCH", &epoch.to_string()]).await;
        }
        for node in &cluster.nodes {
            for other in cluster.nodes.iter().filter(|other| other.port != node.port) {
                node.command(&["CLUSTER", "MEET", "127.0.0.1", &other.port.to_string()]).await;
            }
        }
        let ends = [(0, 5460), (5461, 10_922), (10_923, SLOTS - 1)];
        for (node, (first, last)) in cluster.nodes.iter().zip(ends) {
            node.command(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()]).await;
        }
        for (master, replica) in cluster.nodes.iter().zip(&cluster.nodes[3..]) {
            until("the master is known", async || {
                let id: String = master.prompt(&["CLUSTER", "MYID"]).await?;
                replica.prompt::<()>(&["CLUSTER", "REPLICATE", &id]).await
            })
            .await;
        }
        cluster.in_sync().await;
        cluster
    }

    /// Returns the URL of three of the nodes for jobtrack.
    pub fn url(&self) -> String {
        format!("redis+cluster://{}", addresses(&self.nodes[..3]))
    }

    /// Returns the slot of a key.
    pub async fn slot(&self, key: &str) -> u16 {
        let answers = self.command_on_all(&["CLUSTER", "KEYSLOT", key]).await;
        from_redis_value(answers[0].clone()).expect("a number")
    }

    /// Returns the master of a slot, once all nodes agree.
    pub async fn master_of_slot(&self, slot: u16) -> &Redis {
        let (_, seen) = self.agreed().await;
        let owner = seen.iter().find(|seen| seen.slots.iter().any(|&(first, last)| first <= slot && slot <= last));
        self.node(owner.expect("all slots are served").port)
    }

    /// Kills the master of a slot.
    pub async fn kill_master_of_slot(&mut self, slot: u16) {
        let port = self.master_of_slot(slot).await.port;
        self.nodes.iter_mut().filter(|node| node.port == port).for_each(Redis::kill);
    }

    /// Waits until running nodes serve all slots, and all of them agree on that. Returns the time.
    pub async fn elected(&self) -> Instant {
        self.agreed().await.0
    }

    /// Starts the killed nodes, and waits until they are replicas in sync with their masters.
    pub async fn restart_killed(&mut self) {
        for node in self.nodes.iter_mut().filter(|node| node.running.is_none()) {
            node.restart().await;
        }
        self.in_sync().await;
    }

    /// Returns the answers of all running nodes.
    pub async fn command_on_all(&self, words: &[&str]) -> Vec<Value> {
        let running = self.nodes.iter().filter(|node| node.running.is_some());
        join_all(running.map(|node| node.command(words))).await
    }

    /// Begins to move a slot to another master: from now on keys that don't exist are redirected with ASK.
    pub async fn begin_migration(&self, slot: u16) {
        let ((from, from_id), (to, to_id)) = self.migration(slot).await;
        let slot = slot.to_string();
        to.command(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from_id]).await;
        from.command(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to_id]).await;
    }

    /// Moves the keys of a slot that is being moved: from now on all are redirected with ASK.
    pub async fn migrate_keys(&self, slot: u16) {
        let ((from, _), (to, _)) = self.migration(slot).await;
        let keys = from.command(&["CLUSTER", "GETKEYSINSLOT", &slot.to_string(), "1000000"]).await;
        for key in from_redis_value::<Vec<String>>(keys).expect("keys that are text") {
            from.command(&["MIGRATE", "127.0.0.1", &to.port.to_string(), &key, "0", "10000"]).await;
        }
    }

    /// Finishes moving a slot with its keys: from now on they are redirected with MOVED.
    pub async fn finish_migration(&self, slot: u16) {
        self.migrate_keys(slot).await;
        let ((from, _), (to, to_id)) = self.migration(slot).await;
        for node in [to, from] {
            node.command(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &to_id]).await;
        }
        until("the slot is moved", async || (self.master_of_slot(slot).await.port == to.port).then_some(())).await;
    }

    /// Returns the source and the target of the slot that is being moved, each with its id.
    async fn migration(&self, slot: u16) -> ((&Redis, String), (&Redis, String)) {
        let from = self.master_of_slot(slot).await;
        let (_, seen) = self.agreed().await;
        let mut masters: Vec<_> = seen.into_iter().filter(|seen| !seen.slots.is_empty()).collect();
        masters.sort_by_key(|seen| (seen.port != from.port, seen.port));
        let mut masters = masters.into_iter().map(|seen| (self.node(seen.port), seen.id));
        (masters.next().expect("it has a master"), masters.next().expect("there is another"))
    }

    /// Returns the node at a port, whether it runs or not.
    pub fn node(&self, port: u16) -> &Redis {
        self.nodes.iter().find(|node| node.port == port).expect("a node of this cluster")
    }

    /// Returns whether the nodes agree that the one at `port` has failed.
    pub async fn is_failed(&self, port: u16) -> bool {
        let other = self.nodes.iter().find(|node| node.port != port && node.running.is_some()).expect("others run");
        let nodes: String = from_redis_value(other.command(&["CLUSTER", "NODES"]).await).expect("a text");
        let line = nodes.lines().find(|line| line.contains(&format!(":{port}@")));
        let flags = line.and_then(|line| line.split(' ').nth(2)).expect("it knows the node");
        flags.split(',').any(|flag| flag == "fail")
    }

    /// Waits until every master has a replica in sync, and the nodes agree.
    async fn in_sync(&self) {
        until("every master has its replica", async || {
            let (_, seen) = self.agreed().await;
            let masters = seen.iter().filter(|seen| !seen.slots.is_empty()).map(|seen| self.node(seen.port));
            let complete = join_all(masters.map(|master| master.has_replicas(1))).await;
            complete.iter().all(|&complete| complete).then_some(())
        })
        .await;
    }

    /// Returns the view of all running nodes, once they agree and all slots are served by running nodes; and the time.
    async fn agreed(&self) -> (Instant, Vec<Seen>) {
        until("the nodes agree", async || {
            let views = join_all(self.nodes.iter().map(view)).await;
            let views: Vec<_> = views.into_iter().flatten().collect();
            let answering: Vec<u16> =
                views.iter().flat_map(|view| &view.1).filter(|seen| seen.myself).map(|seen| seen.port).collect();
            let owners = |seen: &[Seen]| {
                let mut owners: Vec<_> = seen
                    .iter()
                    .filter(|seen| !seen.slots.is_empty())
                    .map(|seen| (seen.port, seen.slots.clone()))
                    .collect();
                owners.sort();
                owners
            };
            let first = owners(&views.first()?.1);
            let served = |(healthy, seen): &(bool, Vec<Seen>)| {
                *healthy && seen.len() == self.nodes.len() && owners(seen) == first
            };
            let slots: u32 = first.iter().flat_map(|owner| &owner.1).map(|&(from, to)| u32::from(to - from) + 1).sum();
            let alive = first.iter().all(|(port, _)| answering.contains(port));
            let agreed = slots == u32::from(SLOTS) && alive && views.iter().all(served);
            agreed.then(|| views.into_iter().next()).flatten().map(|(_, seen)| (Instant::now(), seen))
        })
        .await
    }
}

/// Returns the port of the master that a Sentinel names.
async fn named(sentinel: &Redis) -> Option<u16> {
    let named: Option<(String, u16)> = sentinel.prompt(&["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME]).await;
    named.map(|(_, port)| port)
}

/// Returns whether a node considers its cluster healthy, and the nodes that it knows; `None` if it does not answer.
async fn view(node: &Redis) -> Option<(bool, Vec<Seen>)> {
    let info: String = node.prompt(&["CLUSTER", "INFO"]).await?;
    let nodes: String = node.prompt(&["CLUSTER", "NODES"]).await?;
    let seen = nodes.lines().map(|line| {
        let words: Vec<_> = line.split(' ').collect();
        let port = words[1].split([':', '@']).nth(1).expect("an address has a port").parse().expect("a number");
        // After the slots come, in brackets, those that are being moved.
        let slots = words[8..].iter().filter(|word| !word.starts_with('['));
        let slots = slots.map(|range| range.split_once('-').unwrap_or((range, range)));
        let slots = slots.map(|(first, last)| (first.parse().expect("a number"), last.parse().expect("a number")));
        Seen { id: words[0].to_owned(), port, myself: words[2].contains("myself"), slots: slots.collect() }
    });
    Some((info.contains("cluster_state:ok"), seen.collect()))
}

/// Returns these servers as a part of a URL.
fn addresses(servers: &[Redis]) -> String {
    let addresses: Vec<_> = servers.iter().map(|server| format!("127.0.0.1:{}", server.port)).collect();
    addresses.join(",")
}

/// Returns a port that no other server of this process has.
fn next_port() -> u16 {
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
