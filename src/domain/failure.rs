//! What came of a job.

use serde::{Deserialize, Serialize};
use serde_with::skip_serializing_none;

use super::Document;

/// A number of `google.rpc.Code` other than OK.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FailureCode(i32);

impl FailureCode {
    /// Nothing more is known.
    pub const UNKNOWN: Self = Self(2);
    /// It took too long.
    pub const DEADLINE_EXCEEDED: Self = Self(4);

    /// Takes `code` for one if it is 1 to 16.
    pub fn parse(code: i32) -> Option<Self> {
        (1..=16).contains(&code).then_some(Self(code))
    }

    /// The number.
    pub const fn get(self) -> i32 {
        self.0
    }
}

/// Why a job failed.
#[skip_serializing_none]
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// What sort of failure.
    pub code: FailureCode,
    /// What happened, for programs; may be empty.
    pub reason: String,
    /// What happened, for people.
    pub message: String,
    /// The worker's own data.
    pub details: Option<Document>,
}

impl Failure {
    /// Cuts the message at `max` bytes.
    pub fn shorten(&mut self, max: usize) {
        self.message = cut(std::mem::take(&mut self.message), max);
    }
}

/// The end of a text that was cut.
const CUT: &str = "…";

/// Returns text for people, cut at `max` bytes, at a character boundary.
pub fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        let end = (0..=max.saturating_sub(CUT.len())).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or_default());
        text.push_str(CUT);
    }
    text
}

/// What came of a job.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It was completed, with this.
    Result(Document),
    /// It failed. Boxed, since few jobs do: every job would be larger by it.
    Failure(Box<Failure>),
}
