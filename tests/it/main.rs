//! Everything that is tested from outside, in one binary.

mod support;

mod api;
mod binary;
mod errors;
mod hostile;
mod laws;
mod layering;
mod store_contract;
mod transitions;
