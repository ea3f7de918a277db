//! The outcome of a job.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::Document;

/// A number of `google.rpc.Code` other than OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailureCode(i32);

impl FailureCode {
    /// No more specific code is known.
    pub const UNKNOWN: Self = Self(2);
    /// A time limit was exceeded.
    pub const DEADLINE_EXCEEDED: Self = Self(4);

    /// Accepts `code` if it is 1 to 16.
    pub fn parse(code: i32) -> Option<Self> {
        (1..=16).contains(&code).then_some(Self(code))
    }

    /// Returns the number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// The reason for a failure.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The code.
    pub code: FailureCode,
    /// The reason, for programs; may be empty.
    pub reason: String,
    /// The description, for people.
    pub message: String,
    /// The worker's own data.
    pub details: Option<Document>,
}

impl Failure {
    /// Cuts the message to `max` bytes.
    pub fn shorten(&mut self, max: usize) {
        self.message = cut(std::mem::take(&mut self.message), max);
    }
}

/// Marks the end of a text that was cut.
const CUT: &str = "…";

/// Cuts a text to `max` bytes, at a character boundary.
pub fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max.saturating_sub(CUT.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(CUT);
    }
    text
}

/// The outcome of a job that ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The result of a job that succeeded.
    Result(Document),
    /// The failure of a job that failed. Boxed because few jobs fail: every job would otherwise be larger.
    Failure(Box<Failure>),
}
