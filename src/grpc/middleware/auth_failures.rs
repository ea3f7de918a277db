//! Failed authentications: their rate limit per address, and their log lines.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::NonZeroU32,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};
use tonic::Status;
use tracing::warn;

use super::methods::Method;
use crate::{
    domain::{JobError, Unauthenticated},
    grpc::exchange::{ClientConnection, Exchange},
    quota::Quotas,
};

/// Minimum interval between log lines about one address.
const ADDRESS_INTERVAL: Duration = Duration::from_secs(10);

/// Maximum number of log lines a second about all addresses.
const LINES_PER_SECOND: NonZeroU32 = NonZeroU32::new(5).expect("it is not zero");

/// Number of failures after which addresses without recent failures are forgotten.
const TIDY_EVERY: u64 = 10_000;

/// Refuses calls whose credentials are missing or invalid, and logs them.
pub struct AuthFailures {
    addresses: DefaultKeyedRateLimiter<IpAddr>,
    lines: DefaultDirectRateLimiter,
    all: AtomicU64,
    /// Failures since the last log line.
    unlogged: AtomicU64,
}

impl Default for AuthFailures {
    fn default() -> Self {
        let of_address = Quota::with_period(ADDRESS_INTERVAL).expect("it is not zero");
        Self {
            addresses: RateLimiter::keyed(of_address),
            lines: RateLimiter::direct(Quota::per_second(LINES_PER_SECOND)),
            all: AtomicU64::new(0),
            unlogged: AtomicU64::new(0),
        }
    }
}

impl AuthFailures {
    /// Refuses the current call of `method`, whose credentials have this `problem`. If there were too many failures
    /// from its address, and nobody has authenticated on its connection, the connection accepts no more calls.
    pub fn refuse(&self, problem: Unauthenticated, method: &Method, quotas: &Quotas) -> Status {
        let address = Exchange::of_connection(|connection| connection.address);
        self.log(address, problem, method);
        let ip = address.map_or(Ipv4Addr::UNSPECIFIED.into(), |address| address.ip());
        match quotas.failed_authentication(ip) {
            Ok(()) => JobError::Unauthenticated(problem).into(),
            Err(limit) => {
                Exchange::of_connection(ClientConnection::drain_if_unauthenticated);
                JobError::Exhausted(limit).into()
            }
        }
    }

    fn log(&self, address: Option<SocketAddr>, problem: Unauthenticated, method: &Method) {
        self.unlogged.fetch_add(1, Relaxed);
        if self.all.fetch_add(1, Relaxed).is_multiple_of(TIDY_EVERY) {
            self.addresses.retain_recent();
        }
        let Some(address) = address else { return };
        if self.addresses.check_key(&address.ip()).is_err() || self.lines.check().is_err() {
            return;
        }
        let failures = self.unlogged.swap(0, Relaxed);
        let (problem, method) = (problem.name(), method.full_name());
        warn!(peer = %address, problem, method, failures, "authentication failed");
    }
}
