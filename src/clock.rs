//! Clocks: sources of the current time that are passed in rather than read globally, so that tests control the time.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crate::domain::Timestamp;

/// A source of the current time.
pub trait Clock: Send + Sync + 'static {
    /// Returns the current time.
    fn now(&self) -> Timestamp;
}

/// The machine's wall clock.
#[derive(Debug)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(0) + SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
    }
}

/// A clock that starts at the machine's wall clock and advances with the monotonic clock: later steps of the wall clock
/// do not move it.
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

/// A clock that is steered towards another clock. The first reading of the other clock sets it; later readings never
/// make it step, but make it run a little faster or slower until the two agree.
pub struct SteeredClock {
    base: Arc<dyn Clock>,
    /// Offset from the base clock, in microseconds.
    offset: AtomicI64,
    /// Time of the last steering, on the base clock.
    steered: Mutex<Option<Timestamp>>,
}

impl SteeredClock {
    /// Minimum deviation that is corrected, however exact a reading is.
    const TOLERANCE: Duration = Duration::from_millis(1);

    /// Divisor of the elapsed time that limits a correction: the clock runs at most 1/100 faster or slower, so that
    /// leases of workers that report in time stay valid.
    const SLEW: u32 = 100;

    /// Maximum elapsed time that counts towards one correction, so that the clock does not step after a pause.
    const STEER_INTERVAL_MAX: Duration = Duration::from_secs(1);

    /// Creates a clock that shows the time of `base` until it is steered.
    pub fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, offset: AtomicI64::new(0), steered: Mutex::default() }
    }

    /// Steers towards `reference`, a reading of the other clock whose error is at most `max_error`. Returns the number
    /// of microseconds by which the clock stepped: 0 unless this was the first reading. May be called concurrently.
    pub fn steer(&self, reference: Timestamp, max_error: Duration) -> i64 {
        let mut steered = self.steered.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.base.now();
        let offset = self.offset.load(Relaxed);
        let off = reference.as_micros() - now.as_micros() - offset;
        let most = steered.map_or(Duration::MAX, |last| now.since(last).min(Self::STEER_INTERVAL_MAX) / Self::SLEW);
        let is_first = steered.replace(now).is_none();
        if Duration::from_micros(off.unsigned_abs()) <= max_error.max(Self::TOLERANCE) {
            return 0;
        }
        let most = i64::try_from(most.as_micros()).unwrap_or(i64::MAX);
        let by = off.clamp(-most, most);
        self.offset.store(offset + by, Relaxed);
        if is_first { by } else { 0 }
    }
}

impl Clock for SteeredClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.base.now().as_micros() + self.offset.load(Relaxed))
    }
}
