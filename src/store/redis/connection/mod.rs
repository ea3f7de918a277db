//! Connections to Redis, in each of its topologies: where it is, how it is reached, and what its failures mean.

mod address;
mod connector;
mod metrics;
mod pool;
mod sentinel;

pub use self::{
    address::Target,
    connector::{Connector, timed_out},
    metrics::{Command, LinkMetrics},
    pool::{Answer, Fault, Pool, read},
    sentinel::Address,
};
