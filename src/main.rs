//! The `jobtrack` binary.

use std::process::ExitCode;

/// The allocator: faster than the system's, and returns free memory to the system.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    jobtrack::cli::run()
}
