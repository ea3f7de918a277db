//! How much callers may use, each by itself and all together.
//!
//! A limit of zero is none. What is refused for a limit is counted, each time it is.

use std::{
    collections::HashMap,
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    state::keyed::HashMapStateStore,
};

use crate::{
    domain::{Identity, Limit},
    telemetry::metrics::{Counters, Measured, Metrics},
};

/// After how many calls the rates of callers that have not called for long are forgotten.
const TIDY_EVERY: u64 = 10_000;

/// What is allowed; zero: as much as there is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// Calls a second of each caller, and as many at once.
    pub calls_per_second: u32,
    /// Open watches in all.
    pub watches: usize,
    /// Open watches of each caller.
    pub watches_per_identity: usize,
    /// Open watches on each connection.
    pub watches_per_connection: usize,
    /// Jobs of each owner.
    pub jobs_per_owner: usize,
    /// Open connections.
    pub connections: usize,
}

/// Sees to it that no more is used than is allowed.
pub struct Limits {
    allowance: Allowance,
    rates: Option<RateLimiter<String, HashMapStateStore<String>, DefaultClock>>,
    calls: AtomicU64,
    watches: Mutex<Watches>,
    refusals: Counters<{ Limit::NAMES.len() }>,
}

/// Open watches.
#[derive(Default)]
struct Watches {
    all: usize,
    /// Counted only where that is limited.
    by_identity: HashMap<String, usize>,
}

/// How many watches are open on a connection.
#[derive(Clone, Debug, Default)]
pub struct Connection(Arc<AtomicUsize>);

impl Default for Limits {
    fn default() -> Self {
        Self::new(Allowance::default())
    }
}

impl Measured for Limits {
    fn metrics(&self) -> Metrics {
        vec![self.refusals.collector()]
    }
}

impl Limits {
    /// Nothing is used yet.
    pub fn new(allowance: Allowance) -> Self {
        let rate = NonZeroU32::new(allowance.calls_per_second).map(Quota::per_second);
        Self {
            allowance,
            rates: rate.map(RateLimiter::hashmap),
            calls: AtomicU64::new(0),
            watches: Mutex::default(),
            refusals: Counters::new(
                "jobtrack_limited_total",
                "Calls and connections that were refused for a limit, by the flag that sets it.",
                "limit",
                Limit::NAMES,
            ),
        }
    }

    /// One more call of `caller`.
    pub fn call(&self, caller: &Identity) -> Result<(), Limit> {
        let Some(rates) = &self.rates else { return Ok(()) };
        if self.calls.fetch_add(1, Relaxed).is_multiple_of(TIDY_EVERY) {
            rates.retain_recent();
        }
        rates.check_key(&caller.name).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            self.refused(Limit::CallRate { most: self.allowance.calls_per_second, wait })
        })
    }

    /// One more watch of `caller`, of so many `jobs` if they are named, on `connection` if that is limited; open until
    /// the permit is dropped. It counts as one for each job that it names, and as one stream on the connection.
    pub fn watch(
        self: &Arc<Self>,
        caller: &Identity,
        jobs: usize,
        connection: Option<&Connection>,
    ) -> Result<Permit, Limit> {
        let weight = jobs.max(1);
        let Allowance { watches, watches_per_identity, watches_per_connection, .. } = self.allowance;
        let mut open = self.watches();
        if is_exceeded(watches, open.all + weight) {
            return Err(self.refused(Limit::Watches(watches)));
        }
        let of_identity = open.by_identity.get(&caller.name).copied().unwrap_or(0);
        if is_exceeded(watches_per_identity, of_identity + weight) {
            return Err(self.refused(Limit::WatchesPerIdentity(watches_per_identity)));
        }
        // All that count on a connection do so under the lock.
        if connection.is_some_and(|count| is_exceeded(watches_per_connection, count.0.load(Relaxed) + 1)) {
            return Err(self.refused(Limit::WatchesPerConnection(watches_per_connection)));
        }
        open.all += weight;
        connection.inspect(|count| _ = count.0.fetch_add(1, Relaxed));
        let identity = (watches_per_identity > 0).then(|| caller.name.clone());
        if let Some(name) = &identity {
            *open.by_identity.entry(name.clone()).or_default() += weight;
        }
        drop(open);
        Ok(Permit { limits: self.clone(), weight, identity, connection: connection.cloned() })
    }

    /// Counts of the watches on a connection, if these are limited.
    pub fn connection(&self) -> Option<Connection> {
        (self.allowance.watches_per_connection > 0).then(Connection::default)
    }

    /// Whether a connection may be opened besides `open` others.
    pub fn allows_connection(&self, open: usize) -> bool {
        let allowed = !is_exceeded(self.allowance.connections, open + 1);
        if !allowed {
            self.refused(Limit::Connections(self.allowance.connections));
        }
        allowed
    }

    /// How many jobs an owner may have, if that is limited.
    pub fn jobs_per_owner(&self) -> Option<usize> {
        Some(self.allowance.jobs_per_owner).filter(|most| *most > 0)
    }

    /// Counts a refusal.
    pub fn refused(&self, limit: Limit) -> Limit {
        self.refusals.of(limit.index()).inc();
        limit
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_exceeded(most: usize, used: usize) -> bool {
    most > 0 && used > most
}

/// A watch that may be open.
pub struct Permit {
    limits: Arc<Limits>,
    weight: usize,
    identity: Option<String>,
    connection: Option<Connection>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.limits.watches();
        open.all -= self.weight;
        self.connection.as_ref().inspect(|count| _ = count.0.fetch_sub(1, Relaxed));
        if let Some(name) = &self.identity
            && let Some(count) = open.by_identity.get_mut(name)
        {
            *count -= self.weight;
            if *count == 0 {
                open.by_identity.remove(name);
            }
        }
    }
}
