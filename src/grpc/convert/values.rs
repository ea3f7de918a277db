//! Counts, times and states as protobuf values.

use std::time::Duration;

use crate::{
    domain::{State, Timestamp},
    proto::v1,
};

/// Returns a count; a count that is too large becomes `i64::MAX`.
pub fn count(from: u64) -> i64 {
    i64::try_from(from).unwrap_or(i64::MAX)
}

/// Returns a state.
pub fn state(from: State) -> v1::job::State {
    match from {
        State::Pending => v1::job::State::Pending,
        State::Running => v1::job::State::Running,
        State::Succeeded => v1::job::State::Succeeded,
        State::Failed => v1::job::State::Failed,
        State::Cancelled => v1::job::State::Cancelled,
    }
}

/// Returns a time.
#[expect(clippy::cast_possible_truncation, reason = "the remainder of a million, times a thousand, fits")]
pub fn timestamp(from: Timestamp) -> prost_types::Timestamp {
    let micros = from.as_micros();
    let nanos = micros.rem_euclid(1_000_000) * 1000;
    prost_types::Timestamp { seconds: micros.div_euclid(1_000_000), nanos: nanos as i32 }
}

/// Returns a duration.
#[expect(clippy::cast_possible_wrap, reason = "nanoseconds are below a billion")]
pub fn duration(from: Duration) -> prost_types::Duration {
    prost_types::Duration { seconds: count(from.as_secs()), nanos: from.subsec_nanos() as i32 }
}
