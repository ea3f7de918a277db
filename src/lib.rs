//! jobtrack.
pub mod proto;
