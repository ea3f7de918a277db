//! A Redis and two replicas in front of it, each of which can be mistreated.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use jobtrack::proto::v1::{
    GetStatsRequest, GetStatsResponse, StorageMode, admin_service_client::AdminServiceClient, reconciled_job::Outcome,
};
use tokio::time::{sleep, timeout};
use tonic::transport::{Channel, Endpoint};

use crate::{
    history::{Death, Entry, Recorder},
    support::{process::command, redis::Redis, relay::Relay},
};

/// How long everything may take to be whole again after a fault.
const PATIENCE: Duration = Duration::from_secs(30);

/// How often the ledgers are read.
const LOOK: Duration = Duration::from_millis(100);

/// What is mistreated.
pub struct World {
    pub redis: Redis,
    pub relays: [Relay; 2],
    pub replicas: [Replica; 2],
    pub recorder: Arc<Recorder>,
}

/// A process, killed when dropped, and its log.
pub struct Replica {
    pub channel: Channel,
    number: usize,
    address: SocketAddr,
    redis: String,
    log: PathBuf,
    child: Child,
}

impl World {
    /// Everything runs. The replicas' logs are in `folder`.
    pub async fn start(folder: &Path) -> Self {
        let flags = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];
        let redis = Redis::with(&flags).await;
        let relays = [Relay::to(redis.port).await, Relay::to(redis.port).await];
        fs::create_dir_all(folder).expect("a directory can be made");
        let replica = |number: usize| Replica::start(number, relays[number].url(), folder);
        let replicas = [replica(0), replica(1)];
        Self { redis, relays, replicas, recorder: Arc::new(Recorder::start()) }
    }

    /// How to reach each replica.
    pub fn channels(&self) -> [Channel; 2] {
        [0, 1].map(|number| self.replicas[number].channel.clone())
    }

    /// Kills a replica, and starts it again on its port.
    pub async fn restart(&mut self, number: usize, down: Duration) {
        let replica = &mut self.replicas[number];
        replica.kill();
        let at = self.recorder.now();
        self.recorder.history().deaths.push(Death { replica: number, at });
        sleep(down).await;
        replica.run();
    }

    /// Waits until all replicas say that they have been whole since `since` at the latest, and hold nothing back.
    pub async fn whole(&self, since: Instant) -> Result<(), String> {
        let mut last = Vec::new();
        let all_whole = async {
            loop {
                last.clear();
                for channel in self.channels() {
                    last.push(stats(&channel).await);
                }
                let is_whole =
                    |stats: &GetStatsResponse| stats.storage_mode() == StorageMode::Redis && stats.dirty_jobs == 0;
                if since.elapsed() > PATIENCE / 20 && last.iter().flatten().filter(|stats| is_whole(stats)).count() == 2
                {
                    return;
                }
                sleep(LOOK).await;
            }
        };
        timeout(PATIENCE, all_whole).await.map_err(|_| format!("not whole again: {last:?}"))
    }

    /// Follows what the ledgers say, for ever.
    pub async fn follow_ledgers(channels: [Channel; 2], recorder: Arc<Recorder>) {
        let mut followed = [Followed::default(), Followed::default()];
        loop {
            for (replica, (followed, channel)) in followed.iter_mut().zip(&channels).enumerate() {
                if let Some(stats) = stats(channel).await {
                    followed.read(replica, &stats, &recorder);
                }
            }
            sleep(LOOK).await;
        }
    }
}

/// What was read of the ledger of a replica, the latest first.
#[derive(Default)]
struct Followed(Vec<(String, i32)>);

impl Followed {
    fn read(&mut self, replica: usize, stats: &GetStatsResponse, recorder: &Recorder) {
        let jobs = stats.last_reconciliation.iter().flat_map(|ledger| &ledger.jobs);
        let told: Vec<_> = jobs.map(|job| (job.job_id.clone(), job.outcome)).collect();
        let at = recorder.now();
        let entries = told[..self.count_news(&told)].iter().map(|(job, outcome)| Entry {
            replica,
            at,
            job: job.clone(),
            outcome: Outcome::try_from(*outcome).expect("an outcome that is known"),
        });
        recorder.history().ledger.extend(entries);
        self.0 = told;
    }

    /// How many were entered since: what was there before is still in its order.
    fn count_news(&self, told: &[(String, i32)]) -> usize {
        let mut before = self.0.iter().rev();
        let known = told.iter().rev().take_while(|entry| before.any(|other| other == *entry)).count();
        told.len() - known
    }
}

async fn stats(channel: &Channel) -> Option<GetStatsResponse> {
    let asked = AdminServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20);
    let mut asked = asked;
    let answer = timeout(PATIENCE / 10, asked.get_stats(GetStatsRequest {})).await;
    Some(answer.ok()?.ok()?.into_inner())
}

impl Replica {
    fn start(number: usize, redis: String, folder: &Path) -> Self {
        let log = folder.join(format!("replica-{number}.log"));
        _ = fs::remove_file(&log);
        let (child, address) = serve("127.0.0.1:0", &redis, &log).expect("it serves");
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
        let channel = endpoint.connect_timeout(Duration::from_secs(1)).connect_lazy();
        Self { channel, number, address, redis, log, child }
    }

    fn run(&mut self) {
        // Somebody may have been given its port meanwhile, for a moment.
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some((child, _)) = serve(&self.address.to_string(), &self.redis, &self.log) {
                self.child = child;
                return;
            }
            assert!(Instant::now() < deadline, "replica {} does not start again", self.number);
            std::thread::sleep(LOOK);
        }
    }

    fn kill(&mut self) {
        _ = self.child.kill();
        _ = self.child.wait();
    }
}

impl Drop for Replica {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Starts the binary, which goes on writing to `log`. Nothing if it ends at once.
fn serve(address: &str, redis: &str, log: &Path) -> Option<(Child, SocketAddr)> {
    let log = File::options().create(true).append(true).open(log).expect("a file can be written");
    let flags = ["--redis-url", redis, "--listen", address, "--log", "jobtrack=debug,info"];
    let mut child = command(&flags).stdout(Stdio::piped()).stderr(log).spawn().expect("the binary can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut banner = String::new();
    while banner.lines().count() < 4 {
        if lines.read_line(&mut banner).expect("the banner is text") == 0 {
            child.wait().expect("it can be waited for");
            return None;
        }
    }
    let address = banner.split([' ', ',']).find_map(|word| word.parse().ok()).expect("the banner has the address");
    Some((child, address))
}
