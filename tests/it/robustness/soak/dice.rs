//! A random generator with a seed.

use std::time::Duration;

/// A generator by the algorithm `SplitMix64`.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// Returns one of `0..sides`.
    pub fn roll(&mut self, sides: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(sides).expect("few")).expect("few")
    }

    /// Returns `true` once in `times`, on average.
    pub fn one_in(&mut self, times: usize) -> bool {
        self.roll(times) == 0
    }

    /// Returns a duration from `least` up to twice that.
    pub fn pause(&mut self, least: Duration) -> Duration {
        least + least * u32::try_from(self.roll(1000)).expect("few") / 1000
    }

    /// Returns an independent generator.
    pub fn fork(&mut self) -> Self {
        Self(self.next())
    }

    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.roll(last + 1));
        }
    }
}
