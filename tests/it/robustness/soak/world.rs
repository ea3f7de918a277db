//! A Redis and its replicas, in which faults can be caused.

use std::{
    collections::BTreeSet,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::proto::v1::{
    GetStatsRequest, GetStatsResponse, StorageMode, admin_service_client::AdminServiceClient, reconciled_job::Outcome,
};
use serde_json::json;
use tokio::time::{sleep, timeout};
use tonic::transport::Channel;

use super::{
    clients::{EVERYBODY, THIEF},
    replica::{GRACE, Replica, Stopped},
};
use crate::{
    robustness::history::{At, Death, Entry, Recorder, Stop},
    support::{
        credentials::{bearer, holder, identities},
        json::Http,
        redis::Redis,
        relay::{Link, Relay},
    },
};

/// Maximum time after a fault until everything is whole again.
const WHOLE_TIMEOUT: Duration = Duration::from_secs(30);

/// Interval between reads of the reports of reconciliations.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The size and the flags of a world.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    pub replicas: usize,
    /// Retention of an active job; zero: unlimited.
    pub active_retention: Duration,
}

/// The servers of a soak test.
pub struct World {
    pub redis: Redis,
    pub relays: Vec<Relay>,
    pub replicas: Vec<Replica>,
    pub recorder: Arc<Recorder>,
}

impl World {
    /// Starts everything. The replicas' logs are in `folder`.
    pub async fn start(folder: &Path, settings: Settings) -> Self {
        let flags = ["--appendonly", "yes", "--auto-aof-rewrite-percentage", "0"];
        let redis = Redis::with(&flags).await;
        fs::create_dir_all(folder).expect("a directory can be made");
        let known = identities(&[holder(EVERYBODY, "admin", &json!("*")), holder(THIEF, "reporter", &json!([THIEF]))]);
        fs::write(folder.join("identities.json"), known).expect("a file can be written");
        let relays = join_all((0..settings.replicas).map(|_| Relay::to(redis.port))).await;
        let start = |(number, relay): (usize, &Relay)| Replica::start(number, &relay.url(), settings, folder);
        let replicas = relays.iter().enumerate().map(start).collect();
        let recorder = Recorder::start();
        let mut history = recorder.history();
        history.replicas = settings.replicas;
        (history.grace, history.active_retention) = (GRACE, settings.active_retention);
        drop(history);
        Self { redis, relays, replicas, recorder: Arc::new(recorder) }
    }

    /// Returns a channel to each replica.
    pub fn channels(&self) -> Vec<Channel> {
        self.replicas.iter().map(|replica| replica.channel.clone()).collect()
    }

    /// Returns a client of the HTTP API of each replica.
    pub fn https(&self) -> Vec<Http> {
        self.replicas.iter().map(|replica| replica.http.clone()).collect()
    }

    /// Sets all links.
    pub fn set_links(&self, link: Link) {
        self.relays.iter().for_each(|relay| relay.set_all(link));
    }

    /// Kills replicas, and starts them again on their ports.
    pub async fn restart(&mut self, numbers: &[usize], down: Duration) {
        for &number in numbers {
            self.replicas[number].kill();
            let at = self.recorder.now();
            self.recorder.history().deaths.push(Death { replica: number, at, back: None });
        }
        sleep(down).await;
        for &number in numbers {
            self.run(number);
        }
    }

    /// Stops a replica gracefully, does something meanwhile, and starts it again on its port.
    pub async fn stop(&mut self, number: usize, down: Duration, meanwhile: impl AsyncFnOnce(&mut Redis)) {
        let at = self.recorder.now();
        let stopped = self.replicas[number].stop(meanwhile(&mut self.redis)).await;
        self.note_stop(number, at, &stopped);
        sleep(down).await;
        self.run(number);
    }

    fn note_stop(&self, number: usize, at: At, stopped: &Stopped) {
        let ended = self.recorder.now();
        let mut history = self.recorder.history();
        let (code, left) = (stopped.code, stopped.left());
        history.stops.push(Stop { replica: number, at, ended, back: None, code, left });
        if code != Some(0) {
            history.deaths.push(Death { replica: number, at: ended, back: None });
        }
        // The report of the stopped process can't be read any more.
        let jobs: BTreeSet<_> = history.calls.iter().map(|call| call.job.clone()).collect();
        let given_way = stopped.given_way(jobs.iter());
        let outcome = Outcome::Conflicted;
        let entries = given_way.into_iter().map(|job| Entry { replica: number, at: ended, job: job.clone(), outcome });
        history.reported.extend(entries);
    }

    fn run(&mut self, number: usize) {
        self.replicas[number].run();
        let now = self.recorder.now();
        let mut history = self.recorder.history();
        let here = |replica: usize, back: &Option<At>| replica == number && back.is_none();
        history.deaths.iter_mut().filter(|death| here(death.replica, &death.back)).for_each(|it| it.back = Some(now));
        history.stops.iter_mut().filter(|stop| here(stop.replica, &stop.back)).for_each(|it| it.back = Some(now));
    }

    /// Waits until all replicas report that they have been whole since `since` at the latest, and have no dirty jobs.
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
                let whole = last.iter().flatten().filter(|stats| is_whole(stats)).count();
                if since.elapsed() > WHOLE_TIMEOUT / 20 && whole == self.replicas.len() {
                    return;
                }
                sleep(POLL_INTERVAL).await;
            }
        };
        timeout(WHOLE_TIMEOUT, all_whole).await.map_err(|_| format!("not whole again: {last:?}"))
    }

    /// Records the outcomes in the reports of reconciliations; never returns.
    pub async fn follow_reports(channels: Vec<Channel>, recorder: Arc<Recorder>) {
        let mut followed: Vec<_> = channels.iter().map(|_| Followed::default()).collect();
        loop {
            for (replica, (followed, channel)) in followed.iter_mut().zip(&channels).enumerate() {
                if let Some(stats) = stats(channel).await {
                    followed.read(replica, &stats, &recorder);
                }
            }
            sleep(POLL_INTERVAL).await;
        }
    }
}

/// The part of a replica's report that was read before, the latest first.
#[derive(Default)]
struct Followed(Vec<(String, i32)>);

impl Followed {
    fn read(&mut self, replica: usize, stats: &GetStatsResponse, recorder: &Recorder) {
        let jobs = stats.last_reconciliation.iter().flat_map(|report| &report.jobs);
        let told: Vec<_> = jobs.map(|job| (job.job_id.clone(), job.outcome)).collect();
        let at = recorder.now();
        let entries = told[..self.count_news(&told)].iter().map(|(job, outcome)| Entry {
            replica,
            at,
            job: job.clone(),
            outcome: Outcome::try_from(*outcome).expect("an outcome that is known"),
        });
        recorder.history().reported.extend(entries);
        self.0 = told;
    }

    /// Returns the number of new outcomes: earlier ones keep their order.
    fn count_news(&self, told: &[(String, i32)]) -> usize {
        let mut before = self.0.iter().rev();
        let known = told.iter().rev().take_while(|entry| before.any(|other| other == *entry)).count();
        told.len() - known
    }
}

async fn stats(channel: &Channel) -> Option<GetStatsResponse> {
    let mut admin = AdminServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20);
    let answer = timeout(WHOLE_TIMEOUT / 10, admin.get_stats(bearer(EVERYBODY, GetStatsRequest {}))).await;
    Some(answer.ok()?.ok()?.into_inner())
}
