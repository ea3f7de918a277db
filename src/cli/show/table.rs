//! Jobs in a table.

use std::time::SystemTime;

use anstream::{AutoStream, ColorChoice};
use comfy_table::{Cell, CellAlignment, Color, Table, presets};
use jobtrack_client::{
    Job, State,
    proto::v1::{Durability, Liveness},
};

use super::{age, notes, percent, stage, time::between, units};
use crate::cli::text::escape;

/// Columns of each table, and the additional columns of a wide table.
const COLUMNS: [&str; 8] = ["ID", "KIND", "TITLE", "STATE", "PROGRESS", "UNITS", "STAGE", "AGE"];
const WIDE: [&str; 6] = ["OWNER", "WORKER", "ATTEMPT", "LIVENESS", "UPDATED", "DURABILITY"];

/// Returns jobs in a table with a heading.
pub fn table(jobs: &[Job], is_wide: bool, now: SystemTime) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(if is_wide {
        [&COLUMNS[..], &WIDE].concat()
    } else {
        COLUMNS.into()
    });
    let has_colours = AutoStream::choice(&std::io::stdout()) != ColorChoice::Never;
    if has_colours {
        table.enforce_styling()
    } else {
        table.force_no_tty()
    };
    table.add_rows(jobs.iter().map(|job| row(job, is_wide, now)));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    for column in [4, 5] {
        table.column_mut(column).expect("a column of each table").set_cell_alignment(CellAlignment::Right);
    }
    let lines = table.lines().map(|line| line.trim_end().to_owned() + "\n");
    lines.collect()
}

fn row(job: &Job, is_wide: bool, now: SystemTime) -> Vec<Cell> {
    let text = |text: &str| Cell::new(escape(text));
    let ago = |time| between(time, now).map(age).unwrap_or_default();
    let mut row = vec![text(&job.id), text(&job.kind), text(&job.title), state(job)];
    row.extend([percent(job), units(job), stage(job), ago(job.create_time.as_ref())].map(Cell::new));
    if is_wide {
        let liveness = match job.liveness() {
            Liveness::Live => "LIVE",
            Liveness::Lost => "LOST",
            Liveness::Unspecified => "",
        };
        let durability = match job.durability() {
            Durability::Durable => "DURABLE",
            Durability::Volatile => "VOLATILE",
            Durability::Unspecified => "",
        };
        row.extend([text(&job.owner), text(&job.worker), Cell::new(job.attempt), Cell::new(liveness)]);
        row.extend([Cell::new(ago(job.update_time.as_ref())), Cell::new(durability)]);
    }
    row
}

/// Returns the state, with a note if the worker is lost or cancellation was requested.
fn state(job: &Job) -> Cell {
    let note = notes(job).into_iter().find(|note| *note != "VOLATILE").map(|note| format!(" {note}"));
    let cell = Cell::new(format!("{}{}", job.state_name(), note.as_deref().unwrap_or_default()));
    match job.state() {
        _ if note.is_some() => cell.fg(Color::Yellow),
        State::Running => cell.fg(Color::Cyan),
        State::Succeeded => cell.fg(Color::Green),
        State::Failed => cell.fg(Color::Red),
        State::Cancelled => cell.fg(Color::Yellow),
        State::Pending | State::Unspecified => cell,
    }
}
