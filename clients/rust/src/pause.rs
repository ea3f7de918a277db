//! Exponential backoff with jitter.

use std::time::Duration;

use uuid::Uuid;

/// Factor by which each pause is longer than the previous one.
const GROWTH: u32 = 2;

/// The pauses between retries. The length of each pause is random, between half and all of its nominal length.
/// Otherwise all clients that lost the same server would reconnect at the same time.
#[derive(Debug)]
pub(crate) struct Pause {
    first: Duration,
    next: Duration,
    max: Duration,
}

impl Pause {
    /// Returns pauses that grow from `first` to `max`.
    pub fn new(first: Duration, max: Duration) -> Self {
        Self { first, next: first, max }
    }

    /// Returns the pauses of a client that has lost its server.
    pub fn reconnect() -> Self {
        Self::new(Duration::from_millis(200), Duration::from_secs(2))
    }

    /// Returns the next pause.
    pub fn next(&mut self) -> Duration {
        let nominal = self.next;
        self.next = (self.next * GROWTH).min(self.max);
        // 16 random bits are enough. The crate uuid is a dependency anyway, for ids.
        let random = f64::from(Uuid::new_v4().as_fields().1) / f64::from(u16::MAX);
        nominal.mul_f64(random.mul_add(0.5, 0.5))
    }

    /// Resets the next pause to the shortest one, after a success.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_their_maximum_and_differ() {
        let (first, max) = (Duration::from_millis(200), Duration::from_secs(2));
        let mut pause = Pause::new(first, max);
        for nominal in [200, 400, 800, 1600, 2000, 2000].map(Duration::from_millis) {
            let next = pause.next();
            assert!((nominal / 2..=nominal).contains(&next), "{next:?} of {nominal:?}");
        }
        pause.reset();
        assert!(pause.next() <= first);
        let pauses: Vec<_> = (0..100).map(|_| Pause::new(first, max).next()).collect();
        assert!(pauses.iter().any(|next| *next != pauses[0]));
    }
}
