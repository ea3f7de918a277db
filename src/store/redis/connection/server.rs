//! The reply to `INFO server`: servers that jobtrack can't use are rejected at every connection, because a failover may
//! lead to another server.

use redis::{ErrorKind, RedisError, RedisResult};

/// The servers that have all commands that jobtrack uses.
pub const REQUIRED: &str = "jobtrack needs Redis 7.0 or later, or Valkey 7.2 or later";

/// The fields with the version of a server, its name, and the first version that is new enough. Valkey reports the
/// version of the Redis that it is compatible with as well.
const VERSIONS: [(&str, &str, (u32, u32)); 2] =
    [("valkey_version", "Valkey", (7, 2)), ("redis_version", "Redis", (7, 0))];

/// Returns a field of a section of `INFO`.
pub fn field<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// Fails if the server with this reply is too old, or a Sentinel.
pub fn check(info: &str) -> RedisResult<()> {
    if field(info, "redis_mode") == Some("sentinel") {
        return Err(mistake("it is a Sentinel: write redis+sentinel://HOST,HOST/MASTER".to_owned()));
    }
    let version = VERSIONS.iter().find_map(|(name, server, least)| Some((field(info, name)?, server, least)));
    match version {
        Some((version, server, least)) if parse(version).is_some_and(|version| version < *least) => {
            Err(mistake(format!("{server} {version}: {REQUIRED}")))
        }
        _ => Ok(()),
    }
}

/// Returns the major and the minor version.
fn parse(version: &str) -> Option<(u32, u32)> {
    let mut numbers = version.split('.').map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

/// Returns a permanent error, which no retry solves.
pub fn mistake(problem: String) -> RedisError {
    (ErrorKind::InvalidClientConfig, "this server can't be used", problem).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(info: &str) -> Option<String> {
        check(info).err().and_then(|error| error.detail().map(str::to_owned))
    }

    #[test]
    fn servers_that_are_too_old_are_refused() {
        let said = "Redis 6.2.5: jobtrack needs Redis 7.0 or later, or Valkey 7.2 or later";
        assert_eq!(refusal("# Server\r\nredis_version:6.2.5\r\nredis_mode:standalone\r\n").as_deref(), Some(said));
        for old in ["5.0.14", "6.0.0", "6.9"] {
            assert!(refusal(&format!("redis_version:{old}\r\n")).is_some_and(|said| said.contains(old)), "{old}");
        }
        for new in ["7.0.0", "7.0.15", "7.4.1", "8.2.0", "10.0.0", "255.255.255", "7.0-rc1", "unknown", ""] {
            assert_eq!(refusal(&format!("redis_version:{new}\r\n")), None, "{new}");
        }
        let valkey = |version| format!("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:{version}\r\n");
        assert_eq!(refusal(&valkey("7.2.5")), None);
        assert_eq!(refusal(&valkey("9.1.2")), None);
        assert!(refusal(&valkey("7.1.0")).is_some_and(|said| said.starts_with("Valkey 7.1.0")));
    }

    #[test]
    fn a_sentinel_is_refused() {
        let said = refusal("redis_version:7.0.15\r\nredis_mode:sentinel\r\n");
        assert!(said.is_some_and(|said| said.contains("redis+sentinel://")));
    }
}
