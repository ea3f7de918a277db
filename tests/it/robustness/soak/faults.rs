//! Faults that are caused in a world.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{dice::Dice, replica::GRACE, world::World};
use crate::{
    robustness::history::{At, Fault},
    support::{redis::Redis, relay::Link},
};

/// Minimum durations of faults in milliseconds; the maximum is twice that. The longest exceed leases.
const LASTS: [u64; 4] = [50, 300, 1200, 2200];

/// One-way delay of a far link.
const FAR: Duration = Duration::from_millis(20);

/// Bytes per second of a narrow link.
const NARROW: u32 = 2_000_000;

/// Size of a step of a clock, in seconds.
const STEP: i64 = 3600;

/// Duration of a round without a fault: long enough for every worker that is gone to be noticed.
const CALM: Duration = Duration::from_secs(GRACE.as_secs() + 12);

/// A kind of fault.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    Restart,
    RestartEmpty,
    RestartOld,
    Freeze,
    Partition,
    Late,
    Far,
    Narrow,
    KillClients,
    KillSubscribers,
    FlushScripts,
    Fill,
    KillReplica,
    KillReplicas,
    StopReplica,
    StepClock,
    Flush,
    Nothing,
}

/// The time in which Redis answered nothing, and the only affected replica, if not all were affected.
type Silence = Option<(At, At, Option<usize>)>;

impl Harm {
    pub const ALL: [Self; 18] = [
        Self::Restart,
        Self::RestartEmpty,
        Self::RestartOld,
        Self::Freeze,
        Self::Partition,
        Self::Late,
        Self::Far,
        Self::Narrow,
        Self::KillClients,
        Self::KillSubscribers,
        Self::FlushScripts,
        Self::Fill,
        Self::KillReplica,
        Self::KillReplicas,
        Self::StopReplica,
        Self::StepClock,
        Self::Flush,
        Self::Nothing,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "Redis killed, restarted with its data",
            Self::RestartEmpty => "Redis killed, restarted empty",
            Self::RestartOld => "Redis killed, restarted from an old snapshot",
            Self::Freeze => "Redis stopped and continued",
            Self::Partition => "one replica cut off from Redis",
            Self::Late => "answers of Redis late by 500 ms",
            Self::Far => "Redis killed, restarted with its data, behind round trips of 40 ms",
            Self::Narrow => "Redis killed, restarted with its data, behind links of 16 Mbit/s",
            Self::KillClients => "CLIENT KILL TYPE normal",
            Self::KillSubscribers => "CLIENT KILL TYPE pubsub",
            Self::FlushScripts => "SCRIPT FLUSH",
            Self::Fill => "maxmemory reached",
            Self::KillReplica => "replica killed and restarted",
            Self::KillReplicas => "all replicas killed and restarted",
            Self::StopReplica => "replica stopped gracefully and started again",
            Self::StepClock => "wall clock of a replica stepped by an hour",
            Self::Flush => "FLUSHALL",
            Self::Nothing => "nothing",
        }
    }

    fn is_lossy(self) -> bool {
        matches!(self, Self::RestartEmpty | Self::RestartOld | Self::Flush)
    }

    /// Causes the fault, and repairs it after a while; links are repaired by [`mend_links`](Self::mend_links). Returns
    /// the time of the repair.
    pub async fn happen(self, world: &mut World, dice: &mut Dice) -> Instant {
        if self == Self::Nothing {
            sleep(CALM).await;
            return Instant::now();
        }
        let recorder = world.recorder.clone();
        if self == Self::RestartOld {
            world.redis.save_aside();
            sleep(dice.pause(Duration::from_millis(300))).await;
        }
        let least = LASTS[dice.roll(LASTS.len())];
        let lasts = dice.pause(Duration::from_millis(least));
        let (name, from, lossy) = (self.name(), recorder.now(), self.is_lossy());
        recorder.history().faults.push(Fault { name, from, mended: None, until: None, lossy, silent: None });
        let silent = self.harm(world, dice, lasts).await;
        let now = recorder.now();
        if let Some(fault) = recorder.history().faults.last_mut() {
            (fault.silent, fault.mended) = (silent, Some(now));
        }
        Instant::now()
    }

    /// Repairs links that were bad for the whole round.
    pub fn mend_links(world: &World) {
        world.set_links(Link::Pass);
    }

    async fn harm(self, world: &mut World, dice: &mut Dice, lasts: Duration) -> Silence {
        match self {
            Self::Restart | Self::RestartEmpty | Self::RestartOld => self.restart_redis(world, lasts).await,
            Self::Freeze => freeze_redis(world, lasts).await,
            Self::Partition => cut_off(world, dice, lasts).await,
            Self::Late => {
                world.set_links(Link::Late(Duration::from_millis(500)));
                sleep(lasts).await;
                world.set_links(Link::Pass);
                None
            }
            Self::Far | Self::Narrow => {
                world.set_links(if self == Self::Far { Link::Far(FAR) } else { Link::Narrow(NARROW) });
                sleep(dice.pause(Duration::from_millis(300))).await;
                self.restart_redis(world, lasts).await
            }
            Self::Fill => {
                world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
                sleep(lasts).await;
                world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
                None
            }
            Self::KillReplica | Self::KillReplicas => {
                let (one, all) = (dice.roll(world.replicas.len()), (0..world.replicas.len()).collect());
                let numbers = if self == Self::KillReplica { vec![one] } else { all };
                world.restart(&numbers, lasts).await;
                None
            }
            Self::StopReplica => stop_replica(world, dice, lasts).await,
            Self::StepClock => step_clock(world, dice, lasts).await,
            Self::KillClients => order(world, &["CLIENT", "KILL", "TYPE", "normal"]).await,
            Self::KillSubscribers => order(world, &["CLIENT", "KILL", "TYPE", "pubsub"]).await,
            Self::FlushScripts => order(world, &["SCRIPT", "FLUSH"]).await,
            Self::Flush => order(world, &["FLUSHALL"]).await,
            Self::Nothing => None,
        }
    }

    async fn restart_redis(self, world: &mut World, lasts: Duration) -> Silence {
        world.redis.kill();
        let silent = go_on(world, lasts, None).await;
        match self {
            Self::RestartEmpty => world.redis.restart_empty().await,
            Self::RestartOld => world.redis.restart_from_aside().await,
            _ => world.redis.restart().await,
        }
        silent
    }
}

async fn freeze_redis(world: &mut World, lasts: Duration) -> Silence {
    world.redis.signal("STOP");
    let silent = go_on(world, lasts, None).await;
    world.redis.signal("CONT");
    silent
}

async fn cut_off(world: &mut World, dice: &mut Dice, lasts: Duration) -> Silence {
    let number = dice.roll(world.replicas.len());
    world.relays[number].set_all(if dice.one_in(2) { Link::Hole } else { Link::Cut });
    let silent = go_on(world, lasts, Some(number)).await;
    world.relays[number].set_all(Link::Pass);
    silent
}

/// Steps the wall clock of a replica, while Redis is available or not.
async fn step_clock(world: &mut World, dice: &mut Dice, lasts: Duration) -> Silence {
    let number = dice.roll(world.replicas.len());
    let off = [-STEP, 0, STEP][dice.roll(3)];
    let away = dice.one_in(2);
    if away {
        world.redis.kill();
    }
    let from = world.recorder.now();
    // A clock that is right in the end is stepped first, too.
    world.replicas[number].step_clock(if off == 0 { STEP } else { off });
    sleep(lasts).await;
    if off == 0 {
        world.replicas[number].step_clock(0);
        sleep(lasts).await;
    }
    let silent = away.then(|| (from, world.recorder.now(), None));
    if away {
        world.redis.restart().await;
    }
    silent
}

/// Stops a replica gracefully, while Redis is available, has just become available, or is unavailable for part or all
/// of the drain.
async fn stop_replica(world: &mut World, dice: &mut Dice, lasts: Duration) -> Silence {
    let number = dice.roll(world.replicas.len());
    let case = dice.roll(8);
    let nothing = async |_: &mut Redis| ();
    match case {
        0 | 1 => {
            world.stop(number, lasts, nothing).await;
            None
        }
        2..=4 => {
            world.relays[number].set_all(Link::Cut);
            let silent = go_on(world, lasts, Some(number)).await;
            world.relays[number].set_all(Link::Pass);
            sleep(dice.pause(Duration::from_millis(50))).await;
            world.stop(number, lasts, nothing).await;
            silent
        }
        _ => {
            world.redis.kill();
            let from = world.recorder.now();
            sleep(lasts).await;
            let recorder = world.recorder.clone();
            let mut back = None;
            let returns = case < 7;
            let meanwhile = async |redis: &mut Redis| {
                if returns {
                    sleep(lasts).await;
                    back = Some(recorder.now());
                    redis.restart().await;
                }
            };
            world.stop(number, lasts, meanwhile).await;
            let back = back.unwrap_or_else(|| world.recorder.now());
            if !returns {
                world.redis.restart().await;
            }
            Some((from, back, None))
        }
    }
}

/// Waits while a fault lasts. Returns the time in which Redis answered nothing.
async fn go_on(world: &World, lasts: Duration, replica: Option<usize>) -> Silence {
    let from = world.recorder.now();
    sleep(lasts).await;
    Some((from, world.recorder.now(), replica))
}

async fn order(world: &World, words: &[&str]) -> Silence {
    // Redis kills the connection that asks for it last, or not at all.
    _ = world.redis.try_command(words).await;
    None
}
