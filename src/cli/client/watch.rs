//! `jobtrack watch`.

use std::{
    io::{self, IsTerminal},
    time::{Duration, SystemTime},
};

use clap::Args;
use jobtrack_client::{Error, Event, JobFilter, State};
use tokio::time::{Instant, sleep_until};

use super::{
    board::{CLOCK_INTERVAL, FRAME_INTERVAL, Frame, Lines, Rates},
    filter::Filter,
    follow::{Detail, Follow, News, Scope},
    watched::{Change, Messages, Watched, gone, missing},
};
use crate::cli::{
    connection::Connection,
    exit::{CommandError, Exit},
    output::{Format, Json, Output, note, print, print_job},
    show::line,
    text::escape,
};

/// Minimum time between two versions of a job, if fewer than [`LONG_INTERVAL_JOBS_MIN`] jobs are named.
const INTERVAL: Duration = Duration::from_millis(250);

/// Minimum time between two versions of a job, if there may be many jobs.
const LONG_INTERVAL: Duration = Duration::from_secs(1);

/// Number of named jobs from which the longer interval applies.
const LONG_INTERVAL_JOBS_MIN: usize = 20;

/// The jobs to watch.
#[derive(Args)]
#[command(after_help = "The exit code is 0 if all jobs have succeeded, 1 if one has failed, 3 if one was cancelled, \
                        4 if one does not exist.")]
pub struct Watch {
    /// Ids of the jobs, at most 1000; without ids all matching jobs are watched, without end
    #[arg(value_name = "ID", conflicts_with = "Filter")]
    ids: Vec<String>,

    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    connection: Connection,
}

/// The form in which changes are shown.
enum View {
    /// Bars on a terminal.
    Bars { lines: Lines, rates: Rates },
    /// A line for each change.
    Plain,
    /// JSON of each event.
    Events { json: Json, messages: Messages },
    /// JSON of each job at its end.
    Ends,
}

impl Watch {
    /// Shows the jobs as they change, until all named jobs have ended.
    pub async fn run(self) -> Result<Exit, CommandError> {
        let is_many = self.ids.is_empty() || self.ids.len() >= LONG_INTERVAL_JOBS_MIN;
        let scope =
            if self.ids.is_empty() { Scope::Filter(active(self.filter.into()).into()) } else { Scope::of(self.ids) };
        let interval = if is_many { LONG_INTERVAL } else { INTERVAL };
        let detail = Detail { interval, documents: self.output.format.is_json() };
        let mut follow = Follow::new(&self.connection, &scope, detail)?;
        let (mut watched, mut view) = (Watched::new(&scope), View::new(self.output.format));
        let (mut next_frame, mut is_changed) = (Instant::now(), true);
        while watched.exit().is_none() {
            let is_live = matches!(view, View::Bars { .. });
            let frame_at = if is_changed { next_frame } else { next_frame + CLOCK_INTERVAL - FRAME_INTERVAL };
            tokio::select! {
                news = follow.next() => {
                    match news? {
                        Some(News::Event(event)) => view.show(&mut watched, *event)?,
                        Some(News::Unavailable(error)) => view.tell(&unavailable(&error)),
                        Some(News::Available) => view.tell("the tracker is available again"),
                        None => break,
                    }
                    is_changed = true;
                }
                () = sleep_until(frame_at), if is_live => {
                    view.draw(&watched);
                    (next_frame, is_changed) = (Instant::now() + FRAME_INTERVAL, false);
                }
            }
        }
        view.end();
        Ok(watched.exit().unwrap_or(Exit::Done))
    }
}

/// Restricts a filter to jobs that have not ended, unless the filter names states.
pub fn active(mut filter: JobFilter) -> JobFilter {
    if filter.states.is_empty() {
        filter.states = [State::Pending, State::Running].map(Into::into).into();
    }
    filter
}

/// Returns the message about an error after which a watch reconnects.
pub fn unavailable(error: &Error) -> String {
    format!("the tracker is unavailable, trying again: {}", escape(&error.to_string()))
}

impl View {
    fn new(format: Format) -> Self {
        match format {
            Format::Json => Self::Ends,
            Format::Jsonl => {
                Self::Events { json: Json::of("WatchJobsResponse", format), messages: Messages::default() }
            }
            Format::Table | Format::Wide if io::stdout().is_terminal() => {
                Self::Bars { lines: Lines::new(), rates: Rates::default() }
            }
            Format::Table | Format::Wide => Self::Plain,
        }
    }

    /// Shows an event.
    fn show(&mut self, watched: &mut Watched, event: Event) -> Result<(), CommandError> {
        if let Self::Events { json, messages } = self {
            print(&messages.of(&event).map(|message| json.write(&message)).unwrap_or_default())?;
        }
        let now = SystemTime::now();
        match watched.apply(event) {
            Change::Active(job) => match self {
                Self::Bars { rates, .. } => rates.update(&job, now),
                Self::Plain => print(&line(&job, now))?,
                Self::Events { .. } | Self::Ends => {}
            },
            Change::Ended(job) | Change::Left(job) => {
                self.forget(&job.id, watched);
                match self {
                    Self::Bars { lines, .. } => lines.print(&line(&job, now)),
                    Self::Plain => print(&line(&job, now))?,
                    Self::Ends if job.has_ended() => print_job(Format::Json, &job, |_| String::new())?,
                    Self::Ends | Self::Events { .. } => {}
                }
            }
            Change::Removed(job, removal) => {
                self.forget(&job.id, watched);
                self.tell(&gone(&job.id, removal));
            }
            Change::Missing(ids) => {
                for id in &ids {
                    self.tell(&missing(id));
                }
            }
            Change::Synced | Change::Nothing => {}
        }
        Ok(())
    }

    /// Removes the bar of a job that is not followed any more. The line about its end is printed above the current
    /// frame, which must not show the job once more.
    fn forget(&mut self, id: &str, watched: &Watched) {
        if let Self::Bars { rates, .. } = self {
            rates.forget(id);
        }
        self.draw(watched);
    }

    /// Prints a message that belongs to no version of a job.
    fn tell(&self, text: &str) {
        match self {
            Self::Bars { lines, .. } => lines.print(text),
            Self::Plain | Self::Events { .. } | Self::Ends => note(text),
        }
    }

    fn draw(&self, watched: &Watched) {
        if let Self::Bars { lines, rates } = self {
            let frame = Frame { rates, stalled_after: Duration::MAX, now: SystemTime::now() };
            lines.draw(&frame.lines(watched.active(), lines.size()));
        }
    }

    fn end(&self) {
        if let Self::Bars { lines, .. } = self {
            lines.end();
        }
    }
}
