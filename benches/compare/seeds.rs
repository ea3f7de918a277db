//! The `FastAPI` and redis-py server, one process, as an example of a home-made status service.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use crate::process::Server;

/// Starts the server on a free port, with the Redis at this address.
pub fn start(redis: &str) -> Server {
    let mut command = Command::new(environment().join("bin/python"));
    command.arg(project("benches/compare/seeds.py")).env_clear().env("REDIS_URL", redis);
    Server::start(command)
}

/// Returns its Python environment. Creates it if it is missing.
fn environment() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("seeds-venv");
    let mut command = Command::new(project("tests/venv.sh"));
    command.arg(&folder).arg(project("benches/compare/requirements.txt"));
    let made = command.status().expect("the script can be started");
    assert!(made.success(), "the Python environment of the home-made server can't be made");
    folder
}

/// Returns the path of a file of this project.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}
