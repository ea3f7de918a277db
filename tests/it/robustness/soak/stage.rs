//! The environment of the scenes of a round.

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    clients::Client,
    dice::Dice,
    scenes::{Plot, Scene},
};
use crate::robustness::history::Face;

/// The common parts of the scenes of a round.
#[derive(Clone)]
pub struct Stage {
    pub client: Client,
    pub owner: String,
    /// Ends the calls.
    pub stop: CancellationToken,
    /// Ends the watches.
    pub leave: CancellationToken,
    /// Ends the watches of jobs whose worker may still be reported as lost.
    pub linger: CancellationToken,
    pub watchers: TaskTracker,
}

impl Stage {
    /// Creates a stage without scenes.
    pub fn new(client: Client, owner: String) -> Self {
        let (stop, leave, linger) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        Self { client, owner, stop, leave, linger, watchers: TaskTracker::new() }
    }

    /// Plays scenes one after the other.
    pub async fn play(self, number: usize, mut dice: Dice) {
        for turn in 0.. {
            if self.stop.is_cancelled() {
                return;
            }
            let plot = Plot::ALL[dice.roll(Plot::ALL.len())];
            let job = format!("{}-{number}-{turn}-{plot:?}", self.owner);
            let scene = self.scene(format!("c{number}"), job.clone(), &mut dice);
            if plot != Plot::Ghost && dice.one_in(2) {
                let face = if dice.one_in(2) { Face::Events } else { Face::Grpc };
                let watcher = self.client.named(format!("w-{job}")).through(face);
                if plot == Plot::Leased {
                    tokio::spawn(watcher.watch(job, dice.fork(), self.linger.clone()));
                } else {
                    self.watchers.spawn(watcher.watch(job, dice.fork(), self.leave.clone()));
                }
            }
            scene.play(plot).await;
        }
    }

    /// Runs a worker that reports on a job for the whole round.
    pub async fn keep(self, number: usize, mut dice: Dice) {
        let job = format!("{}-k{number}-Kept", self.owner);
        let scene = self.scene(format!("k{number}"), job.clone(), &mut dice);
        let watcher = self.client.named(format!("w-{job}"));
        self.watchers.spawn(watcher.watch(job, dice.fork(), self.leave.clone()));
        scene.keep().await;
    }

    fn scene(&self, name: String, job: String, dice: &mut Dice) -> Scene {
        let (client, owner, stop) = (self.client.named(name), self.owner.clone(), self.stop.clone());
        Scene { client, owner, job, dice: dice.fork(), stop }
    }
}
