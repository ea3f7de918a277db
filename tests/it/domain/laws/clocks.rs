//! The clock that is set by the clock of Redis.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use jobtrack::{
    clock::{Clock, SteeredClock},
    domain::Timestamp,
};

use crate::support::clocks::TestClock;

/// A clock that stands still, an hour ahead of others.
struct Ahead;

impl Ahead {
    const TRUTH: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);
}

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        Self::TRUTH + Duration::from_secs(3600)
    }
}

#[test]
fn concurrently_set_clock_is_right() {
    const SETTERS: usize = 2;
    let clocks: Vec<_> = (0..200_000).map(|_| SteeredClock::new(Arc::new(Ahead))).collect();
    let come = AtomicUsize::new(0);
    thread::scope(|scope| {
        for _ in 0..SETTERS {
            scope.spawn(|| {
                for (before, some) in clocks.chunks(100).enumerate() {
                    come.fetch_add(1, Relaxed);
                    while come.load(Relaxed) < (before + 1) * SETTERS {
                        thread::yield_now();
                    }
                    for clock in some {
                        clock.steer(Ahead::TRUTH, Duration::ZERO);
                    }
                }
            });
        }
    });
    assert!(clocks.iter().all(|clock| clock.now() == Ahead::TRUTH));
}

#[test]
fn a_steered_clock_does_not_step_after_a_pause() {
    const HOUR: Duration = Duration::from_secs(3600);
    let base = Arc::new(TestClock::new());
    let clock = SteeredClock::new(base.clone());
    clock.steer(base.now(), Duration::ZERO);
    base.advance(HOUR);
    let before = clock.now();
    clock.steer(before + HOUR, Duration::ZERO);
    assert!(clock.now().since(before) <= Duration::from_millis(10), "{before:?}, {:?}", clock.now());
}
