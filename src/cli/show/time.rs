//! Times relative to now.

use std::time::{Duration, SystemTime};

use jobtrack_client::Job;
use prost_types::Timestamp;

/// Units of time: the number of seconds from which the next unit is used, the length in seconds, and the suffix.
const UNITS: [(u64, u64, &str); 3] = [(120, 1, "s"), (120 * 60, 60, "m"), (48 * 3600, 3600, "h")];

/// Returns a duration as a whole number of one unit: `90s`, `12m`, `5h`, `3d`.
pub fn age(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let unit = UNITS.iter().find(|(limit, ..)| seconds < *limit);
    unit.map_or_else(|| format!("{}d", seconds / 86400), |(_, length, unit)| format!("{}{unit}", seconds / length))
}

/// Returns a duration as minutes and seconds, with hours if there are any: `0:07`, `1:02:03`.
pub fn clock(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    if hours > 0 { format!("{hours}:{minutes:02}:{seconds:02}") } else { format!("{minutes}:{seconds:02}") }
}

/// Returns the time from `from` to `to`. A later `from` gives zero, because the clocks of two machines may differ.
pub fn between(from: Option<&Timestamp>, to: SystemTime) -> Option<Duration> {
    let from = SystemTime::try_from(*from?).ok()?;
    Some(to.duration_since(from).unwrap_or_default())
}

/// Returns the time from the start of a job until its end or until now; `None` before the start.
pub fn elapsed(job: &Job, now: SystemTime) -> Option<Duration> {
    let end = job.end_time.and_then(|end| SystemTime::try_from(end).ok());
    between(job.start_time.as_ref(), end.unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_shown_in_their_largest_unit() {
        let shown = [0, 119, 120, 7199, 7200, 172_799, 172_800].map(|seconds| age(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0s", "119s", "2m", "119m", "2h", "47h", "2d"]);
        let shown = [7, 3599, 3723].map(|seconds| clock(Duration::from_secs(seconds)));
        assert_eq!(shown, ["0:07", "59:59", "1:02:03"]);
    }

    #[test]
    fn future_counts_as_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10);
        let at = |seconds| between(Some(&Timestamp { seconds, nanos: 0 }), now);
        assert_eq!((at(4), at(11)), (Some(Duration::from_secs(6)), Some(Duration::ZERO)));
    }
}
