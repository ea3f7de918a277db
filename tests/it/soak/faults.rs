//! What is done to a world.

use std::time::{Duration, Instant};

use tokio::time::sleep;

use super::{dice::Dice, world::World};
use crate::{history::Fault, support::relay::Link};

/// A way to mistreat it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Harm {
    Restart,
    RestartEmpty,
    RestartOld,
    Stop,
    Partition,
    Late,
    KillClients,
    KillSubscribers,
    FlushScripts,
    Fill,
    KillReplica,
    Flush,
}

impl Harm {
    pub const ALL: [Self; 12] = [
        Self::Restart,
        Self::RestartEmpty,
        Self::RestartOld,
        Self::Stop,
        Self::Partition,
        Self::Late,
        Self::KillClients,
        Self::KillSubscribers,
        Self::FlushScripts,
        Self::Fill,
        Self::KillReplica,
        Self::Flush,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Restart => "Redis killed, restarted with its data",
            Self::RestartEmpty => "Redis killed, restarted empty",
            Self::RestartOld => "Redis killed, restarted from an old snapshot",
            Self::Stop => "Redis stopped and continued",
            Self::Partition => "one replica cut off from Redis",
            Self::Late => "answers of Redis late by 500 ms",
            Self::KillClients => "CLIENT KILL TYPE normal",
            Self::KillSubscribers => "CLIENT KILL TYPE pubsub",
            Self::FlushScripts => "SCRIPT FLUSH",
            Self::Fill => "maxmemory reached",
            Self::KillReplica => "replica killed and restarted",
            Self::Flush => "FLUSHALL",
        }
    }

    fn is_lossy(self) -> bool {
        matches!(self, Self::RestartEmpty | Self::RestartOld | Self::Flush)
    }

    /// Does it, and mends it after a while. Returns when it was mended.
    pub async fn happen(self, world: &mut World, dice: &mut Dice) -> Instant {
        let recorder = world.recorder.clone();
        if self == Self::RestartOld {
            world.redis.save_aside();
            sleep(dice.pause(Duration::from_millis(300))).await;
        }
        let least = [50, 300, 1200][dice.roll(3)];
        let lasts = dice.pause(Duration::from_millis(least));
        let fault =
            Fault { name: self.name(), from: recorder.now(), until: None, lossy: self.is_lossy(), silent: None };
        recorder.history().faults.push(fault);
        let silent = match self {
            Self::Restart | Self::RestartEmpty | Self::RestartOld => {
                world.redis.kill();
                let silent = self.go_on(world, lasts, None).await;
                match self {
                    Self::Restart => world.redis.restart().await,
                    Self::RestartOld => world.redis.restart_from_aside().await,
                    _ => world.redis.restart_empty().await,
                }
                silent
            }
            Self::Stop => {
                world.redis.signal("STOP");
                let silent = self.go_on(world, lasts, None).await;
                world.redis.signal("CONT");
                silent
            }
            Self::Partition => {
                let number = dice.roll(2);
                world.relays[number].set_all(if dice.one_in(2) { Link::Hole } else { Link::Cut });
                let silent = self.go_on(world, lasts, Some(number)).await;
                world.relays[number].set_all(Link::Pass);
                silent
            }
            Self::Late => {
                world.relays.iter().for_each(|relay| relay.set_all(Link::Late(Duration::from_millis(500))));
                sleep(lasts).await;
                world.relays.iter().for_each(|relay| relay.set_all(Link::Pass));
                None
            }
            Self::Fill => {
                world.redis.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
                sleep(lasts).await;
                world.redis.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
                None
            }
            Self::KillReplica => {
                world.restart(dice.roll(2), lasts).await;
                None
            }
            Self::KillClients => self.order(world, &["CLIENT", "KILL", "TYPE", "normal"]).await,
            Self::KillSubscribers => self.order(world, &["CLIENT", "KILL", "TYPE", "pubsub"]).await,
            Self::FlushScripts => self.order(world, &["SCRIPT", "FLUSH"]).await,
            Self::Flush => self.order(world, &["FLUSHALL"]).await,
        };
        if let Some(fault) = recorder.history().faults.last_mut() {
            fault.silent = silent;
        }
        Instant::now()
    }

    /// Has it last, and tells when all that Redis had answered before was known.
    async fn go_on(self, world: &World, lasts: Duration, replica: Option<usize>) -> super::Silence {
        let from = world.recorder.now();
        sleep(lasts).await;
        Some((from, world.recorder.now(), replica))
    }

    async fn order(self, world: &World, words: &[&str]) -> super::Silence {
        // Redis kills the connection that asks for it last, or not at all.
        _ = world.redis.try_command(words).await;
        None
    }
}
