//! Replicas, a Redis, and clients of all kinds, under one fault after the other: the recorded history of what the
//! clients saw must show every promise kept.

mod clients;
mod dice;
mod events;
mod faults;
mod replica;
mod rounds;
mod scenes;
mod stage;
mod workers;
mod world;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    clients::Client,
    dice::Dice,
    faults::Harm,
    world::{Settings, World},
};
use crate::robustness::history::{At, Face, Recorder, Violation};

/// Retention of an active job after its last change, in every third run.
const ACTIVE_RETENTION: Duration = Duration::from_secs(3);

/// A world, its clients, and the violations found so far.
struct Soak {
    folder: PathBuf,
    world: World,
    client: Client,
    dice: Dice,
    round: usize,
    /// The last round without a fault.
    calm: usize,
    violations: BTreeSet<Violation>,
    counts: BTreeMap<&'static str, usize>,
    /// Ends the watches of the last round's jobs whose worker may still be reported as lost.
    lingering: CancellationToken,
    old: Vec<String>,
    /// Time up to which the history has been counted.
    counted: At,
}

#[tokio::test(flavor = "multi_thread")]
async fn random_faults_break_no_promise() {
    let harms = [Harm::Partition, Harm::Flush, Harm::StopReplica, Harm::StepClock, Harm::KillReplicas, Harm::Far];
    soak(4, Duration::ZERO, &harms, 2).await;
}

/// Runs for `JOBTRACK_SOAK_MINUTES`, from `JOBTRACK_SOAK_SEED` or a random seed, on `JOBTRACK_SOAK_REPLICAS` replicas
/// or two. `JOBTRACK_SOAK_FAULTS` limits the faults to those it names, separated by commas.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes as long as it is told to: tests/run.sh --soak MINUTES [REPLICAS]"]
async fn random_faults_break_no_promise_for_long() {
    let number = |name: &str| env::var(name).ok().map(|value| value.parse::<u64>().expect("a number"));
    let seed = number("JOBTRACK_SOAK_SEED").unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    let minutes = number("JOBTRACK_SOAK_MINUTES").unwrap_or(30);
    let replicas = number("JOBTRACK_SOAK_REPLICAS").unwrap_or(2);
    let replicas =
        usize::try_from(replicas).ok().filter(|replicas| (2..=9).contains(replicas)).expect("2 to 9 replicas");
    let only = env::var("JOBTRACK_SOAK_FAULTS").unwrap_or_default();
    let named = |harm: &Harm| only.is_empty() || only.split(',').any(|name| name == format!("{harm:?}"));
    let harms: Vec<_> = Harm::ALL.into_iter().filter(named).collect();
    soak(seed, Duration::from_secs(minutes * 60), &harms, replicas).await;
}

/// Causes all of `harms`, in an order by the seed, repeatedly until the time is over; once if the time is zero.
async fn soak(seed: u64, time: Duration, harms: &[Harm], replicas: usize) {
    let active_retention = if seed.is_multiple_of(3) { ACTIVE_RETENTION } else { Duration::ZERO };
    let settings = Settings { replicas, active_retention };
    println!("seed {seed}, {settings:?}");
    let started = Instant::now();
    let mut soak = Soak::start(seed, settings).await;
    let reports = tokio::spawn(World::follow_reports(soak.world.channels(), soak.world.recorder.clone()));
    let stalls = tokio::spawn(feel_stalls(soak.world.recorder.clone()));
    let whole = soak.world.whole(Instant::now()).await;
    assert_eq!(whole, Ok(()), "it is whole at first");
    loop {
        let mut deck = harms.to_vec();
        soak.dice.shuffle(&mut deck);
        for harm in deck {
            if time.is_zero() || started.elapsed() < time {
                soak.play_round(harm).await;
            }
        }
        if started.elapsed() >= time {
            break;
        }
    }
    soak.tally();
    reports.abort();
    stalls.abort();
    println!("seed {seed}, {settings:?}, {:?}, {} rounds: {:?}", started.elapsed(), soak.round, soak.counts);
    for violation in &soak.violations {
        println!("{violation}");
    }
    assert_eq!(soak.violations.len(), 0, "promises were broken: seed {seed}, logs in {}", soak.folder.display());
}

/// Records the times at which no task ran for long; never returns.
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
    async fn start(seed: u64, settings: Settings) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("soak-{seed}"));
        let world = World::start(&folder, settings).await;
        let (name, limited_to, recorder) = (String::new(), String::new(), world.recorder.clone());
        let (channels, https, face) = (world.channels(), world.https(), Face::Grpc);
        let client = Client { name, limited_to, channels, https, face, recorder };
        Self {
            folder,
            world,
            client,
            dice: Dice::new(seed),
            round: 0,
            calm: 0,
            violations: BTreeSet::new(),
            counts: BTreeMap::new(),
            lingering: CancellationToken::new(),
            old: Vec::new(),
            counted: At::ZERO,
        }
    }
}
