//! Scenes: the calls that clients make for a job.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{clients::Client, dice::Dice};
use crate::robustness::history::{Act, Answer, Shown, Terms};

/// Minimum pause between two calls of a client.
const PACE: Duration = Duration::from_millis(20);

/// Maximum number of attempts of a call.
const TRIES: usize = 100;

/// A job and its clients.
pub struct Scene {
    pub client: Client,
    pub owner: String,
    pub job: String,
    pub dice: Dice,
    pub stop: CancellationToken,
}

/// The course of a scene.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Plot {
    /// One worker with one replica.
    Pinned,
    /// One worker, each time with another replica.
    Roaming,
    /// Two workers of one attempt, each with a replica of its own.
    Contested,
    /// A worker that takes over from another.
    TakenOver,
    Cancelled,
    Deleted,
    /// A worker that stops reporting.
    Leased,
    /// A worker that stops reporting on a job that fails then.
    Dying,
    /// Other clients that create a job under an id that is taken.
    Taken,
    /// Reports that are too large.
    Oversized,
    /// Two clients that create the same job for one request.
    Twins,
    /// No job of that id exists.
    Ghost,
    /// A job that expires soon after its end.
    Brief,
}

impl Plot {
    pub const ALL: [Self; 14] = [
        Self::Pinned,
        Self::Roaming,
        Self::Contested,
        Self::TakenOver,
        Self::Cancelled,
        Self::Deleted,
        Self::Leased,
        Self::Dying,
        Self::Taken,
        Self::Taken,
        Self::Oversized,
        Self::Twins,
        Self::Ghost,
        Self::Brief,
    ];
}

impl Scene {
    /// Plays a course to its end, or until it is told to stop.
    pub async fn play(mut self, plot: Plot) {
        let here = self.dice.roll(self.client.channels.len());
        if plot == Plot::Ghost {
            for _ in 0..20 {
                self.read(&mut self.dice.clone()).await;
            }
            return;
        }
        let create = Act::Create(self.terms(plot));
        let there = self.other(here);
        if plot == Plot::Twins {
            let other = self.fork("twin");
            let (one, two) = (self.retry(here, create.clone()), other.retry(there, create.clone()));
            tokio::join!(one, two);
            self.retry(there, create.clone()).await;
        }
        if self.retry(here, create).await.is_none() {
            return;
        }
        // Both replicas may then have the job in memory.
        if self.dice.one_in(2) {
            self.client.named("reader").call(there, &self.job, Act::Get).await;
        }
        self.act(plot, here, there).await;
        self.read(&mut self.dice.clone()).await;
    }

    fn terms(&self, plot: Plot) -> Terms {
        let leased = matches!(plot, Plot::Leased | Plot::Dying);
        Terms {
            owner: self.owner.clone(),
            request: "r".to_owned(),
            lease: if leased { 1000 } else { 0 },
            fail_when_lost: plot == Plot::Dying,
            retention: if plot == Plot::Brief { 500 } else { 0 },
        }
    }

    async fn act(&mut self, plot: Plot, here: usize, there: usize) {
        match plot {
            Plot::Pinned | Plot::Twins | Plot::Brief => self.work(Some(here), 1, true).await,
            Plot::Roaming => self.work(None, 1, true).await,
            Plot::Contested => {
                let mut other = self.fork("rival");
                tokio::join!(self.work(Some(here), 1, true), other.work(Some(there), 1, true));
            }
            Plot::TakenOver => {
                let mut other = self.fork("heir");
                tokio::join!(self.work(Some(here), 1, true), async {
                    other.pause(10).await;
                    other.work(Some(there), 2, true).await;
                });
            }
            Plot::Cancelled => {
                let other = self.fork("canceller");
                tokio::join!(self.work(Some(here), 1, true), other.cancel(there));
            }
            Plot::Deleted => {
                let end = self.dice.one_in(2);
                self.work(Some(here), 1, end).await;
                let by = self.dice.roll(self.client.channels.len());
                self.retry(by, Act::Delete).await;
                self.read(&mut self.dice.clone()).await;
            }
            Plot::Leased | Plot::Dying => self.work(None, 1, false).await,
            Plot::Taken => {
                let mut other = self.fork("other");
                tokio::join!(self.work(Some(here), 1, false), other.take(there));
            }
            Plot::Oversized => {
                self.client.call(here, &self.job, Act::Oversized).await;
            }
            Plot::Ghost => {}
        }
    }

    async fn cancel(mut self, replica: usize) {
        self.pause(5).await;
        let force = self.dice.one_in(2);
        self.retry(replica, Act::Cancel { force }).await;
    }

    /// Returns a replica other than this one.
    fn other(&mut self, replica: usize) -> usize {
        let count = self.client.channels.len();
        (replica + 1 + self.dice.roll(count - 1)) % count
    }

    /// Returns another client with the same job.
    pub fn fork(&mut self, name: &str) -> Self {
        Self {
            client: self.client.named(format!("{}-{name}", self.client.name)),
            owner: self.owner.clone(),
            job: self.job.clone(),
            dice: self.dice.fork(),
            stop: self.stop.clone(),
        }
    }

    /// Reports several times, and possibly ends the job.
    async fn work(&mut self, replica: Option<usize>, attempt: i32, end: bool) {
        for sequence in 1..=2 + self.dice.roll(20) {
            let sequence = i64::try_from(sequence).expect("few");
            let on = replica.unwrap_or_else(|| self.dice.roll(self.client.channels.len()));
            let Some(shown) = self.retry(on, Act::Report { sequence, attempt }).await else { return };
            if shown.is_some_and(|shown| shown.cancelled) {
                self.retry(on, Act::Confirm).await;
                return;
            }
            if self.dice.one_in(4) {
                let mut dice = self.dice.fork();
                self.read(&mut dice).await;
            }
            self.pause(1).await;
        }
        if end {
            let on = replica.unwrap_or_else(|| self.dice.roll(self.client.channels.len()));
            let act = if self.dice.one_in(2) { Act::Complete { attempt } } else { Act::Fail { attempt } };
            self.retry(on, act).await;
        }
    }

    pub async fn read(&self, dice: &mut Dice) {
        self.client.call(dice.roll(self.client.channels.len()), &self.job, Act::Get).await;
        sleep(dice.pause(PACE)).await;
    }

    pub async fn pause(&mut self, times: u32) {
        sleep(self.dice.pause(PACE) * times).await;
    }

    /// Repeats a call until it succeeds. Returns the job if the answer shows it, and `None` if repeating is useless.
    pub async fn retry(&self, replica: usize, act: Act) -> Option<Option<Shown>> {
        for _ in 0..TRIES {
            match self.client.call(replica, &self.job, act.clone()).await {
                Answer::Job { shown, .. } => return Some(Some(shown)),
                Answer::Done => return Some(None),
                Answer::Refused { code: Code::FailedPrecondition | Code::AlreadyExists, .. } => return None,
                Answer::Refused { .. } if self.stop.is_cancelled() => return None,
                Answer::Refused { .. } => sleep(PACE * 3).await,
            }
        }
        None
    }
}
