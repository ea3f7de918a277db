//! Connections to Redis in each of its topologies: addresses, pools, time limits and failures.

mod address;
mod cluster;
mod command_wait;
mod connections;
mod connector;
mod counted;
mod credentials;
mod fault;
mod metrics;
mod pool;
mod pooled;
mod reachability;
mod reason;
mod sentinel;
mod server;
mod turns;

pub use self::{
    address::{AddressError, Target},
    connector::Connector,
    counted::Counted,
    fault::{Answer, Fault, is_on_the_move, is_unknown_script, is_without_answer, read, timed_out},
    metrics::{Command, ConnectionMetrics},
    pool::Pool,
    reason::{Reason, forbidden_command, text},
    sentinel::Address,
    server::REQUIRED,
};
