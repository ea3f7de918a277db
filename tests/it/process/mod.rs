//! The server as a process: flags, the start, signals, exit codes.

mod binary;
mod configuration_errors;
mod redis_start;
mod signals;
