//! Options of accepted sockets that detect vanished and stalled peers, whatever the protocol.

use std::{io, time::Duration};

use socket2::{SockRef, TcpKeepalive};
use tokio::net::TcpStream;

/// Idle time after which keepalive probes are sent.
const PROBE_AFTER: Duration = Duration::from_secs(20);

/// Interval between keepalive probes.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

/// Number of unanswered probes after which the connection is closed.
const PROBES_MAX: u32 = 3;

/// Maximum time that sent data may stay unacknowledged.
const USER_TIMEOUT: Duration = Duration::from_secs(30);

/// Makes the operating system close `stream` when its peer has vanished, or acknowledges nothing.
pub fn watch_peer(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_INTERVAL).with_retries(PROBES_MAX);
    socket.set_tcp_keepalive(&keepalive)?;
    // Other operating systems lack this option. There only the write timeout of a connection detects a stalled peer.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
