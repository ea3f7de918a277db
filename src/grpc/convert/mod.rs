//! Between the wire and the domain: all parsing and all limits on input are here.
//!
//! A request is read field by field, and every bad one is noted, so that a caller learns of all at once.

mod fields;
mod request;
mod response;

pub use fields::UNDECODABLE;
pub use request::*;
pub use response::*;
