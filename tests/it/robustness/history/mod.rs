//! The recorded history of what clients saw during faults, and its check against the promises of the service.

mod broken;
mod broken_service;
mod broken_time;
mod check;
mod decisions;
mod example;
mod jobs;
mod missing;
mod owners;
mod record;
mod recorder;
mod returns;
mod stops;
mod streams;

pub use check::{Violation, check};
pub use record::{
    AUDITOR, Act, Answer, At, Call, Death, Ending, Entry, Face, Fault, Heard, History, Shown, Stop, Stream, Terms,
};
pub use recorder::Recorder;
pub use returns::check_returns;
