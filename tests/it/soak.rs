//! Two replicas, a Redis, and clients of all sorts, while one thing after the other is broken and mended: whatever
//! happens, the history of what the clients saw shows every promise kept.

mod clients;
mod dice;
mod faults;
mod scenes;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    mem::replace,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use jobtrack::proto::v1::reconciled_job::Outcome;
use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use uuid::Uuid;

use self::{
    clients::Client,
    dice::Dice,
    faults::Harm,
    scenes::{Plot, Scene},
    world::World,
};
use crate::history::{AUDITOR, Act, At, Recorder, Violation, check};

/// How many scenes are played at a time.
const SCENES: usize = 24;

/// How many jobs of former rounds stay under observation.
const OLD: usize = 200;

/// How long what is on its way to watchers may take: what they hear nothing of is read again every 5 s.
const ARRIVAL: Duration = Duration::from_secs(7);

/// When something could have had an answer from Redis no more, and until when; which replica, if not all.
type Silence = Option<(At, At, Option<usize>)>;

/// A world, those in it, and what was found so far.
struct Soak {
    folder: PathBuf,
    world: World,
    client: Client,
    dice: Dice,
    round: usize,
    violations: BTreeSet<Violation>,
    counts: BTreeMap<&'static str, usize>,
    /// Watches jobs of the last round that may still have to hear of a lost worker.
    lingering: CancellationToken,
    old: Vec<String>,
    /// What came before is counted.
    counted: At,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_break_no_promise() {
    let end = Duration::from_secs(20);
    soak(4, end, &[Harm::RestartEmpty, Harm::Flush, Harm::Partition, Harm::Stop, Harm::KillReplica]).await;
}

/// As long as `JOBTRACK_SOAK_MINUTES` says, from `JOBTRACK_SOAK_SEED` or any seed.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as it is told to: tests/run.sh --soak MINUTES"]
async fn random_faults_break_no_promise_for_long() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let seed = number("JOBTRACK_SOAK_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    let minutes = number("JOBTRACK_SOAK_MINUTES").unwrap_or(30);
    let only = env::var("JOBTRACK_SOAK_FAULTS").unwrap_or_default();
    let harms: Vec<_> =
        Harm::ALL.into_iter().filter(|harm| only.is_empty() || only.contains(&format!("{harm:?}"))).collect();
    soak(seed, Duration::from_secs(minutes * 60), &harms).await;
}

/// Lets all of `harms` happen, in an order by the seed, again and again until the time is over.
async fn soak(seed: u64, time: Duration, harms: &[Harm]) {
    println!("seed {seed}");
    let started = Instant::now();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}"));
    let world = World::start(&folder).await;
    let client = Client { name: String::new(), channels: world.channels(), recorder: world.recorder.clone() };
    let ledgers = tokio::spawn(World::follow_ledgers(world.channels(), world.recorder.clone()));
    let stalls = tokio::spawn(feel_stalls(world.recorder.clone()));
    let mut soak = Soak {
        folder: folder.clone(),
        world,
        client,
        dice: Dice::new(seed),
        round: 0,
        violations: BTreeSet::new(),
        counts: BTreeMap::new(),
        lingering: CancellationToken::new(),
        old: Vec::new(),
        counted: At::ZERO,
    };
    let whole = soak.world.whole(Instant::now()).await;
    assert_eq!(whole, Ok(()), "it is whole at first");
    while started.elapsed() < time {
        let mut deck = harms.to_vec();
        soak.dice.shuffle(&mut deck);
        for harm in deck {
            if started.elapsed() < time {
                soak.play_round(harm).await;
            }
        }
    }
    soak.tally();
    ledgers.abort();
    stalls.abort();
    println!("seed {seed}, {:?}: {:?}", started.elapsed(), soak.counts);
    for violation in &soak.violations {
        println!("{violation}");
    }
    assert_eq!(soak.violations.len(), 0, "promises were broken: seed {seed}, logs in {}", folder.display());
}

/// Notes when nobody had a turn for long, for ever.
async fn feel_stalls(recorder: Arc<Recorder>) {
    let mut last = recorder.now();
    loop {
        sleep(Duration::from_millis(20)).await;
        let now = recorder.now();
        if now.saturating_sub(last) > Duration::from_millis(100) {
            recorder.history().stalls.push((last, now));
        }
        last = now;
    }
}

impl Soak {
    /// Has clients at work, lets one thing happen, and when all is healed and quiet holds the history against the
    /// promises.
    async fn play_round(&mut self, harm: Harm) {
        self.round += 1;
        let owner = format!("o{}", self.round);
        let (stop, leave, linger) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let (scenes, watchers) = (TaskTracker::new(), TaskTracker::new());
        for replica in [0, 1] {
            watchers.spawn(self.client.named(&owner).watch_all(replica, leave.clone()));
        }
        for number in 0..SCENES {
            let round = Stage {
                client: self.client.clone(),
                owner: owner.clone(),
                stop: stop.clone(),
                leave: leave.clone(),
                linger: linger.clone(),
                watchers: watchers.clone(),
            };
            scenes.spawn(round.play(number, self.dice.fork()));
        }
        sleep(self.dice.pause(Duration::from_millis(400))).await;
        let mended = harm.happen(&mut self.world, &mut self.dice).await;
        sleep(self.dice.pause(Duration::from_millis(300))).await;
        stop.cancel();
        scenes.close();
        scenes.wait().await;
        let whole = self.world.whole(mended).await;
        self.heal();
        if let Err(what) = whole {
            self.object(&Violation { rule: "G2", job: owner.clone(), what });
        }
        self.audit().await;
        self.check(harm);
        leave.cancel();
        watchers.close();
        watchers.wait().await;
        replace(&mut self.lingering, linger).cancel();
        self.forget(&owner);
    }

    fn heal(&self) {
        let now = self.world.recorder.now();
        if let Some(fault) = self.world.recorder.history().faults.last_mut() {
            fault.until = Some(now);
        }
    }

    /// Reads every job on both replicas, again until all who watch know the same or had the time to.
    async fn audit(&mut self) {
        let auditor = self.client.named(AUDITOR);
        let jobs: BTreeSet<_> = self.world.recorder.history().calls.iter().map(|call| call.job.clone()).collect();
        let (mut deadline, last) = (Instant::now() + ARRIVAL, Instant::now() + 4 * ARRIVAL);
        loop {
            let quiet = self.world.recorder.now();
            self.world.recorder.history().quiet = Some(quiet);
            for job in &jobs {
                join_all([0, 1].map(|replica| auditor.call(replica, job, Act::Get))).await;
            }
            if Instant::now() > deadline || check(&self.world.recorder.history()).is_empty() {
                return;
            }
            // A busy machine may be slow enough for a replica to take Redis for away.
            if self.is_away_again(quiet) && Instant::now() < last && self.world.whole(Instant::now()).await.is_ok() {
                *self.counts.entry("relapses").or_default() += 1;
                deadline = Instant::now() + ARRIVAL;
            }
            sleep(Duration::from_millis(500)).await;
            self.world.recorder.history().calls.retain(|call| call.client != AUDITOR || call.begun < quiet);
        }
    }

    /// Whether what the auditor was told since then did not come from Redis.
    fn is_away_again(&self, since: At) -> bool {
        let history = self.world.recorder.history();
        let mut told = history.calls.iter().filter(|call| call.client == AUDITOR && call.begun >= since);
        told.any(|call| call.shown().is_some_and(|shown| !shown.durable))
    }

    fn check(&mut self, harm: Harm) {
        let found = check(&self.world.recorder.history());
        for violation in found {
            self.object(&violation);
        }
        let (round, at) = (self.round, self.world.recorder.now());
        println!("round {round}, {at:.0?}: {harm:?}, {} violations", self.violations.len());
    }

    fn object(&mut self, violation: &Violation) {
        if self.violations.insert(violation.clone()) {
            println!("round {}: {violation}", self.round);
            let story = self.world.recorder.history().tell(&violation.job);
            fs::write(self.folder.join(format!("{}.txt", violation.job)), story).expect("a file can be written");
        }
    }

    /// Counts what was seen, and keeps no more of it than the next rounds need.
    fn forget(&mut self, owner: &str) {
        self.tally();
        let mut history = self.world.recorder.history();
        let ours: Vec<_> = history
            .calls
            .iter()
            .filter(|call| call.job.starts_with(&format!("{owner}-")))
            .map(|call| &call.job)
            .collect();
        let some = ours.iter().step_by(40).map(|&job| job.clone());
        self.old.extend(some.collect::<BTreeSet<_>>());
        let surplus = self.old.len().saturating_sub(OLD);
        self.old.drain(..surplus);
        let old: BTreeSet<_> = self.old.iter().map(String::as_str).collect();
        let may_linger = |name: &str| name.starts_with(&format!("{owner}-")) && name.ends_with("Leased");
        history.retain(|name| old.contains(name) || may_linger(name));
    }

    fn tally(&mut self) {
        let since = replace(&mut self.counted, self.world.recorder.now());
        let history = self.world.recorder.history();
        let entries = || history.ledger.iter().filter(|entry| entry.at >= since);
        let count = |outcome| entries().filter(|entry| entry.outcome == outcome).count();
        let heard = history.streams.iter().flat_map(|stream| &stream.events);
        let news = [
            ("merged", count(Outcome::Merged)),
            ("conflicted", count(Outcome::Conflicted)),
            ("dropped", count(Outcome::Dropped)),
            ("calls", history.calls.iter().filter(|call| call.ended >= since).count()),
            ("events", heard.filter(|heard| heard.at >= since).count()),
            ("streams", history.streams.iter().filter(|stream| stream.opened >= since).count()),
        ];
        let faults = history.faults.len();
        drop(history);
        for (name, number) in news {
            *self.counts.entry(name).or_default() += number;
        }
        self.counts.insert("faults", faults);
    }
}

/// Where scenes of a round are played.
struct Stage {
    client: Client,
    owner: String,
    stop: CancellationToken,
    leave: CancellationToken,
    linger: CancellationToken,
    watchers: TaskTracker,
}

impl Stage {
    /// Plays one scene after the other.
    async fn play(self, number: usize, mut dice: Dice) {
        let client = self.client.named(format!("c{number}"));
        for turn in 0.. {
            if self.stop.is_cancelled() {
                return;
            }
            let plot = Plot::ALL[dice.roll(Plot::ALL.len())];
            let job = format!("{}-{number}-{turn}-{plot:?}", self.owner);
            let (owner, stop) = (self.owner.clone(), self.stop.clone());
            let scene = Scene { client: client.clone(), owner, job: job.clone(), dice: dice.fork(), stop };
            if plot != Plot::Ghost && dice.one_in(2) {
                let watcher = self.client.named(format!("w-{job}"));
                if plot == Plot::Leased {
                    tokio::spawn(watcher.watch(job, dice.fork(), self.linger.clone()));
                } else {
                    self.watchers.spawn(watcher.watch(job, dice.fork(), self.leave.clone()));
                }
            }
            scene.play(plot).await;
        }
    }
}
