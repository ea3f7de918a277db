//! Audit lines: what was deleted, purged, shared, cancelled by force or refused, by whom and from where. The target
//! `jobtrack::audit` marks them.

use std::{
    net::SocketAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::Extensions;
use tracing::{field::display, info};

use super::context::CallContext;
use crate::{
    domain::{Identity, JobId, Timestamp},
    grpc::exchange::Exchange,
};

/// Maximum number of lines about refusals in each [`REFUSALS_INTERVAL`]. There is a limit, because callers determine
/// the number of refusals.
const REFUSALS_MAX: u32 = 20;

/// Interval in which at most [`REFUSALS_MAX`] lines are logged.
const REFUSALS_INTERVAL: Duration = Duration::from_secs(1);

/// The refusals of this process: all servers in it share one log.
static REFUSALS: Mutex<Option<Refusals>> = Mutex::new(None);

/// The caller of a call, as log lines name it.
pub struct Caller {
    name: Option<String>,
    peer: Option<SocketAddr>,
}

impl Caller {
    /// Returns the caller of the call with these `extensions`.
    pub fn of(extensions: &Extensions) -> Self {
        let context = CallContext::of(extensions);
        let grant = context.and_then(|context| context.grant.as_ref());
        Self::new(grant.map(|grant| &*grant.identity), Exchange::of_connection(|connection| connection.address))
    }

    /// Creates a caller. Log lines show no name if there is no authentication.
    pub fn new(identity: Option<&Identity>, peer: Option<SocketAddr>) -> Self {
        let name = identity.map(|identity| identity.label().into_owned()).filter(|name| !name.is_empty());
        Self { name, peer }
    }
}

/// Logs that a job was deleted.
pub fn deleted(Caller { name, peer }: Caller, id: &JobId, force: bool) {
    info!(target: "jobtrack::audit", job_id = %id, force, caller = name, peer = peer.map(display), "job deleted");
}

/// Logs that a watch token was made for this number of jobs, of which `id` is one.
pub fn shared(Caller { name, peer }: Caller, id: &JobId, jobs: usize, expires: Timestamp) {
    let (peer, expires) = (peer.map(display), expires.rfc3339());
    info!(target: "jobtrack::audit", job_id = %id, jobs, %expires, caller = name, peer, "watch token created");
}

/// Logs that a job was cancelled without waiting for its worker.
pub fn cancelled_by_force(Caller { name, peer }: Caller, id: &str) {
    info!(target: "jobtrack::audit", job_id = id, caller = name, peer = peer.map(display), "job cancelled by force");
}

/// Logs that jobs were purged. `kind` and `owner` are empty if the request did not select by them.
pub fn purged(Caller { name, peer }: Caller, count: u64, kind: &str, owner: &str) {
    let peer = peer.map(display);
    info!(target: "jobtrack::audit", count, kind, owner, caller = name, peer, "jobs purged");
}

/// Logs that a call of this method was refused, because the caller lacks a right. If there are too many refusals, only
/// some of them are logged, with the number of the others.
pub fn refused(Caller { name, peer }: Caller, method: &str) {
    let now = Instant::now();
    let mut refusals = REFUSALS.lock().unwrap_or_else(PoisonError::into_inner);
    let refusals = refusals.get_or_insert(Refusals { since: now, count: 0 });
    let Some(left_out) = refusals.count(now) else { return };
    let peer = peer.map(display);
    info!(target: "jobtrack::audit", method, caller = name, peer, left_out, "authorization refused");
}

/// The refusals of an interval.
struct Refusals {
    since: Instant,
    count: u32,
}

impl Refusals {
    /// Counts a refusal. If it is to be logged, returns the number of refusals that were not logged in the previous
    /// interval.
    fn count(&mut self, now: Instant) -> Option<u32> {
        let mut left_out = 0;
        if now - self.since >= REFUSALS_INTERVAL {
            left_out = self.count.saturating_sub(REFUSALS_MAX);
            (self.since, self.count) = (now, 0);
        }
        self.count += 1;
        (self.count <= REFUSALS_MAX).then_some(left_out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refusals_some_are_logged_and_the_others_counted() {
        let now = Instant::now();
        let mut refusals = Refusals { since: now, count: 0 };
        let logged = (0..100).filter(|_| refusals.count(now).is_some()).count();
        assert_eq!(logged, 20);
        assert_eq!(refusals.count(now + REFUSALS_INTERVAL), Some(80));
        assert_eq!(refusals.count(now + REFUSALS_INTERVAL * 2), Some(0));
    }
}
