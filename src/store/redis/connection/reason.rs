//! Reasons of failures, as log lines and metrics name them.

use std::fmt::{self, Display, Formatter};

use redis::{ErrorKind, RedisError, ServerErrorKind};

use super::server::REQUIRED;

/// The error text of an old Redis for commands in a form that it does not support.
const UNKNOWN_SYNTAX: &str = "syntax error";

/// The error of a server that was restarted or replaced since the last connection; see [`Connector`](super::Connector).
pub const RESTARTED: &str = "Redis was restarted or replaced";

macro_rules! reasons {
    ($($(#[$doc:meta])* $reason:ident = $name:literal,)*) => {
        /// The reason why Redis is unavailable or refuses a command; in the spelling of Redis where it has a code for
        /// it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason {
            $($(#[$doc])* $reason,)*
        }

        impl Reason {
            /// The number of reasons.
            pub const COUNT: usize = [$($name),*].len();

            /// The names of all reasons, in their order.
            pub const NAMES: [&str; Self::COUNT] = [$($name),*];
        }
    };
}

reasons! {
    /// Redis did not answer in time.
    Timeout = "timeout",
    /// Nobody listens at the address.
    Refused = "refused",
    /// The connection broke.
    Lost = "lost",
    /// The name has no address, or no network leads there.
    Unreachable = "unreachable",
    /// The TLS handshake failed.
    Tls = "TLS",
    /// Credentials are missing.
    NoAuth = "NOAUTH",
    /// User or password are wrong.
    WrongPass = "WRONGPASS",
    /// The user lacks a right.
    NoPerm = "NOPERM",
    /// Redis has reached `maxmemory`.
    Oom = "OOM",
    /// Redis can't save to its disk.
    MisConf = "MISCONF",
    /// The server is a replica.
    ReadOnly = "READONLY",
    /// The master has lost its replicas.
    NoReplicas = "NOREPLICAS",
    /// A script takes too long.
    Busy = "BUSY",
    /// Redis reads its data from disk.
    Loading = "LOADING",
    /// The replica has no link to its master.
    MasterDown = "MASTERDOWN",
    /// Slots of the cluster have no master.
    ClusterDown = "CLUSTERDOWN",
    /// Keys are moving between nodes of the cluster, or the server is a node of a cluster.
    Moved = "MOVED",
    /// Redis has no room for another connection.
    MaxClients = "maxclients",
    /// Another process than before serves at the address. It may have lost data, so the cache is compared with it
    /// first.
    Restarted = "restarted",
    /// No sentinel has a master of this name.
    UnknownMaster = "unknown-master",
    /// Redis is too old, or a replica of jobtrack 0.1 uses it.
    Version = "version",
    /// Anything else, as the text of the error describes.
    Other = "other",
}

impl Reason {
    /// Returns the reason of an error.
    pub fn of(error: &RedisError) -> Self {
        use ServerErrorKind::{Ask, BusyLoading, ClusterDown, MasterDown, Moved, NoPerm, ReadOnly, TryAgain};
        match error.kind() {
            ErrorKind::Io => Self::of_io(error),
            ErrorKind::ClusterConnectionNotFound => Self::Unreachable,
            ErrorKind::AuthenticationFailed => Self::WrongPass,
            ErrorKind::MasterNameNotFoundBySentinel => Self::UnknownMaster,
            ErrorKind::Server(MasterDown) if error.to_string().starts_with(RESTARTED) => Self::Restarted,
            ErrorKind::Server(MasterDown) => Self::MasterDown,
            ErrorKind::Server(NoPerm) => Self::NoPerm,
            ErrorKind::Server(ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(BusyLoading) => Self::Loading,
            ErrorKind::Server(ClusterDown) => Self::ClusterDown,
            ErrorKind::Server(Moved | Ask | TryAgain) => Self::Moved,
            _ => Self::of_code(error),
        }
    }

    fn of_code(error: &RedisError) -> Self {
        let text = text(error);
        match error.code() {
            Some("NOAUTH") => Self::NoAuth,
            Some("WRONGPASS") => Self::WrongPass,
            Some("OOM") => Self::Oom,
            Some("MISCONF") => Self::MisConf,
            Some("NOREPLICAS") => Self::NoReplicas,
            Some("BUSY") => Self::Busy,
            // A right that is missing within a script has no code of its own before Redis 7.2.
            _ if text.contains("The user executing the script can't") => Self::NoPerm,
            _ if text.starts_with("max number of clients reached") => Self::MaxClients,
            _ if text.contains(REQUIRED) || text.contains(UNKNOWN_SYNTAX) || text.contains("jobtrack 0.1") => {
                Self::Version
            }
            _ => Self::Other,
        }
    }

    fn of_io(error: &RedisError) -> Self {
        match error {
            error if error.is_timeout() => Self::Timeout,
            error if error.is_connection_refusal() => Self::Refused,
            error => Self::of_text(&error.to_string()),
        }
    }

    /// Returns the reason in the text of an error: connecting to a cluster fails with the text of one node's error.
    fn of_text(text: &str) -> Self {
        let known = [
            ("failed to lookup address", Self::Unreachable),
            ("unreachable", Self::Unreachable),
            ("No route to host", Self::Unreachable),
            ("tls handshake", Self::Tls),
            ("certificate", Self::Tls),
            ("corrupt message", Self::Tls),
            ("Connection refused", Self::Refused),
            ("timed out", Self::Timeout),
            ("AuthenticationFailed", Self::WrongPass),
            ("NOAUTH", Self::NoAuth),
            ("NoPerm", Self::NoPerm),
            ("BusyLoading", Self::Loading),
            ("ClusterDown", Self::ClusterDown),
        ];
        known.into_iter().find(|(part, _)| text.contains(part)).map_or(Self::Lost, |(_, reason)| reason)
    }

    /// Returns the name.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self as usize]
    }
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Returns the text of an error in one line, without secrets: Redis repeats the arguments of a command that it does not
/// know, and a password may be one of them.
pub fn text(error: &RedisError) -> String {
    let text = match (error.code(), error.detail()) {
        (Some(_), Some(detail)) => detail.to_owned(),
        (None, Some(detail)) if error.kind() == ErrorKind::InvalidClientConfig => detail.to_owned(),
        _ => error.to_string(),
    };
    let shown = text.split(", with args beginning with").next().unwrap_or_default();
    shown.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the command that a user may not use, if the error names it.
pub fn forbidden_command(error: &RedisError) -> Option<String> {
    let text = text(error);
    let (_, rest) = text.split_once("permissions to run the '")?;
    rest.split_once('\'').map(|(command, _)| command.to_owned())
}

#[cfg(test)]
mod tests {
    use std::io;

    use redis::Value;

    use super::*;

    /// Parses an error reply of Redis.
    fn answered(text: &str) -> RedisError {
        let answer = redis::parse_redis_value(format!("-{text}\r\n").as_bytes());
        answer.and_then(Value::extract_error).expect_err("it is an error")
    }

    fn io(kind: io::ErrorKind) -> RedisError {
        io::Error::from(kind).into()
    }

    #[test]
    fn answers_of_redis_keep_the_name_that_redis_gives_them() {
        for name in ["NOAUTH", "WRONGPASS", "NOPERM", "OOM", "MISCONF", "READONLY", "NOREPLICAS", "BUSY", "LOADING"] {
            assert_eq!(Reason::of(&answered(&format!("{name} some text"))).name(), name);
        }
        for name in ["MASTERDOWN", "CLUSTERDOWN"] {
            assert_eq!(Reason::of(&answered(&format!("{name} some text"))).name(), name);
        }
        assert_eq!(Reason::of(&answered("MOVED 1 127.0.0.1:1")), Reason::Moved);
        assert_eq!(Reason::of(&answered("ERR syntax error")), Reason::Version);
        assert_eq!(Reason::of(&answered("ERR max number of clients reached")), Reason::MaxClients);
        assert_eq!(Reason::of(&answered("ERR something")), Reason::Other);
        let old = super::super::server::check("redis_version:6.2.5\r\n").expect_err("it is too old");
        assert_eq!(Reason::of(&old), Reason::Version);
        assert!(text(&old).starts_with("Redis 6.2.5: jobtrack needs Redis 7.0"));
    }

    #[test]
    fn connections_that_fail_are_told_apart() {
        use io::ErrorKind::{ConnectionRefused, ConnectionReset, HostUnreachable, TimedOut, UnexpectedEof};
        assert_eq!(Reason::of(&io(TimedOut)), Reason::Timeout);
        assert_eq!(Reason::of(&io(ConnectionRefused)), Reason::Refused);
        assert_eq!(Reason::of(&io(ConnectionReset)), Reason::Lost);
        assert_eq!(Reason::of(&io(UnexpectedEof)), Reason::Lost);
        assert_eq!(Reason::of(&io(HostUnreachable)), Reason::Unreachable);
        let node: RedisError = (ErrorKind::AuthenticationFailed, "Password authentication failed").into();
        let cluster = (ErrorKind::Io, "Failed to create initial connections", node.to_string());
        assert_eq!(Reason::of(&cluster.into()), Reason::WrongPass);
    }

    #[test]
    fn a_forbidden_command_is_named() {
        let forbidden = answered("NOPERM User tracker has no permissions to run the 'evalsha' command");
        assert_eq!(forbidden_command(&forbidden).as_deref(), Some("evalsha"));
        assert_eq!(forbidden_command(&answered("NOPERM No permissions to access a key")), None);
    }

    #[test]
    fn arguments_that_redis_repeats_are_left_out() {
        let error = answered("ERR unknown command 'AUTH', with args beginning with: 's3cret' ");
        assert_eq!(text(&error), "unknown command 'AUTH'");
    }
}
