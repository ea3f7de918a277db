//! Parsers of the values of flags. The errors say what to write.

use std::{net::IpAddr, time::Duration};

use bytesize::ByteSize;
use thiserror::Error;

use super::OFF;
use crate::domain::MAX_DURATION;

/// An invalid value of a flag. The text says what to write.
#[derive(Debug, PartialEq, Eq, Error)]
pub enum InvalidValue {
    #[error("write it as 250ms, 1s, 12h or 7d, or 0")]
    Duration,
    #[error("it is more than 3650 days")]
    DurationTooLong,
    #[error("it must be 1 to 1000")]
    Connections,
    #[error("it must be 10ms to 4s")]
    Timeout,
    #[error("it must be a whole number from 1")]
    Count,
    #[error("it must be 2 to 128 visible ASCII characters without {{}}*?[], and end with one colon, but not with s:")]
    KeyPrefix,
    #[error("it must be HOST:PORT, such as 127.0.0.1:50051, 0.0.0.0:50051 or [::]:50051")]
    Address,
    #[error("{}, or {OFF}", Self::Address)]
    AddressOrOff,
    #[error("it must be a name or an address without a port, such as jobs.example.com")]
    Host,
    #[error("write it as 512MiB or 2GiB")]
    Bytes,
    #[error("it must be at least {0}")]
    TooFewBytes(ByteSize),
}

pub fn duration(text: &str) -> Result<Duration, InvalidValue> {
    let duration = match text {
        "0" => Duration::ZERO,
        text => humantime::parse_duration(text).map_err(|_| InvalidValue::Duration)?,
    };
    if duration > MAX_DURATION { Err(InvalidValue::DurationTooLong) } else { Ok(duration) }
}

pub fn connections(text: &str) -> Result<u32, InvalidValue> {
    text.parse().ok().filter(|count| (1..=1000).contains(count)).ok_or(InvalidValue::Connections)
}

pub fn timeout(text: &str) -> Result<Duration, InvalidValue> {
    let limits = Duration::from_millis(10)..=Duration::from_secs(4);
    let time = duration(text)?;
    if limits.contains(&time) { Ok(time) } else { Err(InvalidValue::Timeout) }
}

pub fn count(text: &str) -> Result<usize, InvalidValue> {
    text.parse().ok().filter(|count| *count > 0).ok_or(InvalidValue::Count)
}

/// Parses the prefix of keys. Keys of different prefixes never collide: a prefix ends with exactly one colon, and never
/// with `s:`, because index keys begin with such a prefix (those of `job:` with `jobs:`).
pub fn key_prefix(text: &str) -> Result<String, InvalidValue> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'{' | b'}' | b'*' | b'?' | b'[' | b']');
    let is_plain = (2..=128).contains(&text.len()) && text.bytes().all(allowed);
    if is_plain && text.ends_with(':') && !text.ends_with("::") && !text.ends_with("s:") {
        Ok(text.to_owned())
    } else {
        Err(InvalidValue::KeyPrefix)
    }
}

/// Checks that an address has a host and a port. The host is not resolved.
pub fn host_port(text: &str) -> Result<String, InvalidValue> {
    let is_address = text.rsplit_once(':').is_some_and(|(host, port)| {
        let is_in_brackets = host.starts_with('[') && host.ends_with(']');
        let is_host = !host.is_empty() && (is_in_brackets || !host.contains(['[', ']', ':', '/', ' ']));
        is_host && port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok()
    });
    if is_address { Ok(text.to_owned()) } else { Err(InvalidValue::Address) }
}

/// Checks an address as [`host_port`] does, or accepts [`OFF`].
pub fn host_port_or_off(text: &str) -> Result<String, InvalidValue> {
    if text == OFF { Ok(text.to_owned()) } else { host_port(text).map_err(|_| InvalidValue::AddressOrOff) }
}

/// Parses the name or the address of a host, without a port. Returns it in the form in which hosts are compared: names
/// have no dot at their end, and addresses have their shortest form.
pub fn host_name(text: &str) -> Result<String, InvalidValue> {
    let name = text.strip_suffix('.').unwrap_or(text);
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(address.to_string());
    }
    let is_part = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    if name.split('.').all(is_part) { Ok(name.to_owned()) } else { Err(InvalidValue::Host) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_whose_keys_could_collide_are_rejected() {
        for prefix in ["job:", "a::b:", "jobtrack:", "team.jobs.x:"] {
            assert_eq!(key_prefix(prefix), Ok(prefix.to_owned()));
        }
        for prefix in ["", ":", "::", "job", "job::", "job:::", "jobs:", "job:s:", "j{1}:", "j*:", "j b:"] {
            assert!(key_prefix(prefix).is_err(), "{prefix:?}");
        }
    }

    #[test]
    fn names_of_hosts_have_one_form() {
        for (text, name) in [
            ("jobs.internal", "jobs.internal"),
            ("jobs.internal.", "jobs.internal"),
            ("job_track-1", "job_track-1"),
            ("10.0.0.1", "10.0.0.1"),
            ("0:0::1", "::1"),
        ] {
            assert_eq!(host_name(text).as_deref(), Ok(name));
        }
        for bad in ["", ".", "a..b", ".a", "a:80", "[::1]", "http://a", "a b"] {
            assert!(host_name(bad).is_err(), "{bad:?}");
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
        assert!(host_port_or_off("of").is_err_and(|advice| advice.to_string().contains("off")));
    }
}
