//! Jobs as people read them.

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

/// Dim text, which matters less.
pub const DIM: Style = Style::new().dimmed();

/// Text that needs attention.
pub const WARNING: Style = AnsiColor::Yellow.on_default();

/// Returns the colour of a state.
pub fn style(job: &Job) -> Style {
    match job.state() {
        State::Running => AnsiColor::Cyan.on_default(),
        State::Succeeded => AnsiColor::Green.on_default(),
        State::Failed => AnsiColor::Red.on_default(),
        State::Cancelled => WARNING,
        State::Pending | State::Unspecified => Style::new(),
    }
}

/// Returns text in a style. It is plain again where it is written to something else than a terminal.
pub fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}
