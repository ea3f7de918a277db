//! Points in time, in microseconds: the resolution of Redis's clock, and exact as a double in a sorted set.

use std::{
    fmt::{self, Debug, Display, Formatter},
    num::NonZeroU64,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// The maximum duration in a job: ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Microseconds since the Unix epoch. The representation makes `Option<Timestamp>` as small as `Timestamp`, because a
/// job has a dozen of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "i64", into = "i64")]
pub struct Timestamp(
    /// The microseconds with their sign bit inverted, which preserves their order. 0 would stand for `i64::MIN`, which
    /// is not a valid time.
    NonZeroU64,
);

const SIGN: u64 = 1 << 63;

impl Timestamp {
    /// The earliest point in time.
    pub const MIN: Self = Self::from_micros(i64::MIN + 1);
    /// The latest point in time.
    pub const MAX: Self = Self::from_micros(i64::MAX);

    /// Returns the time `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        match NonZeroU64::new(micros.cast_unsigned() ^ SIGN) {
            Some(inverted) => Self(inverted),
            None => Self(NonZeroU64::MIN),
        }
    }

    /// Returns the microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        (self.0.get() ^ SIGN).cast_signed()
    }

    /// Returns the time one microsecond later.
    pub const fn next(self) -> Self {
        self.moved(1)
    }

    /// Returns the time this number of microseconds later, or earlier if it is negative.
    #[must_use]
    pub const fn moved(self, by: i64) -> Self {
        Self::from_micros(self.as_micros().saturating_add(by))
    }

    /// Formats the time as RFC 3339: `2026-01-31T12:00:00.250Z`.
    pub fn rfc3339(self) -> impl Display {
        let since_epoch = Duration::from_micros(u64::try_from(self.as_micros()).unwrap_or_default());
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch)
    }

    /// Returns the time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.as_micros().saturating_sub(earlier.as_micros()).try_into().unwrap_or(0))
    }
}

impl Default for Timestamp {
    fn default() -> Self {
        Self::from_micros(0)
    }
}

impl Debug for Timestamp {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "Timestamp({})", self.as_micros())
    }
}

impl From<i64> for Timestamp {
    fn from(micros: i64) -> Self {
        Self::from_micros(micros)
    }
}

impl From<Timestamp> for i64 {
    fn from(time: Timestamp) -> Self {
        time.as_micros()
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        self.moved(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        self.moved(-i64::try_from(duration.as_micros()).unwrap_or(i64::MAX))
    }
}
