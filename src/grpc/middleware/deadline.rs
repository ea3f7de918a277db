//! Deadlines: a unary call ends by its caller's deadline, or by a default one.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

/// Deadline of calls that have none: a unary answer must have been read by then, a stream must have begun.
const DEFAULT: Duration = Duration::from_secs(5);

/// Maximum time until a unary call has ended, or until a stream has begun, whatever deadline the caller sets.
const MAX: Duration = Duration::from_secs(60);

/// Name of the header, parsed once: a name given as text would be parsed again for each call.
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// Deadline of a call.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    given: Option<Instant>,
    arrived: Instant,
}

impl Deadline {
    /// Reads the deadline from the header `grpc-timeout`. Removes the header, because tonic's own timer would end the
    /// call with CANCELLED. A malformed value counts as absent.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let timeout = headers.remove(&GRPC_TIMEOUT).and_then(|value| parse(value.to_str().ok()?));
        let arrived = Instant::now();
        Self { given: timeout.and_then(|timeout| arrived.checked_add(timeout)), arrived }
    }

    /// Returns the time at which the call arrived.
    pub const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// Returns the time by which a stream must have begun, or the response of a unary call must have been read.
    /// Unauthenticated callers have at most the default time, whatever deadline they set.
    pub fn for_response(&self, is_authenticated: bool) -> Instant {
        let default = self.arrived + DEFAULT;
        self.given.map_or(default, |given| given.min(if is_authenticated { self.arrived + MAX } else { default }))
    }

    /// Returns the caller's own deadline, if there is one.
    pub const fn given(&self) -> Option<Instant> {
        self.given
    }

    /// Returns whether the caller's own deadline has passed.
    pub fn has_passed(&self) -> bool {
        self.given.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// Returns the time that remains until the caller's own deadline, if there is one.
    pub fn remaining(&self) -> Option<Duration> {
        self.given.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// Parses a number of at most 8 digits and a unit.
fn parse(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(number * 3600)),
        "M" => Some(Duration::from_secs(number * 60)),
        "S" => Some(Duration::from_secs(number)),
        "m" => Some(Duration::from_millis(number)),
        "u" => Some(Duration::from_micros(number)),
        "n" => Some(Duration::from_nanos(number)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_as_grpc_writes_them() {
        assert_eq!(parse("1H"), Some(Duration::from_secs(3600)));
        assert_eq!(parse("99999999n"), Some(Duration::from_nanos(99_999_999)));
        assert_eq!(parse("250m"), Some(Duration::from_millis(250)));
        for malformed in ["", "m", "1", "1x", "-1S", "123456789S", "1.5S", "é"] {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
    }
}
