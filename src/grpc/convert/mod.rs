//! Conversions between protobuf messages and the domain: all parsing, and all limits on input.
//!
//! A request is read field by field. Each violation is recorded, so that the caller learns of all of them at once.

mod event;
mod fields;
mod job;
mod request;
mod response;
mod stats;
mod values;

pub use event::event;
pub use fields::UNDECODABLE;
pub use job::job;
pub use request::*;
pub use response::*;
pub use stats::stats;
