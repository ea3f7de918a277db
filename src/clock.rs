//! What time it is, as something that can be handed in.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::Timestamp;

/// Tells the time.
pub trait Clock: Send + Sync + 'static {
    /// Now.
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(0) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// The machine's clock as it was at first, which goes on steadily: no step of the machine's clock moves it.
#[derive(Debug)]
pub struct SteadyClock {
    start: Timestamp,
    started: Instant,
}

impl Default for SteadyClock {
    fn default() -> Self {
        Self { start: SystemClock.now(), started: Instant::now() }
    }
}

impl Clock for SteadyClock {
    fn now(&self) -> Timestamp {
        self.start + self.started.elapsed()
    }
}

/// A steady clock that follows another one without ever stepping: it is set once, and from then on it only goes a little
/// faster or slower until the two agree.
pub struct SteeredClock {
    base: Arc<dyn Clock>,
    /// How far this clock is ahead of its base, in microseconds.
    offset: AtomicI64,
    /// When it was steered last, by its base.
    steered: Mutex<Option<Timestamp>>,
}

impl SteeredClock {
    /// How far it may be off before it is steered, at least: reading another clock is no more exact.
    const TOLERANCE: Duration = Duration::from_millis(1);

    /// It goes faster or slower by at most this part: leases of workers that report in time stay valid.
    const SLEW: u32 = 100;

    /// Longest time for which it catches up at once, so that it does not step after a pause.
    const STEER_INTERVAL_MAX: Duration = Duration::from_secs(1);

    /// Follows nothing yet.
    pub fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, offset: AtomicI64::new(0), steered: Mutex::default() }
    }

    /// The other clock says `truth` now, or did or will at most `give_or_take` from now. Several may say so at once.
    pub fn steer(&self, truth: Timestamp, give_or_take: Duration) {
        let mut steered = self.steered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.base.now();
        let offset = self.offset.load(Relaxed);
        let off = truth.as_micros() - now.as_micros() - offset;
        let most = steered.map_or(Duration::MAX, |last| now.since(last).min(Self::STEER_INTERVAL_MAX) / Self::SLEW);
        *steered = Some(now);
        if Duration::from_micros(off.unsigned_abs()) > give_or_take.max(Self::TOLERANCE) {
            let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
            self.offset.store(offset + off.clamp(-most, most), Relaxed);
        }
    }
}

impl Clock for SteeredClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.base.now().as_micros() + self.offset.load(Relaxed))
    }
}
