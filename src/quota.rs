//! Quotas: limits of calls, connections, watches, jobs and memory, for each caller and for all together.
//!
//! A limit of zero means unlimited. Each rejection is counted.

mod rates;

use std::{
    collections::HashMap,
    hash::{Hash, Hasher},
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use governor::Quota;

use self::rates::Rates;
use crate::{
    domain::{Identity, IdentityKind, Limit},
    telemetry::metrics::{Counters, Measured, Metrics},
};

/// Burst of failed authentications, as a multiple of the rate per second.
const FAILURE_BURST: NonZeroU32 = NonZeroU32::new(10).expect("10 is not zero");

/// Maximum open watches of health on each connection: a client needs one for each service that it watches.
const HEALTH_WATCHES_PER_CONNECTION: usize = 16;

/// Divisor of [`Allowance::call_bytes`] that gives the share of one connection.
const CONNECTION_SHARE: usize = 4;

/// Minimum share of one connection in bytes. The largest answer fits.
const CONNECTION_BYTES_MIN: usize = 5 * 1024 * 1024;

/// The limits. Zero means unlimited.
#[derive(Clone, Copy, Debug, Default)]
pub struct Allowance {
    /// Calls per second of each caller, and burst of that size.
    pub calls_per_second: u32,
    /// Open watches of all callers.
    pub watches: usize,
    /// Open watches of each caller.
    pub watches_per_identity: usize,
    /// Open watches on each connection.
    pub watches_per_connection: usize,
    /// Jobs of each owner.
    pub jobs_per_owner: usize,
    /// Open connections.
    pub connections: usize,
    /// Bytes of requests and answers in memory.
    pub call_bytes: usize,
    /// Open connections without an authenticated call.
    pub unauthenticated_connections: usize,
    /// Open watches of health.
    pub health_watches: usize,
    /// Failed authentications per second of each address, and burst of ten times that.
    pub auth_failures_per_second: u32,
}

/// Counts the usage of callers, and enforces the limits.
pub struct Quotas {
    allowance: Allowance,
    rates: Option<Rates<Caller>>,
    failures: Option<Rates<IpAddr>>,
    watches: Mutex<Watches>,
    health_watches: AtomicUsize,
    call_bytes: AtomicUsize,
    refusals: Counters<{ Limit::NAMES.len() }>,
}

/// A caller, identified by its kind and name: an entry of the identities file shares no limit with a certificate of the
/// same name that is not in the file. The holders of the watch tokens that a caller made count together as another
/// caller: a shared link that many people use must not use up the limits of the caller who made it.
#[derive(Clone)]
struct Caller(Arc<Identity>);

impl Caller {
    fn key(&self) -> (IdentityKind, &str, bool) {
        (self.0.kind, &self.0.name, self.0.shared.is_some())
    }
}

impl PartialEq for Caller {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Caller {}

impl Hash for Caller {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.key().hash(state);
    }
}

/// Counters of open watches.
#[derive(Default)]
struct Watches {
    all: usize,
    /// Empty if there is no limit per caller.
    by_identity: HashMap<Caller, usize>,
}

/// The usage of a connection.
#[derive(Clone, Debug, Default)]
pub struct ConnectionUsage(Arc<Open>);

/// Counters of a connection.
#[derive(Debug, Default)]
struct Open {
    jobs: AtomicUsize,
    health: AtomicUsize,
    call_bytes: AtomicUsize,
}

impl ConnectionUsage {
    /// Returns whether a watch of jobs is open on the connection.
    pub fn has_watches(&self) -> bool {
        self.0.jobs.load(Relaxed) > 0
    }
}

impl Allowance {
    /// Lowers the limit of connections to `most`, if it is higher or unlimited.
    pub fn with_connections(mut self, most: Option<usize>) -> Self {
        if let Some(most) = most
            && (self.connections == 0 || self.connections > most)
        {
            self.connections = most;
        }
        self
    }
}

impl Default for Quotas {
    fn default() -> Self {
        Self::new(Allowance::default())
    }
}

impl Measured for Quotas {
    fn metrics(&self) -> Metrics {
        vec![self.refusals.collector()]
    }
}

impl Quotas {
    /// Creates quotas with nothing in use.
    pub fn new(allowance: Allowance) -> Self {
        let calls = NonZeroU32::new(allowance.calls_per_second).map(Quota::per_second);
        let failures = NonZeroU32::new(allowance.auth_failures_per_second);
        let failures = failures.map(|most| Quota::per_second(most).allow_burst(most.saturating_mul(FAILURE_BURST)));
        Self {
            allowance,
            rates: calls.map(Rates::new),
            failures: failures.map(Rates::new),
            watches: Mutex::default(),
            health_watches: AtomicUsize::new(0),
            call_bytes: AtomicUsize::new(0),
            refusals: Counters::new(
                "jobtrack_limited_total",
                "Calls and connections rejected because of a limit, by the flag that sets the limit.",
                "limit",
                Limit::NAMES,
            ),
        }
    }

    /// Counts a call of `caller`.
    pub fn call(&self, caller: &Arc<Identity>) -> Result<(), Limit> {
        let Some(rates) = &self.rates else { return Ok(()) };
        rates
            .check(&Caller(caller.clone()))
            .map_err(|wait| self.refused(Limit::CallRate { most: self.allowance.calls_per_second, wait }))
    }

    /// Counts a failed authentication from `address`.
    pub fn failed_authentication(&self, address: IpAddr) -> Result<(), Limit> {
        let Some(failures) = &self.failures else { return Ok(()) };
        failures.check(&network(address)).map_err(|wait| {
            self.refused(Limit::FailedAuthentications { most: self.allowance.auth_failures_per_second, wait })
        })
    }

    /// Counts a watch of health on `connection`, open until the permit is dropped.
    pub fn health_watch(self: &Arc<Self>, connection: &ConnectionUsage) -> Result<HealthPermit, Limit> {
        let most = self.allowance.health_watches;
        let permit = HealthPermit { quotas: self.clone(), connection: connection.clone() };
        let on_connection = connection.0.health.fetch_add(1, Relaxed) + 1;
        let all = self.health_watches.fetch_add(1, Relaxed) + 1;
        if is_exceeded(most, all) {
            return Err(self.refused(Limit::HealthWatches(most)));
        }
        if most > 0 && on_connection > HEALTH_WATCHES_PER_CONNECTION {
            return Err(self.refused(Limit::HealthWatches(HEALTH_WATCHES_PER_CONNECTION)));
        }
        Ok(permit)
    }

    /// Returns the number of open watches of health.
    pub fn health_watches(&self) -> usize {
        self.health_watches.load(Relaxed)
    }

    /// Returns whether another connection without an authenticated call may be opened besides `open` ones.
    pub fn allows_unauthenticated(&self, open: usize) -> bool {
        let most = self.allowance.unauthenticated_connections;
        let allowed = !is_exceeded(most, open + 1);
        if !allowed {
            self.refused(Limit::UnauthenticatedConnections(most));
        }
        allowed
    }

    /// Counts a watch of `caller` on `connection`, open until the permit is dropped. The watch counts once for each of
    /// the `jobs` that it names, at least once, and as one stream on the connection.
    pub fn watch(
        self: &Arc<Self>,
        caller: &Arc<Identity>,
        jobs: usize,
        connection: Option<&ConnectionUsage>,
    ) -> Result<Permit, Limit> {
        let weight = jobs.max(1);
        let Allowance { watches, watches_per_identity, watches_per_connection, .. } = self.allowance;
        let mut open = self.watches();
        if is_exceeded(watches, open.all + weight) {
            return Err(self.refused(Limit::Watches(watches)));
        }
        let caller = Caller(caller.clone());
        let of_identity = open.by_identity.get(&caller).copied().unwrap_or(0);
        if is_exceeded(watches_per_identity, of_identity + weight) {
            return Err(self.refused(Limit::WatchesPerIdentity(watches_per_identity)));
        }
        // The counter of the connection is changed only under the lock, so that this check and the increment are one
        // step.
        if connection.is_some_and(|count| is_exceeded(watches_per_connection, count.0.jobs.load(Relaxed) + 1)) {
            return Err(self.refused(Limit::WatchesPerConnection(watches_per_connection)));
        }
        open.all += weight;
        connection.inspect(|count| _ = count.0.jobs.fetch_add(1, Relaxed));
        let identity = (watches_per_identity > 0).then_some(caller);
        if let Some(caller) = &identity {
            *open.by_identity.entry(caller.clone()).or_default() += weight;
        }
        drop(open);
        Ok(Permit { quotas: self.clone(), weight, identity, connection: connection.cloned() })
    }

    /// Returns whether another connection may be opened besides `open` ones.
    pub fn allows_connection(&self, open: usize) -> bool {
        let allowed = !is_exceeded(self.allowance.connections, open + 1);
        if !allowed {
            self.refused(Limit::Connections(self.allowance.connections));
        }
        allowed
    }

    /// Counts `bytes` more of a request or an answer of a call on `connection`, until they are released. The limit of
    /// one connection is that of [`bytes_per_connection`](Self::bytes_per_connection).
    pub fn hold_bytes(&self, connection: &ConnectionUsage, bytes: usize) -> Result<(), Limit> {
        let most = self.allowance.call_bytes;
        let of_each = self.bytes_per_connection().unwrap_or(0);
        let all = self.call_bytes.fetch_add(bytes, Relaxed) + bytes;
        let of_connection = connection.0.call_bytes.fetch_add(bytes, Relaxed) + bytes;
        if is_exceeded(most, all) || is_exceeded(of_each, of_connection) {
            self.release_bytes(connection, bytes);
            return Err(self.refused(Limit::MemoryBytes(most)));
        }
        Ok(())
    }

    /// Returns the maximum of the bytes that are counted on a connection; `None` if they are not limited.
    pub fn bytes_per_connection(&self) -> Option<usize> {
        let most = Some(self.allowance.call_bytes).filter(|most| *most > 0)?;
        Some((most / CONNECTION_SHARE).max(CONNECTION_BYTES_MIN))
    }

    /// Releases bytes that were counted by [`hold_bytes`](Self::hold_bytes).
    pub fn release_bytes(&self, connection: &ConnectionUsage, bytes: usize) {
        self.call_bytes.fetch_sub(bytes, Relaxed);
        connection.0.call_bytes.fetch_sub(bytes, Relaxed);
    }

    /// Returns the number of bytes of requests and answers in memory.
    pub fn call_bytes(&self) -> usize {
        self.call_bytes.load(Relaxed)
    }

    /// Returns the maximum number of jobs of an owner; `None` if it is unlimited.
    pub fn jobs_per_owner(&self) -> Option<usize> {
        Some(self.allowance.jobs_per_owner).filter(|most| *most > 0)
    }

    /// Counts a rejection because of `limit`, and returns `limit`.
    pub fn refused(&self, limit: Limit) -> Limit {
        self.refusals.of(limit.index()).inc();
        limit
    }

    fn watches(&self) -> MutexGuard<'_, Watches> {
        self.watches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Returns the network whose failures `address` counts towards: for IPv6 the /64, because a host with one address of a
/// /64 usually controls all of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
        address @ IpAddr::V4(_) => address,
    }
}

fn is_exceeded(most: usize, used: usize) -> bool {
    most > 0 && used > most
}

/// Permit for an open watch.
pub struct Permit {
    quotas: Arc<Quotas>,
    weight: usize,
    identity: Option<Caller>,
    connection: Option<ConnectionUsage>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = self.quotas.watches();
        debug_assert!(open.all >= self.weight, "each permit is counted once");
        open.all -= self.weight;
        self.connection.as_ref().inspect(|count| _ = count.0.jobs.fetch_sub(1, Relaxed));
        if let Some(caller) = &self.identity
            && let Some(count) = open.by_identity.get_mut(caller)
        {
            *count -= self.weight;
            if *count == 0 {
                open.by_identity.remove(caller);
            }
        }
    }
}

/// Permit for an open watch of health.
pub struct HealthPermit {
    quotas: Arc<Quotas>,
    connection: ConnectionUsage,
}

impl Drop for HealthPermit {
    fn drop(&mut self) {
        self.quotas.health_watches.fetch_sub(1, Relaxed);
        self.connection.0.health.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Owners;

    fn identity(kind: IdentityKind) -> Arc<Identity> {
        Arc::new(Identity { kind, name: "dash".to_owned(), role: None, owners: Owners::All, shared: None })
    }

    #[test]
    fn callers_of_one_name_but_of_different_kinds_share_no_limit() {
        let allowance = Allowance { calls_per_second: 1, watches_per_identity: 1, ..Allowance::default() };
        let quotas = Arc::new(Quotas::new(allowance));
        let mut open = Vec::new();
        for kind in [IdentityKind::Stranger, IdentityKind::Subject, IdentityKind::Listed] {
            let caller = identity(kind);
            assert!(quotas.call(&caller).is_ok(), "{kind:?}");
            assert!(quotas.call(&caller).is_err(), "{kind:?}");
            open.push(quotas.watch(&caller, 1, None).expect("its first watch"));
            assert!(quotas.watch(&caller, 1, None).is_err(), "{kind:?}");
        }
        drop(open);
        assert!(quotas.watch(&identity(IdentityKind::Listed), 1, None).is_ok());
    }

    #[test]
    fn failures_of_a_network_are_counted_together() {
        let quotas = Quotas::new(Allowance { auth_failures_per_second: 1, ..Allowance::default() });
        let addresses = ["2001:db8::1", "2001:db8::2", "2001:db8:0:1::1", "192.0.2.1", "::ffff:192.0.2.1"];
        let networks = addresses.map(|address| network(address.parse().expect("an address")));
        assert_eq!(networks[0], networks[1]);
        assert_ne!(networks[0], networks[2]);
        assert_eq!(networks[3], networks[4]);
        for _ in 0..10 {
            quotas.failed_authentication(networks[0]).expect("ten at once");
        }
        assert!(quotas.failed_authentication(networks[1]).is_err());
        assert!(quotas.failed_authentication(networks[3]).is_ok());
    }
}
