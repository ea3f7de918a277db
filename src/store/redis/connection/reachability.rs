//! Knowledge of whether Redis accepts connections and answers, shared by all pools.
//!
//! bb8 does not report a refused connection to the callers that wait for one, so they would wait for their whole time
//! limit. Here all of them are notified, and callers that come soon afterwards fail at once: no caller waits for a
//! Redis that refuses connections, and callers do not multiply the attempts. For a moment after Redis was found silent,
//! commands fail at once, too.

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

use super::{fault::timed_out, turns::Turns};

/// Pause after a refused connection before another attempt.
const REFUSAL_PAUSE: Duration = Duration::from_millis(50);

/// Time for which Redis counts as silent after it was found silent: enough for the further commands of a call whose
/// first command failed, so that it does not wait again.
const SILENCE_PAUSE: Duration = Duration::from_millis(100);

/// The partition of a key, by its hash tag: in a cluster, partitions fail independently. Without a cluster, only the
/// first lane is used.
pub type Lane = usize;

/// Number of lanes: hash tags are 0 to `LANES - 1`. Keys with other hash tags have no lane, because their node is
/// unknown.
pub const LANES: usize = 16;

/// Returns the lane of a key: its hash tag, if that is a number below [`LANES`].
pub fn lane_of(key: &[u8]) -> Option<Lane> {
    let start = key.iter().position(|byte| *byte == b'{')? + 1;
    let length = key[start..].iter().position(|byte| *byte == b'}')?;
    str::from_utf8(&key[start..start + length]).ok()?.parse().ok().filter(|lane| *lane < LANES)
}

/// The known reachability of a Redis.
#[derive(Debug)]
pub struct Reachability {
    clock: Clock,
    /// Last failed attempt to connect, unless a later one succeeded.
    refusal: watch::Sender<Option<Refusal>>,
    /// Time until which the node of each lane of a cluster counts as refusing connections.
    refused_until: [AtomicU64; LANES],
    /// Error of the last refusal by a node of a cluster.
    node_refusal: Mutex<Option<RedisError>>,
    /// Permit to connect to a Redis that refuses connections: one attempt at a time.
    attempt: Semaphore,
    /// Requests for a ping.
    suspicions: watch::Sender<()>,
    /// Time of the last answer to a ping.
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
    /// Fails with the error of the refusal if that was less than [`REFUSAL_PAUSE`] ago.
    fn check(&self) -> RedisResult<()> {
        if self.at.elapsed() < REFUSAL_PAUSE { Err(self.error.clone()) } else { Ok(()) }
    }
}

impl Reachability {
    /// Creates a state in which nothing is known.
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
            refusal: watch::Sender::new(None),
            refused_until: Default::default(),
            node_refusal: Mutex::default(),
            attempt: Semaphore::new(1),
            suspicions: watch::Sender::default(),
            sign: AtomicU64::new(0),
            silent_until: AtomicU64::new(0),
            turns: Turns::default(),
        }
    }

    /// Waits for permission to connect: while Redis refuses connections, attempts are made one by one and with pauses.
    /// Fails with the last refusal if it is too early for another attempt.
    pub async fn attempt(&self) -> RedisResult<Option<SemaphorePermit<'_>>> {
        self.not_refused_just_now()?;
        if self.refusal.borrow().is_none() {
            return Ok(None);
        }
        let turn = self.attempt.acquire().await.ok();
        self.not_refused_just_now()?;
        Ok(turn)
    }

    /// Records the outcome of an attempt. Each failure counts as a refusal, whatever its cause.
    pub fn record_attempt<T>(&self, outcome: &RedisResult<T>) {
        match outcome {
            Ok(_) => self.forget_refusal(),
            Err(error) => {
                _ = self.refusal.send_replace(Some(Refusal { at: Instant::now(), error: error.clone() }));
            }
        }
    }

    /// Allows another attempt at once.
    pub fn forget_refusal(&self) {
        // No receiver needs to be notified.
        self.refusal.send_if_modified(|refusal| {
            *refusal = None;
            false
        });
    }

    /// Subscribes to refusals.
    pub fn refusals(&self) -> Refusals<'_> {
        Refusals { reachability: self, receiver: self.refusal.subscribe() }
    }

    /// Fails with the error of the last refusal if that was less than [`REFUSAL_PAUSE`] ago.
    fn not_refused_just_now(&self) -> RedisResult<()> {
        self.refusal.borrow().as_ref().map_or(Ok(()), Refusal::check)
    }

    /// Records that a node of a cluster refused a connection that a command of `lane` needs.
    pub fn refused(&self, lane: Lane, error: &RedisError) {
        *self.node_refusal() = Some(error.clone());
        self.refused_until[lane].store(self.clock.at(Instant::now() + REFUSAL_PAUSE), Relaxed);
    }

    /// Fails if a command of `lane` need not be sent: Redis was just found silent, or its node has just refused
    /// connections.
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

    /// Returns whether a moment is in the future. Does not read the clock for a moment that was never set.
    fn is_yet_to_come(&self, moment: &AtomicU64) -> bool {
        let moment = moment.load(Relaxed);
        moment > 0 && self.clock.now() < moment
    }

    /// Returns the turns of this process.
    pub const fn turns(&self) -> &Turns {
        &self.turns
    }

    /// Requests a ping.
    pub fn suspect(&self) {
        self.suspicions.send_replace(());
    }

    /// Subscribes to requests for a ping.
    pub fn suspicions(&self) -> watch::Receiver<()> {
        self.suspicions.subscribe()
    }

    /// Records an answer to a ping.
    pub fn lives(&self) {
        self.sign.store(self.clock.now(), Relaxed);
    }

    /// Records that a command whose suspicion began at `suspected` has found Redis silent, unless a ping was answered
    /// since then, or no pings are sent.
    pub fn found_silent(&self, suspected: Instant) {
        if self.suspicions.receiver_count() > 0 && self.sign.load(Relaxed) < self.clock.at(suspected) {
            self.silent_until.store(self.clock.at(Instant::now() + SILENCE_PAUSE), Relaxed);
        }
    }
}

/// A subscription to refusals.
pub struct Refusals<'a> {
    reachability: &'a Reachability,
    receiver: watch::Receiver<Option<Refusal>>,
}

impl Refusals<'_> {
    /// Returns the error of the last refusal if that was less than [`REFUSAL_PAUSE`] ago; otherwise waits for the next
    /// refusal.
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
    /// Starts the clock.
    pub fn new() -> Self {
        Self(Instant::now())
    }

    /// Returns the current reading.
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
    async fn refusal_reaches_all_subscribers_and_calls_soon_after() {
        let reachability = Reachability::new();
        let mut listeners: Vec<_> = (0..8).map(|_| reachability.refusals()).collect();
        assert!(listeners[0].next().now_or_never().is_none());
        reachability.record_attempt(&refused());
        join_all(listeners.iter_mut().map(Refusals::next)).await;
        assert!(reachability.refusals().next().await.is_connection_dropped());
        assert!(reachability.attempt().await.is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn attempts_on_a_redis_that_refuses_come_one_by_one_with_pauses() {
        let reachability = Reachability::new();
        assert!(reachability.attempt().await.is_ok_and(|turn| turn.is_none()));
        reachability.record_attempt(&refused());
        tokio::time::sleep(REFUSAL_PAUSE).await;
        let turn = reachability.attempt().await.expect("the pause is over");
        assert!(turn.is_some() && reachability.attempt().now_or_never().is_none());
        reachability.record_attempt(&refused());
        drop(turn);
        assert!(reachability.attempt().await.is_err(), "the attempt before has just failed");
        reachability.record_attempt(&Ok(()));
        assert!(reachability.attempt().await.is_ok_and(|turn| turn.is_none()));
    }

    #[tokio::test(start_paused = true)]
    async fn answered_ping_limits_silence_to_one_connection() {
        let reachability = Reachability::new();
        let looking = reachability.suspicions();
        let suspected = Instant::now();
        tokio::time::advance(Duration::from_millis(1)).await;
        reachability.lives();
        reachability.found_silent(suspected);
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
        assert!(reachability.check(None).is_ok(), "without a pool that pings, silence is not recorded");
    }
}
