//! The values of flags: what each may be. The errors say what to write.

use std::time::Duration;

use super::OFF;
use crate::domain::MAX_DURATION;

pub fn duration(text: &str) -> Result<Duration, String> {
    let duration = match text {
        "0" => Duration::ZERO,
        text => humantime::parse_duration(text).map_err(|_| "write it as 250ms, 1s, 12h or 7d, or 0")?,
    };
    if duration > MAX_DURATION { Err("it is more than 3650 days".to_owned()) } else { Ok(duration) }
}

pub fn connections(text: &str) -> Result<u32, String> {
    text.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or_else(|| "it must be 1 to 1000".to_owned())
}

pub fn timeout(text: &str) -> Result<Duration, String> {
    let limits = Duration::from_millis(10)..=Duration::from_secs(4);
    let time = duration(text)?;
    if limits.contains(&time) { Ok(time) } else { Err("it must be 10ms to 4s".to_owned()) }
}

pub fn count(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or_else(|| "it must be a whole number from 1".to_owned())
}

/// Parses the prefix of keys. The keys of two prefixes are apart because each prefix ends with its only last colon, and
/// because none ends as that of an index: the indexes of `job:` are under `jobs:`.
pub fn key_prefix(text: &str) -> Result<String, String> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'*' | b'?' | b'[' | b']');
    let is_plain = (2..=128).contains(&text.len()) && text.bytes().all(allowed);
    if is_plain && text.ends_with(':') && !text.ends_with("::") && !text.ends_with("s:") {
        Ok(text.to_owned())
    } else {
        Err("it must be visible ASCII without {}*?[], end with one colon, but not with s:".to_owned())
    }
}

/// Checks that an address has a host and a port. The host may still be unknown.
pub fn host_port(text: &str) -> Result<String, String> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_in_brackets = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty() && (is_in_brackets || !host.contains(['[', ']', ':', '/', ' ']));
        is_host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    let advice = "it must be HOST:PORT, such as 127.0.0.1:50051, 0.0.0.0:50051 or [::]:50051";
    if is_address { Ok(text.to_owned()) } else { Err(advice.to_owned()) }
}

/// Checks an address as [`host_port`] does, or takes [`OFF`].
pub fn host_port_or_off(text: &str) -> Result<String, String> {
    if text == OFF { Ok(text.to_owned()) } else { host_port(text).map_err(|advice| format!("{advice}, or {OFF}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_that_would_share_keys_are_refused() {
        for prefix in ["job:", "a::b:", "jobtrack:", "team.jobs.x:"] {
            assert_eq!(key_prefix(prefix), Ok(prefix.to_owned()));
        }
        for prefix in ["", ":", "::", "job", "job::", "job:::", "jobs:", "job:s:", "j{1}:", "j*:", "j b:"] {
            assert!(key_prefix(prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn an_address_has_a_host_and_a_port() {
        for address in ["127.0.0.1:0", "localhost:50051", "[::1]:65535", "my-host.example:1"] {
            assert_eq!(host_port(address), Ok(address.to_owned()));
        }
        for address in ["", "nonsense", ":50051", "h:", "h:+1", "h:65536", "::1:50051", "[::1]", "http://h:1", "off"] {
            assert!(host_port(address).is_err(), "{address:?}");
        }
        assert_eq!(host_port_or_off("off"), Ok("off".to_owned()));
        assert!(host_port_or_off("of").is_err_and(|advice| advice.contains("off")));
    }
}
