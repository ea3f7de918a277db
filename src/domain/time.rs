//! Points in time, in microseconds: what Redis's clock gives and what a double in a sorted set holds exactly.

use std::{
    fmt::Display,
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// The longest duration that a job may carry: ten years.
pub const MAX_DURATION: Duration = Duration::from_secs(3650 * 24 * 3600);

/// Microseconds since the Unix epoch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest point in time.
    pub const MIN: Self = Self(i64::MIN);
    /// The latest point in time.
    pub const MAX: Self = Self(i64::MAX);

    /// The point `micros` microseconds after the Unix epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// Microseconds since the Unix epoch.
    pub const fn as_micros(self) -> i64 {
        self.0
    }

    /// The next point that can be told from this one.
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The point this number of microseconds later, or earlier if it is negative.
    #[must_use]
    pub const fn moved(self, by: i64) -> Self {
        Self(self.0.saturating_add(by))
    }

    /// Formats it for people and programs: `2026-01-31T12:00:00.250Z`.
    pub fn rfc3339(self) -> impl Display {
        let since_epoch = Duration::from_micros(u64::try_from(self.0).unwrap_or_default());
        humantime::format_rfc3339_millis(SystemTime::UNIX_EPOCH + since_epoch)
    }

    /// How long it is from `earlier` to here; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(self.0.saturating_sub(earlier.0).try_into().unwrap_or(0))
    }
}

impl std::ops::Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}

impl std::ops::Sub<Duration> for Timestamp {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }
}
