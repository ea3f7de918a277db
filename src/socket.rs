//! Options of accepted sockets: a peer that is gone, or takes nothing, is noticed whatever is spoken over the connection.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Silence after which the peer's system is asked whether it is still there.
const PROBE_AFTER: Duration = Duration::from_secs(20);

/// Time from one such question to the next.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Questions without an answer after which the connection is over.
const PROBES: u32 = 3;

/// How long what was sent may wait for the peer's system to take it.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Has the system end `stream` when its peer has vanished without saying so, or takes nothing of what is sent.
pub fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES);
    socket.set_tcp_keepalive(&keepalive)?;
    // Other systems have no such option; there the write timeout has to do.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
