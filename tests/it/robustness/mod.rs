//! Random operations and faults, checked against the promises of the service.

mod failover_laws;
mod history;
mod soak;
