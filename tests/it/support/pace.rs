//! The pace of the machine, by which bounds in seconds are scaled.

use std::{fs, hint::black_box, time::Duration};

use tokio::task::spawn_blocking;

/// CPU time of the work by which the pace is measured; long enough that the scheduler gives it no more than its share.
const WORK: Duration = Duration::from_millis(100);

/// Maximum factor: on a machine that is busier than that, bounds in seconds say nothing.
const PACE_MAX: f64 = 10.0;

/// The factor by which other processes slow down work on this machine: 1 on an idle one, 4 if work gets a quarter of a
/// core.
#[derive(Clone, Copy, Debug)]
pub struct Pace(f64);

impl Pace {
    /// Measures the pace now. The test's own work counts as that of others, so the test should be idle.
    pub async fn measure() -> Self {
        let pace = spawn_blocking(|| {
            let begun = scheduled();
            loop {
                black_box((0..10_000_u64).fold(1, |hash: u64, number| (hash ^ number).wrapping_mul(0x0100_0193)));
                let [ran, waited] = [0, 1].map(|field| scheduled()[field].saturating_sub(begun[field]));
                if ran >= WORK {
                    return Self((1.0 + waited.as_secs_f64() / ran.as_secs_f64()).min(PACE_MAX));
                }
            }
        });
        pace.await.expect("it is measured")
    }

    /// Returns the time that work needs now if it needs `bound` on an idle machine.
    pub fn scale(self, bound: Duration) -> Duration {
        bound.mul_f64(self.0)
    }
}

/// Returns `bound`, scaled by the pace of the machine now.
pub async fn scaled(bound: Duration) -> Duration {
    let pace = Pace::measure().await;
    println!("{bound:?} is scaled by {:.2}", pace.0);
    pace.scale(bound)
}

/// Returns the time for which this thread has run, and the time for which it was ready and waited for a core, according
/// to the scheduler.
fn scheduled() -> [Duration; 2] {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux with statistics of its scheduler");
    let mut fields = text.split_whitespace().map(|field| field.parse().map(Duration::from_nanos));
    let mut next = || fields.next().expect("a field").expect("a number");
    [next(), next()]
}

/// Returns the time for which this thread has run: what others do on the machine is not in it.
pub fn thread_time() -> Duration {
    scheduled()[0]
}
