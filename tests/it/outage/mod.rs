//! Redis, the network or a replica becomes unavailable, and comes back: the effects on callers, watchers and data.

mod failover;
mod faults;
mod latency;
mod liveness;
mod redis_failover;
mod redis_link;
mod returning;
