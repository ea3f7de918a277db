//! The servers and clocks of the test support behave as documented.

mod faketime;
mod redis;
