//! Jobs as text for people.

mod detail;
mod line;
mod progress;
mod table;
mod time;

pub use self::{
    detail::detail,
    line::line,
    progress::{notes, percent, stage, units},
    table::table,
    time::{age, between, clock, elapsed},
};

use anstyle::{AnsiColor, Style};
use jobtrack_client::{Job, State};

/// Style of secondary text.
pub const DIM: Style = Style::new().dimmed();

/// Style of text that needs attention.
pub const WARNING: Style = AnsiColor::Yellow.on_default();

/// Returns the style for the state of a job.
pub fn style(job: &Job) -> Style {
    match job.state() {
        State::Running => AnsiColor::Cyan.on_default(),
        State::Succeeded => AnsiColor::Green.on_default(),
        State::Failed => AnsiColor::Red.on_default(),
        State::Cancelled => WARNING,
        State::Pending | State::Unspecified => Style::new(),
    }
}

/// Returns text in a style. The functions that print it remove the style if the output is not a terminal.
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
