//! Knowledge of whether Redis takes connections and whether it answers, shared by all pools.
//!
//! bb8 tells those who wait for a connection nothing of one that was refused, and they would wait for their whole time.
//! Here all of them hear of it, and so do those who come soon afterwards: no caller waits for a Redis that refuses
//! connections, and callers do not multiply the attempts. A Redis that was found to be silent is not waited for again
//! at once either.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use redis::{RedisError, RedisResult};
use tokio::{
    sync::{Semaphore, SemaphorePermit, watch},
    time::Instant,
};

use super::{connector::timed_out, turns::Turns};

/// The pause after a refused connection before another is tried.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);

/// The time for which Redis counts as silent after it was found to be: enough for what a failed call does next.
const SILENCE_PAUSE: Duration = Duration::from_millis(100);

/// A place in a cluster that answers for itself, by the hash tag of keys; without a cluster there is only the first.
pub type Lane = usize;

/// The number of lanes. Their tags are small numbers; of other keys it is not known which of them share a node.
pub const LANES: usize = 16;

/// What is known of a Redis.
#[derive(Debug)]
pub struct Reachability {
    clock: Clock,
    /// The last refused connection, unless another was made since.
    refusal: watch::Sender<Option<Refusal>>,
    /// Until when the node of each lane of a cluster counts as refusing connections, and what the last of them said.
    refused_until: [AtomicU64; LANES],
    node_refusal: Mutex<Option<RedisError>>,
    /// The one attempt at a time to connect to a Redis that refuses.
    attempt: Semaphore,
    /// A sign of life is wanted.
    doubts: watch::Sender<()>,
    /// The last sign of life.
    sign: AtomicU64,
    silent_until: AtomicU64,
    turns: Turns,
}

#[derive(Clone, Debug)]
struct Refusal {
    at: Instant,
    error: RedisError,
}

impl Refusal {
    /// Fails with it if it was just now.
    fn check(&self) -> RedisResult<()> {
        if self.at.elapsed() < REFUSAL_PAUSE { Err(self.error.clone()) } else { Ok(()) }
    }
}

impl Reachability {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
            refusal: watch::Sender::new(None),
            refused_until: Default::default(),
            node_refusal: Mutex::default(),
            attempt: Semaphore::new(1),
            doubts: watch::Sender::default(),
            sign: AtomicU64::new(0),
            silent_until: AtomicU64::new(0),
            turns: Turns::default(),
        }
    }

    /// Waits for its turn to connect: while Redis refuses connections, attempts come one by one and with pauses. The
    /// error is the last refusal where it is too early for another attempt.
    pub async fn attempt(&self) -> RedisResult<Option<SemaphorePermit<'_>>> {
        self.not_refused_just_now()?;
        if self.refusal.borrow().is_none() {
            return Ok(None);
        }
        let turn = self.attempt.acquire().await.ok();
        self.not_refused_just_now()?;
        Ok(turn)
    }

    /// Takes note of what came of an attempt.
    pub fn attempted<T>(&self, outcome: &RedisResult<T>) {
        match outcome {
            Ok(_) => self.forget_refusal(),
            Err(error) => {
                _ = self.refusal.send_replace(Some(Refusal { at: Instant::now(), error: error.clone() }));
            }
        }
    }

    /// Allows another attempt at once.
    pub fn forget_refusal(&self) {
        // Nobody waits to hear of this.
        self.refusal.send_if_modified(|refusal| {
            *refusal = None;
            false
        });
    }

    /// Begins to listen for refusals.
    pub fn refusals(&self) -> Refusals<'_> {
        Refusals { reachability: self, receiver: self.refusal.subscribe() }
    }

    /// The error is the last refusal, if that was just now.
    fn not_refused_just_now(&self) -> RedisResult<()> {
        self.refusal.borrow().as_ref().map_or(Ok(()), Refusal::check)
    }

    /// Takes note that a node of a cluster refused a connection that a command of `lane` needs.
    pub fn refused(&self, lane: Lane, error: &RedisError) {
        *self.node_refusal() = Some(error.clone());
        self.refused_until[lane].store(self.clock.at(Instant::now() + REFUSAL_PAUSE), Relaxed);
    }

    /// Fails if a command of `lane` need not be sent: Redis was found to be silent, or its node refused connections, just
    /// now.
    pub fn check(&self, lane: Option<Lane>) -> RedisResult<()> {
        if self.is_yet_to_come(&self.silent_until) {
            return Err(timed_out());
        }
        if lane.is_some_and(|lane| self.is_yet_to_come(&self.refused_until[lane])) {
            return Err(self.node_refusal().clone().unwrap_or_else(timed_out));
        }
        Ok(())
    }

    fn node_refusal(&self) -> MutexGuard<'_, Option<RedisError>> {
        self.node_refusal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a moment lies ahead. Where it was never set, that costs no look at the clock.
    fn is_yet_to_come(&self, moment: &AtomicU64) -> bool {
        let moment = moment.load(Relaxed);
        moment > 0 && self.clock.now() < moment
    }

    /// The turns of this process.
    pub const fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Asks for a sign of life.
    pub fn doubt(&self) {
        self.doubts.send_replace(());
    }

    /// Hears of doubts, to look for a sign of life on each.
    pub fn doubts(&self) -> watch::Receiver<()> {
        self.doubts.subscribe()
    }

    /// Takes note of a sign of life.
    pub fn lives(&self) {
        self.sign.store(self.clock.now(), Relaxed);
    }

    /// Takes note that a command which `doubted` in vain has found Redis silent, unless there was a sign of life since
    /// or nobody looks for one.
    pub fn found_silent(&self, doubted: Instant) {
        if self.doubts.receiver_count() > 0 && self.sign.load(Relaxed) < self.clock.at(doubted) {
            self.silent_until.store(self.clock.at(Instant::now() + SILENCE_PAUSE), Relaxed);
        }
    }
}

/// Hears of refusals.
pub struct Refusals<'a> {
    reachability: &'a Reachability,
    receiver: watch::Receiver<Option<Refusal>>,
}

impl Refusals<'_> {
    /// Waits for a refusal, unless there was one just now.
    pub async fn next(&mut self) -> RedisError {
        if let Err(error) = self.reachability.not_refused_just_now() {
            return error;
        }
        loop {
            if self.receiver.changed().await.is_err() {
                // The sender lives as long as `reachability`.
                std::future::pending::<()>().await;
            }
            if let Some(refusal) = &*self.receiver.borrow_and_update() {
                return refusal.error.clone();
            }
        }
    }
}

/// A clock whose readings fit an atomic: microseconds since its start, and never 0.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    /// Starts it.
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Reads it.
    pub fn now(self) -> u64 {
        self.at(Instant::now())
    }

    /// Returns the reading of a moment.
    pub fn at(self, moment: Instant) -> u64 {
        u64::try_from(moment.saturating_duration_since(self.0).as_micros()).unwrap_or(u64::MAX).saturating_add(1)
    }

    /// Returns the moment of a reading; `None` for 0.
    pub fn moment(self, reading: u64) -> Option<Instant> {
        Some(self.0 + Duration::from_micros(reading.checked_sub(1)?))
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Error, ErrorKind::ConnectionRefused};

    use futures_util::{FutureExt, future::join_all};

    use super::*;

    fn refused() -> RedisResult<()> {
        Err(Error::from(ConnectionRefused).into())
    }

    #[tokio::test]
    async fn all_who_listen_hear_of_a_refusal_and_those_who_come_soon_after() {
        let reachability = Reachability::new();
        let mut listeners: Vec<_> = (0..8).map(|_| reachability.refusals()).collect();
        assert!(listeners[0].next().now_or_never().is_none());
        reachability.attempted(&refused());
        join_all(listeners.iter_mut().map(Refusals::next)).await;
        assert!(reachability.refusals().next().await.is_connection_dropped());
        assert!(reachability.attempt().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_on_a_redis_that_refuses_come_one_by_one_with_pauses() {
        let reachability = Reachability::new();
        assert!(reachability.attempt().await.is_ok_and(|turn| turn.is_none()));
        reachability.attempted(&refused());
        tokio::time::sleep(REFUSAL_PAUSE).await;
        let turn = reachability.attempt().await.expect("the pause is over");
        assert!(turn.is_some() && reachability.attempt().now_or_never().is_none());
        reachability.attempted(&refused());
        drop(turn);
        assert!(reachability.attempt().await.is_err(), "the attempt before has just failed");
        reachability.attempted(&Ok(()));
        assert!(reachability.attempt().await.is_ok_and(|turn| turn.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_sign_of_life_makes_silence_a_matter_of_one_connection() {
        let reachability = Reachability::new();
        let looking = reachability.doubts();
        let doubted = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        reachability.lives();
        reachability.found_silent(doubted);
        assert!(reachability.check(None).is_ok());

        tokio::time::advance(Duration::from_millis(1)).await;
        reachability.found_silent(Instant::now());
        assert!(reachability.check(None).is_err());
        tokio::time::advance(SILENCE_PAUSE).await;
        assert!(reachability.check(None).is_ok());

        reachability.refused(3, &refused().expect_err("it is an error"));
        assert!(
            reachability.check(Some(3)).is_err() && reachability.check(Some(4)).is_ok(),
            "nodes have their own refusals"
        );

        drop(looking);
        reachability.found_silent(Instant::now());
        assert!(reachability.check(None).is_ok(), "nobody has looked");
    }
}
