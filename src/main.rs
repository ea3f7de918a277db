//! The `jobtrack` binary.

use std::process::ExitCode;

/// Faster than the system's, and gives memory back.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    jobtrack::cli::run()
}
