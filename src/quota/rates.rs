//! Rates of events by key.

use std::{
    hash::Hash,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

/// Number of checks after which the rates of inactive keys are removed.
const CLEANUP_INTERVAL: u64 = 10_000;

/// Rates of events by key.
pub struct Rates<K: Hash + Eq + Clone> {
    rates: RateLimiter<K, HashMapStateStore<K>, DefaultClock>,
    checks: AtomicU64,
}

impl<K: Hash + Eq + Clone> Rates<K> {
    /// Creates rates limited by `quota`.
    pub fn new(quota: Quota) -> Self {
        Self { rates: RateLimiter::hashmap(quota), checks: AtomicU64::new(0) }
    }

    /// Counts an event of `key`. The error is the time until the next one is allowed.
    pub fn check(&self, key: &K) -> Result<(), Duration> {
        if self.checks.fetch_add(1, Relaxed).is_multiple_of(CLEANUP_INTERVAL) {
            self.rates.retain_recent();
        }
        self.rates.check_key(key).map_err(|until| until.wait_time_from(DefaultClock::default().now()))
    }
}
