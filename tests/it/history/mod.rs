//! What clients saw of the service while it was mistreated, held against what it promises.

mod broken;
mod check;
mod example;
mod jobs;
mod record;
mod streams;

pub use check::{Violation, check};
pub use record::{
    AUDITOR, Act, Answer, At, Call, Death, Ending, Entry, Fault, Heard, History, Recorder, Shown, Stream, Terms,
};
