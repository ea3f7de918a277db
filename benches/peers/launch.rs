//! Servers that are told their port, and keep files.

use std::{
    env, fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use tokio::{net::TcpStream, time::sleep};
use uuid::Uuid;

use crate::process::Server;

/// Maximum time from the start of a server until it accepts connections.
const START_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause between attempts to connect to a server that starts; a part of the measured time to the first answer.
const CONNECT_PAUSE: Duration = Duration::from_millis(1);

/// A folder for the files of a server, in memory if the system has such a place; removed when dropped.
pub struct Folder(PathBuf);

impl Folder {
    pub fn new() -> Self {
        let memory = Path::new("/dev/shm");
        let parent = if memory.is_dir() { memory } else { Path::new(env!("CARGO_TARGET_TMPDIR")) };
        let path = parent.join(format!("jobtrack-peers-{}", Uuid::new_v4()));
        fs::create_dir_all(&path).expect("a folder can be made");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        _ = fs::remove_dir_all(&self.0);
    }
}

/// Returns an address of this machine with a free port.
pub fn free_address() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("there is a free port");
    listener.local_addr().expect("it is bound")
}

/// Starts a server that listens on `address`, and waits until it accepts connections.
pub async fn launch(command: &mut Command, address: SocketAddr) -> Result<Server, String> {
    command.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.envs(env::var_os("PATH").map(|path| ("PATH", path)));
    let child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let server = Server::new(address, child);
    let started = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if started.elapsed() > START_TIMEOUT {
            return Err(format!("does not listen after {} s: {command:?}", START_TIMEOUT.as_secs()));
        }
        sleep(CONNECT_PAUSE).await;
    }
    Ok(server)
}
