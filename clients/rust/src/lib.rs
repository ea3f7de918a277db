#![doc = include_str!("../README.md")]

mod calls;
mod channel;
mod create;
mod error;
mod job;
mod pause;
pub mod proto;
mod tracker;
mod watch;
mod work;

pub use tonic::Code;

pub use self::{
    create::Create,
    error::{Error, Violation},
    proto::v1::{Failure, Job, JobFilter, Removal, job::State},
    tracker::{Builder, ConfigError, DEFAULT_SERVER, Tracker},
    watch::{Event, Watch, WatchMany},
    work::{Report, Stop, Work, WorkBuilder},
};
