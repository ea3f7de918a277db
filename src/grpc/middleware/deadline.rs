//! Deadlines: every unary call ends by its caller's, or by ours if the caller has none.

use std::time::Duration;

use http::{HeaderMap, HeaderName};
use tokio::time::Instant;

/// For calls without a deadline of their own: a unary answer must have been read by then, a stream have begun.
const DEFAULT: Duration = Duration::from_secs(5);

/// The longest that a unary call may take, and that a stream may take to begin, whatever its caller says.
const MAX: Duration = Duration::from_secs(60);

/// A name that is looked up as it is: one that is given as text would be read again for each call.
static GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");

/// When a call must have ended.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    given: Option<Instant>,
    arrived: Instant,
}

impl Deadline {
    /// Takes `grpc-timeout` out: tonic's own timer would answer CANCELLED. One that is malformed counts as none.
    pub fn take(headers: &mut HeaderMap) -> Self {
        let timeout = headers.remove(&GRPC_TIMEOUT).and_then(|value| parse(value.to_str().ok()?));
        let arrived = Instant::now();
        Self { given: timeout.and_then(|timeout| arrived.checked_add(timeout)), arrived }
    }

    /// When the call came.
    pub const fn arrived(&self) -> Instant {
        self.arrived
    }

    /// When the response must have begun; that of a unary call must then have been read. Callers whom nobody `knows` have
    /// no more time than those without a deadline.
    pub fn for_response(&self, knows: bool) -> Instant {
        let default = self.arrived + DEFAULT;
        self.given.map_or(default, |given| given.min(if knows { self.arrived + MAX } else { default }))
    }

    /// When the caller's own deadline passes, if there is one.
    pub const fn given(&self) -> Option<Instant> {
        self.given
    }

    /// Whether the caller no longer waits.
    pub fn has_passed(&self) -> bool {
        self.given.is_some_and(|deadline| deadline <= Instant::now())
    }

    /// What is left of the caller's own deadline, if there is one.
    pub fn remaining(&self) -> Option<Duration> {
        self.given.map(|deadline| deadline.saturating_duration_since(Instant::now()))
    }
}

/// A number of at most 8 digits and a unit.
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
