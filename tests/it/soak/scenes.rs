//! What clients do with a job.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tonic::Code;

use super::{clients::Client, dice::Dice};
use crate::history::{Act, Answer, Shown, Terms};

/// The least pause between two calls of a client.
const PACE: Duration = Duration::from_millis(20);

/// How often a call that failed is tried again.
const TRIES: usize = 100;

/// A job, and those who have to do with it.
pub struct Scene {
    pub client: Client,
    pub owner: String,
    pub job: String,
    pub dice: Dice,
    pub stop: CancellationToken,
}

/// What a job is for.
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
    /// Two who create the same.
    Twins,
    /// There is none.
    Ghost,
    /// It is over soon after its end.
    Brief,
}

impl Plot {
    pub const ALL: [Self; 10] = [
        Self::Pinned,
        Self::Roaming,
        Self::Contested,
        Self::TakenOver,
        Self::Cancelled,
        Self::Deleted,
        Self::Leased,
        Self::Twins,
        Self::Ghost,
        Self::Brief,
    ];
}

impl Scene {
    /// Plays it to its end, or until it is told to stop.
    pub async fn play(mut self, plot: Plot) {
        let here = self.dice.roll(2);
        if plot == Plot::Ghost {
            for _ in 0..20 {
                self.read(&mut self.dice.clone()).await;
            }
            return;
        }
        let lease = if plot == Plot::Leased { 1000 } else { 0 };
        let retention = if plot == Plot::Brief { 500 } else { 0 };
        let terms = Terms { owner: self.owner.clone(), request: "r".to_owned(), lease, retention };
        let create = Act::Create(terms);
        if plot == Plot::Twins {
            let other = self.fork("twin");
            let (one, two) = (self.retry(here, create.clone()), other.retry(1 - here, create.clone()));
            tokio::join!(one, two);
            self.retry(1 - here, create.clone()).await;
        }
        if self.retry(here, create).await.is_none() {
            return;
        }
        // Both may hold it then.
        if self.dice.one_in(2) {
            self.client.named("reader").call(1 - here, &self.job, Act::Get).await;
        }
        match plot {
            Plot::Pinned | Plot::Twins | Plot::Brief => self.work(Some(here), 1, true).await,
            Plot::Roaming => self.work(None, 1, true).await,
            Plot::Contested => {
                let mut other = self.fork("rival");
                tokio::join!(self.work(Some(here), 1, true), other.work(Some(1 - here), 1, true));
            }
            Plot::TakenOver => {
                let mut other = self.fork("heir");
                tokio::join!(self.work(Some(here), 1, true), async {
                    other.pause(10).await;
                    other.work(Some(1 - here), 2, true).await;
                });
            }
            Plot::Cancelled => {
                let mut other = self.fork("canceller");
                tokio::join!(self.work(Some(here), 1, true), async {
                    other.pause(5).await;
                    let force = other.dice.one_in(2);
                    other.retry(1 - here, Act::Cancel { force }).await;
                });
            }
            Plot::Deleted => {
                let end = self.dice.one_in(2);
                self.work(Some(here), 1, end).await;
                let by = self.dice.roll(2);
                self.retry(by, Act::Delete).await;
                self.read(&mut self.dice.clone()).await;
            }
            Plot::Leased => {
                self.work(None, 1, false).await;
            }
            Plot::Ghost => {}
        }
        self.read(&mut self.dice.clone()).await;
    }

    /// Another with the same job.
    fn fork(&mut self, name: &str) -> Self {
        Self {
            client: self.client.named(format!("{}-{name}", self.client.name)),
            owner: self.owner.clone(),
            job: self.job.clone(),
            dice: self.dice.fork(),
            stop: self.stop.clone(),
        }
    }

    /// Reports some times, and perhaps ends the job.
    async fn work(&mut self, replica: Option<usize>, attempt: i32, end: bool) {
        for sequence in 1..=2 + self.dice.roll(20) {
            let sequence = i64::try_from(sequence).expect("few");
            let on = replica.unwrap_or_else(|| self.dice.roll(2));
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
            let on = replica.unwrap_or_else(|| self.dice.roll(2));
            let act = if self.dice.one_in(2) { Act::Complete { attempt } } else { Act::Fail { attempt } };
            self.retry(on, act).await;
        }
    }

    async fn read(&self, dice: &mut Dice) {
        self.client.call(dice.roll(2), &self.job, Act::Get).await;
        sleep(dice.pause(PACE)).await;
    }

    async fn pause(&mut self, times: u32) {
        sleep(self.dice.pause(PACE) * times).await;
    }

    /// Calls until there is an answer; with the job if the answer shows it. Nothing: there is no use in going on.
    async fn retry(&self, replica: usize, act: Act) -> Option<Option<Shown>> {
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
