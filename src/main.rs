//! The `jobtrack` binary.
fn main() {}
