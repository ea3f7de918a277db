//! What time it is, as something that can be handed in.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
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

/// A clock that follows another one, and goes on by itself while that can't be read.
pub struct SteeredClock {
    base: Arc<dyn Clock>,
    /// How far the other one is ahead, in microseconds.
    offset: AtomicI64,
}

impl SteeredClock {
    /// How far it may be off before it is set, at least: reading another clock is no more exact.
    const TOLERANCE: Duration = Duration::from_millis(1);

    /// Follows nothing yet.
    pub fn new(base: Arc<dyn Clock>) -> Self {
        Self { base, offset: AtomicI64::new(0) }
    }

    /// Sets it: the other clock says `truth` now, or did or will at most `give_or_take` from now. Several may do so at
    /// once.
    pub fn steer(&self, truth: Timestamp, give_or_take: Duration) {
        let offset = truth.as_micros() - self.base.now().as_micros();
        let off = Duration::from_micros(offset.abs_diff(self.offset.load(Relaxed)));
        if off > give_or_take.max(Self::TOLERANCE) {
            self.offset.store(offset, Relaxed);
        }
    }
}

impl Clock for SteeredClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_micros(self.base.now().as_micros() + self.offset.load(Relaxed))
    }
}
