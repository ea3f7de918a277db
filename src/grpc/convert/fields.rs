//! Readers of the fields of a request, which record violations.

use std::{
    collections::{BTreeSet, HashMap},
    ops::RangeBounds,
    time::Duration,
};

use prost::Message;
use uuid::Uuid;

use crate::{
    domain::{
        Cursor, Document, Illegal, JobError, JobId, Labels, Liveness, MAX_DURATION, MAX_LABEL_KEY, MAX_LABEL_VALUE,
        MAX_LABELS, State, Timestamp, Violation,
    },
    proto::{EncodedStruct, v1},
};

/// Description of the violation of a request that can't be decoded.
pub const UNDECODABLE: &str = "can't be decoded as the message that this method takes";

/// Violations found in a request so far. Each reader returns the field's value. If the value is invalid, the reader
/// records a violation and returns a placeholder, which is never used, because [`done`](Self::done) then fails.
#[derive(Default)]
pub struct Fields {
    violations: Vec<Violation>,
}

impl Fields {
    /// Passes `value` on if no violation was noted.
    pub fn done<T>(self, value: T) -> Result<T, JobError> {
        if self.violations.is_empty() { Ok(value) } else { Err(JobError::Invalid(self.violations)) }
    }

    /// Notes a violation.
    pub fn refuse(&mut self, field: impl Into<String>, description: impl Into<String>) {
        self.violations.push(Violation { field: field.into(), description: description.into() });
    }

    /// Reads a job's id.
    pub fn id(&mut self, field: &str, raw: &str) -> JobId {
        JobId::parse(raw).unwrap_or_else(|| {
            self.refuse(field, "must be 1 to 128 characters of A-Z a-z 0-9 . _ : -");
            JobId::from(Uuid::nil())
        })
    }

    /// Reads a text of at most `max` bytes.
    pub fn text(&mut self, field: &str, text: String, max: usize) -> String {
        if text.len() > max {
            self.refuse(field, format!("must be at most {max} bytes long, and is {}", text.len()));
        }
        text
    }

    /// Reads a number within `range`, which `words` describes.
    pub fn number<T: PartialOrd>(
        &mut self,
        field: &str,
        number: Option<T>,
        range: impl RangeBounds<T>,
        words: &str,
    ) -> Option<T> {
        if number.as_ref().is_some_and(|number| !range.contains(number)) {
            self.refuse(field, format!("must be {words}"));
        }
        number
    }

    /// Reads a Struct of at most `max` encoded bytes.
    pub fn document(&mut self, field: &str, from: Option<EncodedStruct>, max: usize) -> Option<Document> {
        let from = from?;
        let size = from.encoded_len();
        if size > max {
            self.refuse(field, format!("must be at most {max} bytes encoded, and is {size}"));
            return None;
        }
        match Document::parse(from.into()) {
            Ok(document) => return Some(document),
            // Decoding a request skips its documents, so a malformed one is found only here.
            Err(Illegal::Malformed) => self.refuse("request", UNDECODABLE),
            Err(problem) => self.refuse(field, problem.to_string()),
        }
        None
    }

    /// Reads a duration from zero to [`MAX_DURATION`], rounded up to microseconds.
    pub fn duration(&mut self, field: &str, from: Option<prost_types::Duration>) -> Option<Duration> {
        let from = from?;
        let nanos = u32::try_from(from.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
        let duration = u64::try_from(from.seconds).ok().zip(nanos).map(|(seconds, nanos)| {
            let micros = Duration::from_micros(nanos.div_ceil(1000).into());
            Duration::from_secs(seconds).saturating_add(micros)
        });
        let duration = duration.filter(|duration| *duration <= MAX_DURATION);
        if duration.is_none() {
            self.refuse(field, "must be a duration from 0 to 3650 days");
        }
        duration
    }

    /// Reads a point in time, rounded up to microseconds.
    pub fn timestamp(&mut self, field: &str, from: Option<prost_types::Timestamp>) -> Option<Timestamp> {
        /// The years 1 to 9999, as protobuf's Timestamp has them.
        const YEARS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;
        let from = from?;
        if !YEARS.contains(&from.seconds) || !(0..1_000_000_000).contains(&from.nanos) {
            self.refuse(field, "must be a time of the years 1 to 9999");
            return None;
        }
        let micros = i64::from(from.nanos).saturating_add(999) / 1000;
        Some(Timestamp::from_micros(from.seconds * 1_000_000 + micros))
    }

    /// Reads a job's labels.
    pub fn labels(&mut self, field: &str, labels: HashMap<String, String>) -> Labels {
        let too_long = |(key, value): (&String, &String)| {
            key.is_empty() || key.len() > MAX_LABEL_KEY || value.len() > MAX_LABEL_VALUE
        };
        if labels.len() > MAX_LABELS {
            self.refuse(field, format!("must be at most {MAX_LABELS} pairs, and are {}", labels.len()));
        } else if labels.iter().any(too_long) {
            let keys = format!("keys of 1 to {MAX_LABEL_KEY} bytes");
            self.refuse(field, format!("must have {keys} and values of at most {MAX_LABEL_VALUE}"));
        }
        labels.into_iter().collect()
    }

    /// Reads states by their numbers.
    pub fn states(&mut self, field: &str, numbers: Vec<i32>) -> Vec<State> {
        let states: Option<Vec<_>> = numbers.into_iter().map(state).collect();
        states.unwrap_or_else(|| {
            self.refuse(field, "must be states of a job: PENDING, RUNNING, SUCCEEDED, FAILED or CANCELLED");
            Vec::new()
        })
    }

    /// Reads a page token: returns the position in a list, or `None` if the token is empty. A token with another
    /// `digest` is a violation: `origin` describes the answer that the token must be from.
    pub fn cursor(&mut self, field: &str, token: &str, digest: Uuid, origin: &str) -> Option<Cursor> {
        let cursor = Cursor::from_token(token, digest);
        if cursor.is_none() && !token.is_empty() {
            self.refuse(field, format!("must be the next_page_token of {origin}"));
        }
        cursor
    }

    /// Reads kinds of liveness by their numbers.
    pub fn liveness(&mut self, field: &str, numbers: Vec<i32>) -> BTreeSet<Liveness> {
        let liveness: Option<_> = numbers.into_iter().map(liveness).collect();
        liveness.unwrap_or_else(|| {
            self.refuse(field, "must be LIVENESS_LIVE or LIVENESS_LOST");
            BTreeSet::new()
        })
    }

    /// Reads a prefix of ids.
    pub fn id_prefix(&mut self, field: &str, prefix: String) -> String {
        // Each prefix of an id is a valid id itself, unless it is empty.
        if !prefix.is_empty() && JobId::parse(&prefix).is_none() {
            self.refuse(field, "must be at most 128 characters of A-Z a-z 0-9 . _ : -");
        }
        prefix
    }
}

fn liveness(number: i32) -> Option<Liveness> {
    match v1::Liveness::try_from(number).ok()? {
        v1::Liveness::Unspecified => None,
        v1::Liveness::Live => Some(Liveness::Live),
        v1::Liveness::Lost => Some(Liveness::Lost),
    }
}

fn state(number: i32) -> Option<State> {
    match v1::job::State::try_from(number).ok()? {
        v1::job::State::Unspecified => None,
        v1::job::State::Pending => Some(State::Pending),
        v1::job::State::Running => Some(State::Running),
        v1::job::State::Succeeded => Some(State::Succeeded),
        v1::job::State::Failed => Some(State::Failed),
        v1::job::State::Cancelled => Some(State::Cancelled),
    }
}
